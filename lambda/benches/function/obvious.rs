//! The handler that one writes first: the whole batch decoded, one `UNLINK` a record.

use aws_lambda_events::event::dynamodb::Event;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use redis::aio::MultiplexedConnection;
use ringtide_core::config::Config;
use ringtide_core::ring::Ring;
use serde::Deserialize;
use serde_json::{Value, json};

/// Set where the program is the obvious handler.
pub(crate) const ROLE: &str = "RINGTIDE_BENCH_ROLE";

#[derive(Deserialize)]
struct Keys {
    pk: String,
}

pub(crate) async fn run() -> Result<(), Error> {
    let config = Config::parse(&std::env::var("RINGTIDE_CONFIG_TEXT")?, [])?;
    let ring = Ring::new(config.ring).map_err(|errors| format!("{errors:?}"))?;
    let mut shards = Vec::new();
    for spec in ring.shards() {
        let client = redis::Client::open(format!("redis://{}/", spec.address))?;
        shards.push(client.get_multiplexed_async_connection().await?);
    }
    let handle = |event: LambdaEvent<Event>| answer(event.payload, &ring, &shards);
    lambda_runtime::run(service_fn(handle)).await
}

async fn answer(event: Event, ring: &Ring, shards: &[MultiplexedConnection]) -> Result<Value, Error> {
    for record in event.records {
        let keys: Keys = serde_dynamo::from_item(record.change.keys)?;
        let key = format!("product:{}", keys.pk);
        let mut shard = shards.get(ring.locate(key.as_bytes()).index()).ok_or("no such shard")?.clone();
        redis::cmd("UNLINK").arg(&key).exec_async(&mut shard).await?;
    }
    Ok(json!({ "batchItemFailures": [] }))
}
