//! A cluster of a test's own, and short names for what is done on one.

use std::time::{Duration, Instant};

use ringtide_core::config;
use ringtide_core::ring::{ShardName, ShardSpec};
use ringtide_core::valkey::{FillReply, LeaseReply, LeaseRequest, Shard, ShardError, Token};
use ringtide_servers::ValkeyCluster;

use super::*;

pub const LONG: Duration = Duration::from_secs(20);

pub fn in_cluster() -> config::Valkey {
    config::Valkey { cluster: true, ..options() }
}

pub fn spec(cluster: &ValkeyCluster) -> ShardSpec {
    ShardSpec { name: ShardName::new("a"), address: cluster.address(), weight: 1 }
}

pub async fn shard_of(cluster: &ValkeyCluster, options: &config::Valkey) -> Shard {
    let shard = Shard::connect(&spec(cluster), options).unwrap();
    shard.ready(LONG).await.unwrap();
    shard
}

/// Stores a value as a reader does.
pub async fn store(shard: &Shard, name: &str, payload: &str) {
    let token = Token::random();
    let granted = shard.lease(&key(name), &request(token)).await.unwrap();
    assert!(matches!(granted, LeaseReply::Granted { .. }), "{granted:?}");
    assert_eq!(shard.fill(&key(name), &fill_of(token, value(payload))).await.unwrap(), FillReply::Stored);
}

/// Takes a lease, and registers the inbox `mine` as a waiter.
pub async fn hold(shard: &Shard, name: &str) -> Token {
    let token = Token::random();
    assert!(matches!(shard.lease(&key(name), &request(token)).await.unwrap(), LeaseReply::Granted { .. }));
    let wait = LeaseRequest { inbox: Some("mine"), ..request(Token::random()) };
    assert!(matches!(shard.lease(&key(name), &wait).await.unwrap(), LeaseReply::Wait { registered: true, .. }));
    token
}

/// Calls until it succeeds; every error on the way has to be one that passes.
pub async fn at_last<T>(mut call: impl AsyncFnMut() -> Result<T, ShardError>) -> T {
    let began = Instant::now();
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                assert!(began.elapsed() < LONG, "{error}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Names under one hash tag that are served by the master at `at`.
pub fn tag_at(cluster: &ValkeyCluster, at: usize) -> (String, usize) {
    let tags = (0..1000).map(|n| format!("{{t{n}}}"));
    let mut found = tags.map(|tag| (cluster.slot(&tag).unwrap(), tag));
    let (slot, tag) = found.find(|(slot, _)| cluster.first_owner(*slot) == at).unwrap();
    (tag, slot)
}
