use aws_sdk_dynamodb::types::AttributeValue;
use ringtide_core::config::Aws;
use ringtide_servers::Emulator;

use super::*;
use crate::aws::Clients;

/// A client of an empty emulator, which ends with it.
async fn emulator() -> (Emulator, Client) {
    let emulator = Emulator::start().await.unwrap();
    let aws = Aws { region: None, endpoint_url: Some(emulator.url().to_owned()) };
    (emulator, Clients::connect(&aws).await.tables)
}

#[tokio::test]
async fn it_keeps_the_conditions_of_the_seam() {
    let (_emulator, client) = emulator().await;
    super::super::contract::check(&DynamoDbLeases::new(client, "leases")).await;
}

#[tokio::test]
async fn a_call_that_nobody_answers_is_given_up_in_time_for_another() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    let accepting = tokio::spawn(async move {
        let mut connections = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            connections.push(connection);
        }
    });
    let aws = Aws { region: None, endpoint_url: Some(endpoint) };
    let store = DynamoDbLeases::new(Clients::connect(&aws).await.tables, "leases").within(Duration::from_secs(3));
    let listed = tokio::time::timeout(Duration::from_secs(8), store.list()).await;
    assert!(matches!(listed, Ok(Err(LeaseError::Unavailable(_)))), "{listed:?}");
    accepting.abort();
}

#[tokio::test]
async fn attributes_that_it_does_not_know_and_rows_of_others_are_kept() {
    let (_emulator, client) = emulator().await;
    let store = DynamoDbLeases::new(client.clone(), "leases");
    store.prepare().await.unwrap();
    let lease = Lease::new(LeaseKey::parse("1:r$1$t$l:1:s").unwrap());
    let mut row = item::write(&lease);
    row.insert("throughputKBps".to_owned(), AttributeValue::N("7".to_owned()));
    client.put_item().table_name("leases").set_item(Some(row)).send().await.unwrap();
    let other = client.put_item().table_name("leases").item(LEASE_KEY, text("w")).item("entityType", text("WORKER"));
    other.send().await.unwrap();
    assert_eq!(store.list().await.unwrap(), std::slice::from_ref(&lease));
    let mut held = store.take(&lease, &OwnerId::named("me")).await.unwrap();
    store.checkpoint(&mut held, &Checkpoint::ShardEnd, &BTreeSet::new()).await.unwrap();
    let rows = client.scan().table_name("leases").send().await.unwrap().items.unwrap();
    assert_eq!(rows.len(), 2);
    let row = rows.iter().find(|row| row.contains_key("leaseCounter")).unwrap();
    assert_eq!(row.get("throughputKBps"), Some(&AttributeValue::N("7".to_owned())));
}

#[tokio::test]
async fn a_table_of_a_single_streams_application_is_taken_over_in_place_and_can_go_back() {
    let (_emulator, client) = emulator().await;
    let store = DynamoDbLeases::new(client.clone(), "leases");
    store.prepare().await.unwrap();
    let stream = LeaseKey::parse("1:r$1$t$2026-01-02T03_04_05.678:1:s").unwrap().stream;
    assert_eq!(store.adopt(&stream).await, Ok(stream.clone()), "an empty table is no application's");
    let row = [("leaseKey", text("shardId-1-a")), ("checkpoint", text("300000000000000499659"))];
    let row = row.into_iter().chain([
        ("checkpointSubSequenceNumber", number(0)),
        ("leaseCounter", number(15)),
        ("leaseOwner", text("host:1f0e")),
        ("ownerSwitchesSinceCheckpoint", number(2)),
        ("throughputKBps", AttributeValue::N("1.25".to_owned())),
        ("somethingNew", text("kept")),
    ]);
    let row: item::Item = row.map(|(name, value)| (name.to_owned(), value)).collect();
    client.put_item().table_name("leases").set_item(Some(row)).send().await.unwrap();
    for (key, entity) in [("worker-1", Some("WORKER_METRICS")), ("Migration3.0", None)] {
        let put = client.put_item().table_name("leases").item(LEASE_KEY, text(key)).item("x", text("y"));
        let entity = entity.map(|entity| ("entityType".to_owned(), text(entity)));
        let put = entity.into_iter().fold(put, |put, (name, value)| put.item(name, value));
        put.send().await.unwrap();
    }
    assert_eq!(store.list().await, Ok(vec![]), "of several streams it may be any one's");
    let name = store.adopt(&stream).await.unwrap();
    assert!(name.is_plain() && name.same_table(&stream));
    let lease = store.list().await.unwrap().remove(0);
    assert_eq!(lease.key, name.lease(&"shardId-1-a".into()));
    let mut held = store.take(&lease, &OwnerId::named("me")).await.unwrap();
    let at = Checkpoint::At("300000000000000499700".parse().unwrap());
    store.checkpoint(&mut held, &at, &BTreeSet::new()).await.unwrap();
    store.release(held).await.unwrap();
    let child = Lease::new(name.lease(&"shardId-2-b".into()));
    assert_eq!(store.create(&child).await, Ok(true));
    // What the library finds when it comes back.
    let rows = client.scan().table_name("leases").send().await.unwrap().items.unwrap();
    let keys: BTreeSet<String> = rows.iter().map(|row| row[LEASE_KEY].as_s().unwrap().clone()).collect();
    let expected = ["Migration3.0", "shardId-1-a", "shardId-2-b", "worker-1"];
    assert_eq!(keys, expected.map(str::to_owned).into());
    let row = rows.iter().find(|row| row[LEASE_KEY] == text("shardId-1-a")).unwrap();
    assert_eq!(row["checkpoint"], text(at));
    assert_eq!((&row["somethingNew"], &row["throughputKBps"]), (&text("kept"), &AttributeValue::N("1.25".to_owned())));
    assert!(!row.contains_key(LEASE_OWNER), "anybody may take it");
}

#[tokio::test]
async fn a_stream_that_was_read_under_keys_of_its_own_goes_on_with_them() {
    let (_emulator, client) = emulator().await;
    let store = DynamoDbLeases::new(client.clone(), "leases");
    store.prepare().await.unwrap();
    let stream = LeaseKey::parse("1:r$1$t$2026-01-02T03_04_05.678:1:s").unwrap().stream;
    store.create(&Lease::new(stream.lease(&"shardId-1-a".into()))).await.unwrap();
    store.create(&Lease::new(stream.plain().lease(&"shardId-1-a".into()))).await.unwrap();
    assert_eq!(store.adopt(&stream).await, Ok(stream.clone()));
    assert_eq!(store.list().await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_counts_as_made() {
    let (_emulator, client) = emulator().await;
    let store = DynamoDbLeases::new(client, "leases");
    store.prepare().await.unwrap();
    let lease = Lease::new(LeaseKey::parse("1:r$1$t$l:1:s").unwrap());
    store.create(&lease).await.unwrap();
    let mut held = store.take(&lease, &OwnerId::named("me")).await.unwrap();
    let mut unheard = held.snapshot();
    let at = Checkpoint::At("5".parse().unwrap());
    store.checkpoint(&mut unheard, &at, &BTreeSet::new()).await.unwrap();
    store.checkpoint(&mut held, &at, &BTreeSet::new()).await.unwrap();
    store.renew(&mut held).await.unwrap();
}

#[tokio::test]
async fn a_table_of_something_else_is_refused() {
    let (_emulator, client) = emulator().await;
    let definition = AttributeDefinition::builder().attribute_name("pk").attribute_type(ScalarAttributeType::S);
    let create = client.create_table().table_name("leases").billing_mode(BillingMode::PayPerRequest);
    let create = create.attribute_definitions(definition.build().unwrap());
    let key = KeySchemaElement::builder().attribute_name("pk").key_type(KeyType::Hash).build().unwrap();
    create.key_schema(key).send().await.unwrap();
    let error = DynamoDbLeases::new(client, "leases").prepare().await.unwrap_err();
    assert!(error.to_string().contains("worker.application"), "{error}");
}
