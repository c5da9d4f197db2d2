//! A lease as an item of the Kinesis Client Library's table.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;

use super::{Checkpoint, Lease, LeaseKey, OwnerId, StreamName};
use crate::stream::ShardId;

pub(super) const LEASE_KEY: &str = "leaseKey";
pub(super) const LEASE_OWNER: &str = "leaseOwner";
const CHECKPOINT_OWNER: &str = "checkpointOwner";
/// What the ids of all stream shards begin with.
const SHARD_PREFIX: &str = "shardId-";
const ENTITY_TYPE: &str = "entityType";
const LEASE_ENTITY: &str = "LEASE";

pub(super) type Item = HashMap<String, AttributeValue>;

pub(super) fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

pub(super) fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

pub(super) fn set(ids: &BTreeSet<ShardId>) -> AttributeValue {
    AttributeValue::Ss(ids.iter().map(ToString::to_string).collect())
}

/// Writes a new lease as the library's adapter for DynamoDB Streams does.
pub(super) fn write(lease: &Lease) -> Item {
    let mut item = Item::from([
        (LEASE_KEY.to_owned(), text(&lease.key)),
        ("leaseCounter".to_owned(), number(lease.counter)),
        ("ownerSwitchesSinceCheckpoint".to_owned(), number(lease.switches)),
        ("checkpoint".to_owned(), text(lease.checkpoint)),
        ("checkpointSubSequenceNumber".to_owned(), number(0)),
        ("startingHashKey".to_owned(), text("0")),
        ("endingHashKey".to_owned(), text("1")),
        (ENTITY_TYPE.to_owned(), text(LEASE_ENTITY)),
    ]);
    if !lease.key.stream.is_plain() {
        item.insert("streamName".to_owned(), text(&lease.key.stream));
        item.insert("shardId".to_owned(), text(&lease.key.shard));
    }
    for (name, owner) in [(LEASE_OWNER, &lease.owner), (CHECKPOINT_OWNER, &lease.leaving)] {
        if let Some(owner) = owner {
            item.insert(name.to_owned(), text(owner));
        }
    }
    for (name, ids) in [("parentShardId", &lease.parents), ("childShardIds", &lease.children)] {
        if !ids.is_empty() {
            item.insert(name.to_owned(), set(ids));
        }
    }
    item
}

/// What a row of the table is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// A stream shard's lease.
    Lease(Box<Lease>),
    /// A lease that is keyed by its stream shard alone, where it is not known of which stream.
    Plain(String),
    /// Something else.
    Other,
}

/// Tells from a row who still holds the lease that somebody else asked for.
pub(super) fn leaving(item: &Item) -> Option<OwnerId> {
    owner(item, CHECKPOINT_OWNER)
}

fn owner(item: &Item, name: &str) -> Option<OwnerId> {
    let owner = item.get(name).and_then(|value| value.as_s().ok());
    owner.filter(|owner| !owner.is_empty()).map(|owner| OwnerId::named(owner))
}

/// Reads a row. Rows that are keyed by a stream shard alone are leases of `plain`.
///
/// # Errors
/// A lease that cannot be read, by its key and with the reason.
pub(super) fn read(item: &Item, plain: Option<&StreamName>) -> Result<Row, (String, String)> {
    let string = |name: &str| item.get(name).and_then(|value| value.as_s().ok());
    if string(ENTITY_TYPE).is_some_and(|entity| entity != LEASE_ENTITY) {
        return Ok(Row::Other);
    }
    let Some(text) = string(LEASE_KEY) else { return Ok(Row::Other) };
    let key = match LeaseKey::parse(text) {
        Ok(key) => key,
        Err(_) if text.starts_with(SHARD_PREFIX) && !text.contains(':') => match plain {
            Some(stream) => stream.lease(&ShardId::from(text.as_str())),
            None => return Ok(Row::Plain(text.clone())),
        },
        Err(_) => return Ok(Row::Other),
    };
    let wrong = |reason: String| (text.clone(), reason);
    let count = |name: &str| -> Result<u64, (String, String)> {
        let Some(value) = item.get(name) else { return Ok(0) };
        let digits = value.as_n().map_err(|_| wrong(format!("{name} is not a number")))?;
        digits.parse().map_err(|e| wrong(format!("{name}: {e}")))
    };
    let ids = |name: &str| -> BTreeSet<ShardId> {
        let ids = item.get(name).and_then(|value| value.as_ss().ok());
        ids.into_iter().flatten().map(|id| ShardId::from(id.as_str())).collect()
    };
    let checkpoint = match string("checkpoint").map(String::as_str) {
        // A position in time is not one of DynamoDB Streams: from the oldest record nothing is lost.
        Some("TRIM_HORIZON" | "AT_TIMESTAMP") | None => Checkpoint::TrimHorizon,
        Some("LATEST") => Checkpoint::Latest,
        Some("SHARD_END") => Checkpoint::ShardEnd,
        Some(digits) => Checkpoint::At(digits.parse().map_err(|e| wrong(format!("checkpoint: {e}")))?),
    };
    Ok(Row::Lease(Box::new(Lease {
        owner: owner(item, LEASE_OWNER),
        leaving: leaving(item),
        counter: count("leaseCounter")?,
        checkpoint,
        switches: count("ownerSwitchesSinceCheckpoint")?,
        parents: ids("parentShardId"),
        children: ids("childShardIds"),
        key,
    })))
}

#[cfg(test)]
#[path = "item_tests.rs"]
mod tests;
