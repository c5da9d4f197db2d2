//! The audit: every cached entry on every ring shard against the table.

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use ringtide_core::entry::{Entry, State};
use ringtide_core::ring::Ring;
use serde_json::Value;

use super::DemoError;
use super::catalog::{Catalog, Category};

/// Examples that are kept of what is wrong.
const EXAMPLES: usize = 5;

/// What is cached, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Audit {
    /// Values that are what the table holds.
    pub(super) fresh: usize,
    /// Values that are not.
    pub(super) stale: usize,
    /// Absences of items that do not exist.
    pub(super) negative_right: usize,
    /// Absences of items that do.
    pub(super) negative_wrong: usize,
    /// Entries that no reader is given: invalidated, and kept for their floor or payload.
    pub(super) invalidated: usize,
    /// What is not where or what it should be: on another ring shard, or no entry at all.
    pub(super) misplaced: usize,
    /// Some of the keys that are stale, wrong or misplaced.
    pub(super) examples: Vec<String>,
}

impl Audit {
    /// Compares everything on these ring shards (their names and addresses) with the table by strongly consistent reads.
    pub(super) async fn run(shards: &[(String, String)], ring: &Ring, catalog: &Catalog) -> Result<Self, DemoError> {
        let mut audit = Self::default();
        for (name, address) in shards {
            let client = redis::Client::open(format!("redis://{address}/"))?;
            let mut connection = client.get_multiplexed_async_connection().await?;
            for key in keys(&mut connection).await? {
                if key.starts_with("lock:") {
                    continue;
                }
                let entry: Option<Vec<u8>> = redis::cmd("GET").arg(&key).query_async(&mut connection).await?;
                // It may have expired since it was listed.
                let Some(entry) = entry else { continue };
                if ring.owner(key.as_bytes()).name.as_str() != name {
                    audit.wrong(&key, "is on a ring shard that does not own it", |audit| &mut audit.misplaced);
                } else {
                    audit.compare(&key, &entry.into(), catalog).await?;
                }
            }
        }
        Ok(audit)
    }

    /// Entries that a reader may be given.
    pub(super) fn entries(&self) -> usize {
        self.fresh + self.stale + self.negative_right + self.negative_wrong
    }

    async fn compare(&mut self, key: &str, entry: &Bytes, catalog: &Catalog) -> Result<(), DemoError> {
        let (Ok(entry), Some(truth)) = (Entry::parse(entry), truth(key, catalog).await?) else {
            self.wrong(key, "is no entry of this demo", |audit| &mut audit.misplaced);
            return Ok(());
        };
        match (entry.header.state, truth.value) {
            (State::Tombstone | State::Stale, _) => self.invalidated += 1,
            (State::Negative, None) => self.negative_right += 1,
            (State::Negative, Some(_)) => {
                self.wrong(key, "exists and is cached as absent", |audit| &mut audit.negative_wrong);
            }
            (State::Value, Some(truth))
                if serde_json::from_slice::<Value>(&entry.payload).is_ok_and(|v| v == truth) =>
            {
                self.fresh += 1;
            }
            (State::Value, _) => self.wrong(key, "is stale", |audit| &mut audit.stale),
        }
        Ok(())
    }

    fn wrong(&mut self, key: &str, what: &str, counter: impl FnOnce(&mut Self) -> &mut usize) {
        *counter(self) += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(format!("{key} {what}"));
        }
    }
}

/// What the table holds for a key.
struct Truth {
    value: Option<Value>,
}

/// Loads what a key should hold; nothing for a key that the demo does not use.
async fn truth(key: &str, catalog: &Catalog) -> Result<Option<Truth>, DemoError> {
    let json = |value: Option<Result<Value, serde_json::Error>>| {
        value.transpose().map(|value| Some(Truth { value })).map_err(|error| DemoError::Table(error.to_string()))
    };
    if let Some(pk) = key.strip_prefix("product:") {
        return json(catalog.product(pk).await?.value.map(serde_json::to_value));
    }
    if let Some(pk) = key.strip_prefix("price:") {
        return json(catalog.price(pk).await?.value.map(serde_json::to_value));
    }
    let category = key.strip_prefix("category:").and_then(|rest| rest.strip_suffix(":top")).and_then(Category::parse);
    match category {
        Some(category) => json(catalog.top(category).await?.map(serde_json::to_value)),
        None => Ok(None),
    }
}

async fn keys(connection: &mut MultiplexedConnection) -> Result<Vec<String>, DemoError> {
    let (mut cursor, mut keys) = (0_u64, Vec::new());
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("COUNT").arg(500);
        let (next, page): (u64, Vec<String>) = scan.query_async(connection).await?;
        keys.extend(page);
        if next == 0 {
            // A scan may name a key twice.
            keys.sort_unstable();
            keys.dedup();
            return Ok(keys);
        }
        cursor = next;
    }
}
