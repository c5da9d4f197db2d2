use super::*;

fn lease() -> Lease {
    let key = LeaseKey::parse("1:r$1$t$l:1:s").unwrap();
    Lease { parents: BTreeSet::from(["p".into()]), counter: 3, ..Lease::new(key) }
}

fn lease_of(row: Row) -> Lease {
    match row {
        Row::Lease(lease) => *lease,
        Row::Plain(_) | Row::Other => panic!("{row:?} is no lease"),
    }
}

/// Builds an item from JSON as DynamoDB shows it.
fn item(json: &str) -> Item {
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    let value = |value: &serde_json::Value| {
        let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
        let text = || value.as_str().unwrap().to_owned();
        match kind.as_str() {
            "S" => AttributeValue::S(text()),
            "N" => AttributeValue::N(text()),
            "SS" => AttributeValue::Ss(value.as_array().unwrap().iter().map(|s| s.as_str().unwrap().into()).collect()),
            "NULL" => AttributeValue::Null(true),
            kind => panic!("{kind}"),
        }
    };
    json.as_object().unwrap().iter().map(|(name, attribute)| (name.clone(), value(attribute))).collect()
}

fn stream() -> StreamName {
    LeaseKey::parse("123456789012:eu-west-1$123456789012$products$2026-01-02T03_04_05.678:1:s").unwrap().stream
}

const AT: &str = "300000000000000499659";

#[test]
fn a_lease_is_read_as_it_was_written() {
    let asked = Lease { owner: Some(OwnerId::named("b")), leaving: Some(OwnerId::named("a")), ..lease() };
    for lease in [lease(), asked] {
        assert_eq!(read(&write(&lease), None), Ok(Row::Lease(Box::new(lease))));
    }
    let item = write(&lease());
    assert_eq!(item.get("streamName"), Some(&text("1:r$1$t$l:1")));
    for absent in [LEASE_OWNER, CHECKPOINT_OWNER, "childShardIds"] {
        assert!(!item.contains_key(absent));
    }
}

/// What versions of the library leave behind for an application that follows a single stream.
#[test]
fn leases_of_a_single_stream_are_taken_over_in_place() {
    let first = r#"{"leaseKey":{"S":"shardId-00000001700000000000-a1b2c3d4"},"checkpoint":{"S":"300000000000000499659"},
        "checkpointSubSequenceNumber":{"N":"0"},"leaseCounter":{"N":"15"},"leaseOwner":{"S":"host:1f0e"},
        "ownerSwitchesSinceCheckpoint":{"N":"2"},"parentShardId":{"SS":["shardId-00000001699999000000-00000000"]}}"#;
    let second = r#"{"leaseKey":{"S":"shardId-00000001700000000000-a1b2c3d4"},"checkpoint":{"S":"300000000000000499659"},
        "checkpointSubSequenceNumber":{"N":"0"},"leaseCounter":{"N":"15"},"leaseOwner":{"S":"host:1f0e"},
        "ownerSwitchesSinceCheckpoint":{"N":"2"},"parentShardId":{"SS":["shardId-00000001699999000000-00000000"]},
        "pendingCheckpoint":{"S":"300000000000000499700"},"pendingCheckpointSubSequenceNumber":{"N":"0"},
        "startingHashKey":{"S":"0"},"endingHashKey":{"S":"1"}}"#;
    let third = r#"{"leaseKey":{"S":"shardId-00000001700000000000-a1b2c3d4"},"checkpoint":{"S":"300000000000000499659"},
        "checkpointSubSequenceNumber":{"N":"0"},"leaseCounter":{"N":"15"},"leaseOwner":{"S":"host:1f0e"},
        "ownerSwitchesSinceCheckpoint":{"N":"2"},"parentShardId":{"SS":["shardId-00000001699999000000-00000000"]},
        "startingHashKey":{"S":"0"},"endingHashKey":{"S":"1"},"throughputKBps":{"N":"12.75"},"entityType":{"S":"LEASE"}}"#;
    for golden in [first, second, third] {
        let item = item(golden);
        assert_eq!(read(&item, None), Ok(Row::Plain("shardId-00000001700000000000-a1b2c3d4".to_owned())));
        let lease = lease_of(read(&item, Some(&stream().plain())).unwrap());
        assert_eq!(lease.key.to_string(), "shardId-00000001700000000000-a1b2c3d4");
        assert!(lease.key.stream.same_table(&stream()));
        assert_eq!(lease.checkpoint, Checkpoint::At(AT.parse().unwrap()));
        assert_eq!((lease.counter, lease.switches), (15, 2));
        assert_eq!(lease.owner, Some(OwnerId::named("host:1f0e")));
        assert_eq!(lease.parents, BTreeSet::from(["shardId-00000001699999000000-00000000".into()]));
        // A lease that is created beside it has the same form.
        let child = Lease::new(lease.key.stream.lease(&"shardId-00000001700000100000-c".into()));
        let written = write(&child);
        assert_eq!(written.get(LEASE_KEY), Some(&text("shardId-00000001700000100000-c")));
        assert!(!written.contains_key("streamName") && !written.contains_key("shardId"));
    }
}

#[test]
fn leases_of_several_streams_are_taken_over_in_place() {
    let golden = r#"{"leaseKey":{"S":"123456789012:eu-west-1$123456789012$products$2026-01-02T03_04_05.678:1:shardId-1-a"},
        "streamName":{"S":"123456789012:eu-west-1$123456789012$products$2026-01-02T03_04_05.678:1"},
        "shardId":{"S":"shardId-1-a"},"checkpoint":{"S":"SHARD_END"},"checkpointSubSequenceNumber":{"N":"0"},
        "leaseCounter":{"N":"9"},"ownerSwitchesSinceCheckpoint":{"N":"0"},"childShardIds":{"SS":["shardId-2-b"]},
        "throughputKBps":{"N":"0.5"},"entityType":{"S":"LEASE"}}"#;
    let lease = lease_of(read(&item(golden), None).unwrap());
    assert_eq!(lease.key, stream().lease(&"shardId-1-a".into()));
    assert_eq!((lease.checkpoint, lease.owner), (Checkpoint::ShardEnd, None));
    assert_eq!(lease.children, BTreeSet::from(["shardId-2-b".into()]));
}

#[test]
fn a_hand_over_that_the_library_began_is_one() {
    let mut item = write(&lease());
    item.insert(LEASE_OWNER.to_owned(), text("new"));
    item.insert("checkpointOwner".to_owned(), text("old"));
    let lease = lease_of(read(&item, None).unwrap());
    assert_eq!((lease.holder(), lease.owner.as_ref()), (Some(&OwnerId::named("old")), Some(&OwnerId::named("new"))));
}

#[test]
fn positions_of_the_library_are_understood() {
    let at = |checkpoint: &str| {
        let mut item = write(&lease());
        item.insert("checkpoint".to_owned(), text(checkpoint));
        lease_of(read(&item, None).unwrap())
    };
    assert_eq!(at("AT_TIMESTAMP").checkpoint, Checkpoint::TrimHorizon);
    assert_eq!(at("TRIM_HORIZON").checkpoint, Checkpoint::TrimHorizon);
    let latest = at("LATEST");
    assert_eq!(latest.checkpoint, Checkpoint::Latest);
    let taken = super::super::HeldLease::taken(&latest, &OwnerId::named("me"));
    assert_eq!(taken.taken_at(), Checkpoint::TrimHorizon, "nobody knows since when it stands there");
}

#[test]
fn rows_without_entity_are_leases_and_rows_of_other_entities_are_not() {
    let mut item = write(&lease());
    item.remove(ENTITY_TYPE);
    assert_eq!(read(&item, None), Ok(Row::Lease(Box::new(lease()))));
    for entity in ["WORKER_METRICS", "COORDINATOR_STATE", "STREAM_INFO"] {
        item.insert(ENTITY_TYPE.to_owned(), text(entity));
        assert_eq!(read(&item, None), Ok(Row::Other));
    }
    let migration = Item::from([(LEASE_KEY.to_owned(), text("Migration3.0"))]);
    assert_eq!(read(&migration, Some(&stream().plain())), Ok(Row::Other));
}

#[test]
fn an_unreadable_checkpoint_is_told_with_its_key() {
    let mut item = write(&lease());
    item.insert("checkpoint".to_owned(), text("soon"));
    let (key, reason) = read(&item, None).unwrap_err();
    assert!(key == "1:r$1$t$l:1:s" && reason.contains("checkpoint"), "{key}: {reason}");
}
