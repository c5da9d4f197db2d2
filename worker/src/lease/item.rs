//! A lease as an item of the Kinesis Client Library's table.

use std::collections::{BTreeSet, HashMap};

use aws_sdk_dynamodb::types::AttributeValue;

use super::{Checkpoint, Lease, LeaseKey, OwnerId};
use crate::stream::ShardId;

pub(super) const LEASE_KEY: &str = "leaseKey";
pub(super) const LEASE_OWNER: &str = "leaseOwner";
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
        ("streamName".to_owned(), text(&lease.key.stream)),
        ("shardId".to_owned(), text(&lease.key.shard)),
        ("leaseCounter".to_owned(), number(lease.counter)),
        ("ownerSwitchesSinceCheckpoint".to_owned(), number(lease.switches)),
        ("checkpoint".to_owned(), text(lease.checkpoint)),
        ("checkpointSubSequenceNumber".to_owned(), number(0)),
        ("startingHashKey".to_owned(), text("0")),
        ("endingHashKey".to_owned(), text("1")),
        (ENTITY_TYPE.to_owned(), text(LEASE_ENTITY)),
    ]);
    if let Some(owner) = &lease.owner {
        item.insert(LEASE_OWNER.to_owned(), text(owner));
    }
    for (name, ids) in [("parentShardId", &lease.parents), ("childShardIds", &lease.children)] {
        if !ids.is_empty() {
            item.insert(name.to_owned(), set(ids));
        }
    }
    item
}

/// Reads a row; `None` for one that is not the lease of a table's stream.
///
/// # Errors
/// A lease that cannot be read, with the reason.
pub(super) fn read(item: &Item) -> Result<Option<Lease>, String> {
    let string = |name: &str| item.get(name).and_then(|value| value.as_s().ok());
    if string(ENTITY_TYPE).is_some_and(|entity| entity != LEASE_ENTITY) {
        return Ok(None);
    }
    let Some(Ok(key)) = string(LEASE_KEY).map(|key| LeaseKey::parse(key)) else { return Ok(None) };
    let count = |name: &str| -> Result<u64, String> {
        let Some(value) = item.get(name) else { return Ok(0) };
        let digits = value.as_n().map_err(|_| format!("{key}: {name} is not a number"))?;
        digits.parse().map_err(|e| format!("{key}: {name}: {e}"))
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
        Some(digits) => Checkpoint::At(digits.parse().map_err(|e| format!("{key}: checkpoint: {e}"))?),
    };
    Ok(Some(Lease {
        owner: string(LEASE_OWNER).filter(|owner| !owner.is_empty()).map(|owner| OwnerId::named(owner)),
        counter: count("leaseCounter")?,
        checkpoint,
        switches: count("ownerSwitchesSinceCheckpoint")?,
        parents: ids("parentShardId"),
        children: ids("childShardIds"),
        key,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease() -> Lease {
        let key = LeaseKey::parse("1:r$1$t$l:1:s").unwrap();
        Lease { parents: BTreeSet::from(["p".into()]), counter: 3, ..Lease::new(key) }
    }

    #[test]
    fn a_lease_is_read_as_it_was_written() {
        let item = write(&lease());
        assert_eq!(read(&item), Ok(Some(lease())));
        assert_eq!(item.get("streamName"), Some(&text("1:r$1$t$l:1")));
        assert!(!item.contains_key(LEASE_OWNER) && !item.contains_key("childShardIds"));
    }

    #[test]
    fn rows_without_entity_are_leases_and_rows_of_other_entities_are_not() {
        let mut item = write(&lease());
        item.remove(ENTITY_TYPE);
        assert!(read(&item).unwrap().is_some());
        item.insert(ENTITY_TYPE.to_owned(), text("WORKER_METRICS"));
        assert_eq!(read(&item), Ok(None));
        let migration = Item::from([(LEASE_KEY.to_owned(), text("Migration3.0"))]);
        assert_eq!(read(&migration), Ok(None));
    }

    #[test]
    fn an_unreadable_checkpoint_is_told_with_its_key() {
        let mut item = write(&lease());
        item.insert("checkpoint".to_owned(), text("soon"));
        let reason = read(&item).unwrap_err();
        assert!(reason.contains("1:r$1$t$l:1:s") && reason.contains("soon"), "{reason}");
    }
}
