//! Worker and Lambda lead a record to the same commands.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_dynamodb::types::StreamViewType;
use ringtide_core::pipeline::{Batch, plan};
use ringtide_core::record::ChangeRecord;
use ringtide_core::ring::{Ring, RingHistory};
use ringtide_core::route::Router;
use ringtide_lambda::Handler;
use ringtide_lambda::event::Event;
use ringtide_worker::aws::Clients;
use ringtide_worker::stream::{DynamoDbStreams, Position, StreamSource};
use serde_json::{Value, json};

use crate::world::{Endpoint, Product, World};

const SPACES: &str = r#"
[spaces.product]
key = "product:{pk}"
mode = "versioned"
version_attribute = "rev"
[spaces.category]
key = "category:{category}:top"
[spaces.copy]
key = "copy:{pk}"
[[routes]]
table = "products"
space = "product"
[[routes]]
table = "products"
space = "category"
when_changed = ["category"]
[[routes]]
table = "products"
space = "copy"
action = "refresh"
"#;

/// A record as Lambda is given it.
fn as_event(record: &ChangeRecord) -> Value {
    let image = |attributes: &dyn ringtide_core::record::Attributes| -> Value {
        use ringtide_core::record::Attribute::{N, S};
        let typed = attributes.all().unwrap().into_iter().map(|(name, value)| match value {
            S(text) => (name, json!({ "S": text })),
            N(digits) => (name, json!({ "N": digits })),
            other => panic!("no other types here: {other:?}"),
        });
        Value::Object(typed.collect())
    };
    json!({
        "eventID": "1",
        "eventName": record.event.as_str(),
        "eventSourceARN": record.stream.arn,
        "dynamodb": {
            "Keys": image(&*record.keys),
            "OldImage": record.old.as_deref().map(image),
            "NewImage": record.new.as_deref().map(image),
            "SequenceNumber": record.sequence.to_string(),
            "ApproximateCreationDateTime": record.approximate_time_s,
        }
    })
}

fn shown(batches: &[Batch]) -> Vec<String> {
    batches.iter().map(|batch| format!("{batch:?}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_edges_plan_the_same_commands_for_the_same_records() {
    let world = World::new(Endpoint::embedded().await, 3, SPACES).await;
    world.create_table("products", Some(StreamViewType::NewAndOldImages)).await;
    for n in 0..40 {
        world.put(&(n % 13).to_string(), n, if n % 3 == 0 { "tea" } else { "coffee" }).await;
    }
    world.delete("3").await;
    let config = world.config();
    let clients = Clients::connect(&config.aws).await;
    let source = DynamoDbStreams::new(clients.tables, clients.streams);
    let stream = source.describe_table("products").await.unwrap().stream.unwrap();
    let shard = source.list_shards(&stream).await.unwrap().shards.remove(0);
    let iterator = source.iterator(&stream, &shard.id, Position::TrimHorizon).await.unwrap();
    let read = source.read(&iterator).await.unwrap().records;
    assert_eq!(read.len(), 41);

    let records: Vec<Value> = read.iter().map(|record| as_event(record.as_ref().unwrap())).collect();
    let event: Event = serde_json::from_value(json!({ "Records": records })).unwrap();
    let router = Router::new(config.routes.clone());
    let ring = RingHistory::new(Ring::new(config.ring).unwrap(), 1000);
    let (by_worker, by_lambda) = (plan(&router, &ring, 0, &read), plan(&router, &ring, 0, &event.read()));
    assert!(by_worker.commands() > 13);
    assert_eq!(shown(&by_worker.batches), shown(&by_lambda.batches));
}

fn put_event(pk: &str, sequence: u32) -> Value {
    json!({
        "eventName": "MODIFY",
        "eventSourceARN": "arn:aws:dynamodb:us-east-1:000000000000:table/products/stream/2026-01-02T03:04:05.678",
        "dynamodb": { "Keys": { "pk": { "S": pk } }, "SequenceNumber": sequence.to_string() }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lambda_delivers_what_it_can_and_names_the_first_record_that_it_cannot() {
    let spaces = "[spaces.product]\nkey = \"product:{pk}\"\n[[routes]]\ntable = \"products\"\nspace = \"product\"\n";
    let mut world = World::new(Endpoint::embedded().await, 2, spaces).await;
    world.create_table("products", None).await;
    let config = world.config();
    let ring = Ring::new(config.ring.clone()).unwrap();
    let cache = world.cache().await;
    let products = cache.space::<Product>("product").unwrap();
    let mut of_shard: HashMap<usize, String> = HashMap::new();
    for n in 0..20 {
        of_shard.entry(ring.locate(format!("product:{n}").as_bytes()).index()).or_insert_with(|| n.to_string());
        world.put(&n.to_string(), 1, "tea").await;
        world.read_until(&products, &n.to_string(), Some(1)).await;
    }
    let (on_first, on_second) = (of_shard[&0].clone(), of_shard[&1].clone());
    let handler = Arc::new(Handler::connect(&config).unwrap());
    let event = |records: Vec<Value>| serde_json::from_value::<Event>(json!({ "Records": records })).unwrap();
    let soon = || SystemTime::now() + Duration::from_secs(20);

    // One record that nobody can read harms no other.
    world.put(&on_first, 2, "tea").await;
    let answer = handler.handle(&event(vec![json!({ "odd": 1 }), put_event(&on_first, 11)]), soon()).await.unwrap();
    assert!(answer.failures.is_empty());
    assert_eq!(world.read(&products, &on_first).await.unwrap().rev, 2);

    // A ring shard that is down: its records fail, the other's are delivered, before the time is over.
    world.put(&on_second, 2, "tea").await;
    world.shards[0].kill();
    let records = vec![put_event(&on_second, 20), put_event(&on_first, 21), put_event(&on_second, 22)];
    let deadline = SystemTime::now() + Duration::from_millis(1500);
    let answer = handler.handle(&event(records), deadline).await.unwrap();
    assert!(SystemTime::now() < deadline, "the answer comes in time");
    assert_eq!(answer.failures[0].identifier, "21");
    assert_eq!(world.read(&products, &on_second).await.unwrap().rev, 2);

    // Back again, the same sandbox delivers.
    world.shards[0].restart().unwrap();
    let answer = handler.handle(&event(vec![put_event(&on_first, 21)]), soon()).await.unwrap();
    assert!(answer.failures.is_empty());
}
