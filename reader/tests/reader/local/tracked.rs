//! The tracked tier: changed, flushed, lost and refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringtide::{LocalTier, ReadOptions, ShardName, ShardSpec, config};
use ringtide_core::valkey::{Flushed, Shard, Tracker};

use super::super::support::{LONG, Server, builder, until};
use super::{FLUSHES, MINUTE, PUSHES, Tier, key, run};

const TRACKED: LocalTier = LocalTier::Tracked(MINUTE);

/// How many connections of readers the server tells of changes.
async fn tracking(server: &Server) -> usize {
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(&mut server.connection().await).await.unwrap();
    let flags = |line: &str| line.split(' ').find_map(|field| field.strip_prefix("flags=")).unwrap_or("").to_owned();
    list.lines().filter(|line| flags(line).contains('t')).count()
}

#[tokio::test]
async fn a_value_is_read_once_and_again_when_it_has_changed() {
    let server = Server::start().await;
    let mut tier = Tier::new(&server, TRACKED).await;
    tier.put(1, 10).await;
    assert_eq!(tier.read(1).await, 10);
    server.forget_calls().await;
    for _ in 0..100 {
        assert_eq!(tier.read(1).await, 10);
    }
    assert_eq!((server.calls("get").await, tier.hits()), (0, 100));
    for value in 11..100 {
        tier.put(1, value).await;
        until("the new value", async || tier.read(1).await == value).await;
        assert_eq!(tier.read(1).await, value);
    }
    run(&mut tier.writer, &["UNLINK", &key(1)]).await;
    until("its end", async || tier.read_or(1, Some(7)).await == Some(7)).await;
}

#[tokio::test]
async fn an_entry_that_expires_or_is_not_there_is_told_of_too() {
    let server = Server::start().await;
    let mut tier = Tier::new(&server, TRACKED).await;
    tier.put(1, 10).await;
    assert_eq!(tier.read(1).await, 10);
    run(&mut tier.writer, &["PEXPIRE", &key(1), "30"]).await;
    until("its end", async || tier.read_or(1, Some(11)).await == Some(11)).await;
    // What was loaded is stored in the background.
    until("a copy", async || {
        let hits = tier.hits();
        assert_eq!(tier.read_or(1, Some(12)).await, Some(11));
        tier.hits() > hits
    })
    .await;
}

#[tokio::test]
async fn every_key_of_many_that_change_at_once_is_forgotten() {
    let server = Server::start().await;
    let mut tier = Tier::new(&server, TRACKED).await;
    for item in 0..100 {
        tier.put(item, 1).await;
    }
    let pks = || 0..100_u64;
    let load = |_| async { Ok::<_, std::io::Error>(std::collections::HashMap::<u64, u64>::new()) };
    let values = async || tier.space.get_many(pks(), load).await.into_values().unwrap();
    assert_eq!(values().await, vec![Some(1); 100]);
    server.forget_calls().await;
    assert_eq!(values().await, vec![Some(1); 100]);
    assert_eq!(
        (server.calls("mget").await, tier.hits()),
        (0, 100),
        "a batch keeps what it reads, and is answered by it"
    );
    let mut all = redis::cmd("MSET");
    for item in pks() {
        all.arg(key(item)).arg(&super::entry(2, MINUTE)[..]);
    }
    all.exec_async(&mut tier.writer.clone()).await.unwrap();
    until("the word of every key", async || tier.counters.sum(PUSHES, "") >= 100).await;
    for item in pks() {
        assert_eq!(tier.read(item).await, 2);
    }
}

#[tokio::test]
async fn an_emptied_database_is_an_emptied_memory() {
    let server = Server::start().await;
    let mut tier = Tier::new(&server, TRACKED).await;
    for item in 0..50 {
        tier.put(item, 1).await;
        assert_eq!(tier.read(item).await, 1);
    }
    run(&mut tier.writer, &["FLUSHALL"]).await;
    until("the word", async || tier.counters.sum(FLUSHES, "server") > 0).await;
    for item in 0..50 {
        assert_eq!(tier.read_or(item, Some(2)).await, Some(2));
    }
    let counted = tier.counters.sum(FLUSHES, "");
    assert_eq!(counted, 1, "flushes are counted once");
}

#[tokio::test]
async fn a_killed_connection_loses_its_copies_and_the_next_one_is_tracked() {
    let server = Server::start().await;
    let mut tier = Tier::new(&server, TRACKED).await;
    for round in 1..10_u64 {
        tier.put(1, round * 10).await;
        until("the value", async || tier.read_or(1, None).await == Some(round * 10)).await;
        assert_eq!(tier.read_locally(1).await, round * 10);
        run(&mut tier.writer, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        // Nobody is told of this one.
        tier.put(1, round * 10 + 1).await;
        until("the flush", async || tier.counters.sum(FLUSHES, "disconnected") == round).await;
        let value = tier.read_or(1, Some(0)).await.unwrap();
        assert!(value == 0 || value == round * 10 + 1, "{value} was changed unheard");
        until("the next connection", async || tracking(&server).await == 1).await;
    }
}

#[tokio::test]
async fn a_server_that_starts_again_is_tracked_again() {
    let mut server = Server::start().await;
    let mut tier = Tier::new(&server, TRACKED).await;
    tier.put(1, 1).await;
    assert_eq!(tier.read(1).await, 1);
    assert_eq!(tier.read_locally(1).await, 1);
    server.kill();
    until("the flush", async || tier.counters.sum(FLUSHES, "disconnected") > 0).await;
    assert_eq!(tier.read_or(1, Some(2)).await, Some(2), "nothing tells of changes while the server is down");
    server.restart().await;
    tier.writer = server.connection().await;
    tier.put(1, 3).await;
    until("the new value", async || tier.read_or(1, Some(2)).await == Some(3)).await;
    assert_eq!(tier.read_locally(1).await, 3);
    tier.put(1, 4).await;
    until("its change", async || tier.read(1).await == 4).await;
}

#[tokio::test]
async fn each_of_several_connections_tells_of_what_was_read_over_it() {
    let server = Server::start().await;
    let valkey = config::Valkey { connections: 3, command_timeout: LONG, ..config::Valkey::default() };
    let mut tier = Tier::built(&server, TRACKED, builder(&server).valkey(valkey)).await;
    until("three connections", async || tracking(&server).await == 3).await;
    for value in 0..30 {
        // Which of the three reads which item changes from round to round.
        for item in 0..5 {
            tier.put(item, value).await;
        }
        for item in 0..5 {
            until("the new value", async || tier.read(item).await == value).await;
            assert_eq!(tier.read_locally(item).await, value);
        }
    }
}

#[tokio::test]
async fn connections_are_tracked_only_where_a_key_space_is() {
    let server = Server::start().await;
    let bounded = Tier::new(&server, LocalTier::Bounded(MINUTE)).await;
    assert_eq!(tracking(&server).await, 0);
    let reader = config::Reader { local_capacity: 0, ..config::Reader::default() };
    let without = Tier::built(&server, TRACKED, builder(&server).reader(reader)).await;
    assert_eq!(tracking(&server).await, 0, "without a place to keep anything");
    let _tracked = Tier::new(&server, TRACKED).await;
    assert_eq!(tracking(&server).await, 1, "and not those of the inbox");
    drop((bounded, without));
}

#[tokio::test]
async fn a_server_that_does_not_tell_of_changes_is_not_used() {
    struct Nobody;

    impl Tracker for Nobody {
        fn invalidated(&self, _: &[u8]) {}
        fn flushed(&self, _: Flushed) {}
        fn in_step(&self, _: Instant) {}
    }

    let server = Server::start().await;
    let mut writer = server.connection().await;
    run(&mut writer, &["ACL", "SETUSER", "reader", "on", "nopass", "~*", "&*", "+@all", "-client|tracking"]).await;
    let valkey = config::Valkey {
        username: Some("reader".to_owned()),
        password: Some(config::Secret::new("any".to_owned())),
        ..config::Valkey::default()
    };
    let spec = ShardSpec { name: ShardName::new("a"), address: server.address(), weight: 1 };
    let shard = Shard::connect_tracked(&spec, &valkey, None, Arc::new(Nobody)).unwrap();
    let error = shard.ready(LONG).await.unwrap_err().to_string();
    assert!(error.contains("CLIENT TRACKING is refused (NOPERM"), "{error}");

    let mut tier = Tier::built(&server, TRACKED, builder(&server).valkey(valkey)).await;
    tier.put(1, 1).await;
    for load in 2..5 {
        assert_eq!(tier.read_or(1, Some(load)).await, Some(load));
    }
    // Allowed at last, it is connected without further ado.
    run(&mut tier.writer, &["ACL", "SETUSER", "reader", "+client|tracking"]).await;
    until("a connection", async || tier.read_or(1, Some(0)).await == Some(1)).await;
    assert_eq!(tier.read_locally(1).await, 1);
}

#[tokio::test]
async fn an_own_change_and_a_read_of_what_is_fresh_pass_the_memory_by() {
    let server = Server::start().await;
    let mut tier = Tier::new(&server, TRACKED).await;
    tier.put(1, 1).await;
    assert_eq!(tier.read(1).await, 1);
    assert_eq!(tier.read_locally(1).await, 1);
    let fresh = tier.space.with(ReadOptions::new().fresh());
    let loaded = fresh.get_or_load(1, || async { Ok::<_, std::io::Error>(Some(2)) }).await.unwrap();
    assert_eq!(loaded, Some(2));
    until("the fill", async || tier.read(1).await == 2).await;
    assert_eq!(tier.read_locally(1).await, 2);
    for value in 3..50 {
        let done = tier.space.invalidate(1).await.unwrap();
        assert!(done.is_done());
        assert_eq!(tier.read_or(1, Some(value)).await, Some(value), "after an invalidation of its own");
        until("the fill", async || server.exists(&key(1)).await).await;
        assert_eq!(tier.read_locally(1).await, value);
    }
    tokio::time::timeout(Duration::from_secs(5), tier.cache.close()).await.unwrap();
}

#[tokio::test]
async fn a_copy_answers_only_the_key_space_that_it_was_read_for() {
    let server = Server::start().await;
    let mut tier = Tier::new(&server, TRACKED).await;
    tier.put(1, 1).await;
    assert_eq!(tier.read(1).await, 1);
    assert_eq!(tier.read_locally(1).await, 1);
    let hits = tier.hits();
    // Whole keys are kept as a fallback only.
    for _ in 0..3 {
        let load = || async { Ok::<_, std::io::Error>(None) };
        assert_eq!(tier.cache.get_or_load::<u64, _, _, _, _>(key(1), load).await.unwrap(), Some(1));
    }
    assert_eq!(tier.hits(), hits);
    tier.put(1, 2).await;
    until("the change", async || tier.read(1).await == 2).await;
}
