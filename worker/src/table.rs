//! A table as commands read it: its primary key, and its items by strongly consistent reads.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{KeyType, KeysAndAttributes};
use ringtide_core::backoff::Backoff;
use ringtide_core::key::KeyPart;

use crate::aws::Failure;
use crate::item::{self, Item};

/// The most keys of one `BatchGetItem`.
pub(crate) const BATCH: usize = 100;
/// Calls in a row that may process nothing.
const IN_VAIN: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

/// The primary key of a table: names with their types, the hash key first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PrimaryKey {
    names: Vec<String>,
    types: Vec<String>,
}

/// What is read of a table before its items.
#[derive(Clone, Debug)]
pub(crate) struct Described {
    /// Its primary key.
    pub(crate) primary: PrimaryKey,
    /// About how many items it has, as DynamoDB counts every few hours.
    pub(crate) items: u64,
}

/// A failed call of a table.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TableError {
    /// The call failed, after the SDK's own tries.
    #[error("{call} on table {table} failed: {reason}")]
    Call {
        /// The call.
        call: &'static str,
        /// The table.
        table: String,
        /// Why.
        reason: String,
    },
    /// Call after call processed nothing.
    #[error("table {0} processes nothing any more; it lacks read capacity: lower --rate")]
    NoCapacity(String),
    /// Something that no table answers.
    #[error("table {table} answered with {what}")]
    Unexpected {
        /// The table.
        table: String,
        /// What it answered.
        what: String,
    },
}

impl PrimaryKey {
    #[cfg(test)]
    pub(crate) fn of<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let (names, types) = attributes.into_iter().map(|(name, kind)| (name.to_owned(), kind.to_owned())).unzip();
        Self { names, types }
    }

    /// The names of its attributes.
    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Its attributes with their types: `S`, `N`, `B`.
    pub(crate) fn attributes(&self) -> impl Iterator<Item = (&String, &str)> {
        self.names.iter().zip(self.types.iter().map(String::as_str))
    }

    /// A text that two equal keys have in common, whatever their numbers look like.
    pub(crate) fn identity(&self, item: &Item) -> Option<String> {
        let parts: Option<Vec<String>> =
            self.names.iter().map(|name| Some(format!("{:?}", KeyPart::of(item.get(name)?)?))).collect();
        Some(parts?.join("\u{0}"))
    }
}

/// Describes a table.
///
/// # Errors
/// [`TableError::Call`].
pub(crate) async fn describe(client: &Client, table: &str) -> Result<Described, TableError> {
    let failed = |reason| TableError::Call { call: "DescribeTable", table: table.to_owned(), reason };
    let output = client.describe_table().table_name(table).send().await;
    let output = output.map_err(|error| failed(Failure::of(&error).to_string()))?;
    let description = output.table.ok_or_else(|| failed("it says nothing".to_owned()))?;
    let types: HashMap<String, String> = description
        .attribute_definitions
        .unwrap_or_default()
        .into_iter()
        .map(|definition| (definition.attribute_name, definition.attribute_type.as_str().to_owned()))
        .collect();
    let mut keys = description.key_schema.unwrap_or_default();
    keys.sort_by_key(|key| key.key_type != KeyType::Hash);
    let names: Vec<String> = keys.into_iter().map(|key| key.attribute_name).collect();
    let types = names.iter().map(|name| types.get(name).cloned().unwrap_or_default()).collect();
    let items = description.item_count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default();
    Ok(Described { primary: PrimaryKey { names, types }, items })
}

/// Reads items by their keys, strongly consistent; those that do not exist are missing in the map, by [`PrimaryKey::identity`].
///
/// # Errors
/// [`TableError`], for all of them.
pub(crate) async fn read(
    client: &Client,
    table: &str,
    primary: &PrimaryKey,
    keys: &[Item],
) -> Result<BTreeMap<String, Item>, TableError> {
    let failed = |reason| TableError::Call { call: "BatchGetItem", table: table.to_owned(), reason };
    // A call with the same key twice is refused.
    let distinct: BTreeMap<String, &Item> = keys.iter().filter_map(|key| Some((primary.identity(key)?, key))).collect();
    let mut wanted: Vec<_> = distinct.values().filter_map(|key| item::key_to_sdk(key)).collect();
    let mut found = BTreeMap::new();
    let (mut in_vain, mut backoff) = (0, Backoff::new(FIRST_PAUSE, LAST_PAUSE));
    while !wanted.is_empty() {
        let rest = wanted.split_off(wanted.len().min(BATCH));
        let asked = wanted.len();
        let request = KeysAndAttributes::builder().set_keys(Some(wanted)).consistent_read(true).build();
        let request = request.map_err(|error| failed(error.to_string()))?;
        let output = client.batch_get_item().request_items(table, request).send().await;
        let output = output.map_err(|error| failed(Failure::of(&error).to_string()))?;
        for row in output.responses.and_then(|mut tables| tables.remove(table)).unwrap_or_default() {
            let item = item::from_sdk(&row).map_err(failed)?;
            let identity = primary.identity(&item).ok_or_else(|| TableError::Unexpected {
                table: table.to_owned(),
                what: "an item without its primary key".to_owned(),
            })?;
            found.insert(identity, item);
        }
        let left = output.unprocessed_keys.and_then(|mut tables| tables.remove(table));
        wanted = left.map(|left| left.keys).unwrap_or_default();
        if wanted.len() >= asked {
            in_vain += 1;
            if in_vain == IN_VAIN {
                return Err(TableError::NoCapacity(table.to_owned()));
            }
        } else {
            in_vain = 0;
            backoff.reset();
        }
        if !wanted.is_empty() {
            tokio::time::sleep(backoff.next_pause()).await;
        }
        wanted.extend(rest);
    }
    Ok(found)
}
