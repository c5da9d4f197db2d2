//! A cluster that changes while it is used: slots move, masters die, stop answering and come back, replicas take over.

use std::time::{Duration, Instant};

use ringtide_core::command::Image;
use ringtide_core::config;
use ringtide_core::valkey::{FillReply, InboxEvent, Notice, ShardError, Token};
use ringtide_core::version::Version;
use ringtide_servers::ValkeyCluster;

use crate::support::cluster::*;
use crate::support::*;

#[tokio::test]
async fn a_slot_that_moves_loses_no_invalidation() {
    let cluster = ValkeyCluster::start(3).unwrap();
    let shard = shard_of(&cluster, &in_cluster()).await;
    let mut mine = inbox(&shard, "mine").await;
    let (tag, slot) = tag_at(&cluster, 0);
    let name = |n: usize| format!("{tag}:{n}");
    for n in 0..20 {
        store(&shard, &name(n), "old").await;
    }
    let token = hold(&shard, &name(30)).await;
    cluster.begin_move(slot, 0, 2).unwrap();
    for n in 0..10 {
        cluster.move_name(&name(n), 0, 2).unwrap();
    }
    // The lock stays where it was, its entry is looked for in the other place.
    assert_eq!(parsed(&shard.get(&key(&name(3))).await.unwrap().unwrap()).payload, "old");
    assert_eq!(parsed(&shard.get(&key(&name(13))).await.unwrap().unwrap()).payload, "old");
    assert_eq!(
        shard.get_many(&[key(&name(3)), key(&name(13)), key(&name(99))]).await.unwrap().iter().flatten().count(),
        2
    );
    let error = shard.lease(&key(&name(3)), &request(Token::random())).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("TRYAGAIN"), "{error}");

    let space = plain();
    let commands: Vec<_> = (0..40)
        .map(|n| invalidate(&name(n), &space, Version::NONE))
        .chain([invalidate("b", &space, Version::NONE)])
        .collect();
    let applied = shard.apply(&commands, 0).await.unwrap();
    assert_eq!((applied.dropped, applied.absent, applied.voided), (20, 21, 1), "{applied:?}");
    assert_eq!(notice(&mut mine).await, Notice::Voided { key: key(&name(30)) });
    assert_eq!(shard.dbsize().await.unwrap(), 0);
    let fill = shard.fill(&key(&name(30)), &fill_of(token, value("old"))).await;
    assert!(!matches!(fill, Ok(FillReply::Stored)), "{fill:?}");

    cluster.end_move(slot, 2).unwrap();
    // The map is old, and leases go on, each with a token of its own that was carried out once.
    store(&shard, &name(1), "new").await;
    cluster.ask(2, &["EXISTS", &name(1)]).unwrap();
    assert_eq!(shard.apply(&commands, 0).await.unwrap().dropped, 1);
    assert_eq!(shard.dbsize().await.unwrap(), 0);
}

#[tokio::test]
async fn a_slot_that_moves_under_a_flush_is_flushed_all_the_same() {
    let cluster = ValkeyCluster::start(3).unwrap();
    let shard = shard_of(&cluster, &in_cluster()).await;
    // Servers are walked over slot by slot: a high slot comes last on the one, and would have come first on the other.
    let last = (0..20_000).map(|n| format!("{{t{n}}}")).map(|tag| (cluster.slot(&tag).unwrap(), tag));
    let (slot, tag) = last.filter(|(slot, _)| cluster.first_owner(*slot) == 0).take(300).max().unwrap();
    let mut commands = Vec::new();
    let space = plain();
    for n in 0..6000 {
        commands.push(refresh(&format!("p:{n}"), &space, version(1), Image::Json("1".into()), true));
    }
    for n in 0..20 {
        commands.push(refresh(&format!("p:{tag}:{n}"), &space, version(1), Image::Json("1".into()), true));
    }
    assert_eq!(shard.apply(&commands, 0).await.unwrap().refreshed, 6020);
    // Only the first master has much to walk over.
    for at in 1..3 {
        cluster.ask(at, &["FLUSHALL"]).unwrap();
    }
    cluster.begin_move(slot, 0, 1).unwrap();
    let flush = {
        let shard = shard.clone();
        tokio::spawn(async move { shard.flush("p:", Duration::from_millis(60)).await })
    };
    let before: u64 = cluster.ask(0, &["DBSIZE"]).unwrap().parse().unwrap();
    while cluster.ask(0, &["DBSIZE"]).unwrap().parse::<u64>().unwrap() == before {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // The other master, all but empty, has been walked over by now.
    for n in 0..20 {
        cluster.move_name(&format!("p:{tag}:{n}"), 0, 1).unwrap();
    }
    flush.await.unwrap().unwrap();
    assert_eq!(shard.dbsize().await.unwrap(), 0);
    assert_eq!(shard.keys("p:").await.unwrap(), Vec::<String>::new());
}

#[tokio::test]
async fn a_dead_master_costs_its_own_slots_until_it_is_back() {
    let mut cluster = ValkeyCluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]).unwrap();
    let shard = shard_of(&cluster, &in_cluster()).await;
    let names = [0, 1, 2].map(|at| tag_at(&cluster, at).0);
    for name in &names {
        store(&shard, name, "1").await;
    }
    let run_ids = shard.run_id().await.unwrap();
    cluster.kill(1);
    let began = Instant::now();
    while shard.get(&key(&names[1])).await.is_ok() {}
    let calls = Instant::now();
    for _ in 0..100 {
        let error = shard.get(&key(&names[1])).await.unwrap_err();
        assert!(matches!(error, ShardError::Unavailable { .. }) && error.is_retryable(), "{error}");
    }
    assert!(calls.elapsed() < Duration::from_millis(300), "{:?}", calls.elapsed());
    assert!(began.elapsed() < Duration::from_secs(3));
    assert!(shard.get(&key(&names[0])).await.unwrap().is_some());
    let found = shard.get_many(&names.clone().map(|name| key(&name))).await.unwrap();
    assert_eq!(found.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
    let space = plain();
    let all = names.clone().map(|name| invalidate(&name, &space, Version::NONE));
    let error = shard.apply(&all, 0).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    assert!(shard.flush("", Duration::ZERO).await.unwrap_err().is_retryable());
    let error = shard.ready(Duration::from_millis(300)).await.unwrap_err();
    assert!(error.to_string().contains(&cluster.address_of(1)), "{error}");

    cluster.restart(1).unwrap();
    shard.ready(LONG).await.unwrap();
    at_last(async || shard.apply(&all, 0).await).await;
    assert_eq!(shard.dbsize().await.unwrap(), 0);
    for name in &names {
        at_last(async || shard.get(&key(name)).await).await;
        store(&shard, name, "2").await;
    }
    assert_ne!(shard.run_id().await.unwrap(), run_ids);
}

#[tokio::test]
async fn a_replica_that_takes_over_is_found() {
    let mut cluster = ValkeyCluster::start_with(3, 1, &[]).unwrap();
    let shard = shard_of(&cluster, &in_cluster()).await;
    let mut mine = inbox(&shard, "mine").await;
    let (tag, _) = tag_at(&cluster, 0);
    store(&shard, &tag, "1").await;
    cluster.kill(0);
    let space = plain();
    let voided = at_last(async || shard.apply(&[invalidate(&tag, &space, Version::NONE)], 0).await).await;
    assert_eq!(voided.dropped + voided.absent, 1);
    assert_eq!(at_last(async || shard.get(&key(&tag)).await).await, None);
    shard.ready(LONG).await.unwrap();
    // The subscription may have been the dead master's.
    let began = Instant::now();
    while !(1..4).any(|at| cluster.ask(at, &["PUBSUB", "CHANNELS"]).unwrap() == "mine") {
        assert!(began.elapsed() < LONG, "nobody subscribes again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let held = hold(&shard, &tag).await;
    shard.fill(&key(&tag), &fill_of(held, value("2"))).await.unwrap();
    loop {
        match next(&mut mine).await {
            InboxEvent::Notice(notice) => {
                assert!(matches!(notice, Notice::Filled { .. }), "{notice:?}");
                break;
            }
            InboxEvent::Up | InboxEvent::Down => {}
        }
    }
}

#[tokio::test]
async fn all_servers_may_restart() {
    let mut cluster = ValkeyCluster::start(3).unwrap();
    let shard = shard_of(&cluster, &in_cluster()).await;
    let mut mine = inbox(&shard, "mine").await;
    store(&shard, "k", "1").await;
    for at in 0..3 {
        cluster.kill(at);
    }
    assert_eq!(next(&mut mine).await, InboxEvent::Down);
    while shard.get(&key("k")).await.is_ok() {}
    let error = shard.get(&key("k")).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    for at in 0..3 {
        cluster.restart(at).unwrap();
    }
    cluster.wait_until_served().unwrap();
    shard.ready(LONG).await.unwrap();
    assert_eq!(at_last(async || shard.get(&key("k")).await).await, None);
    assert_eq!(next(&mut mine).await, InboxEvent::Up);
    store(&shard, "k", "2").await;
}

#[tokio::test]
async fn a_master_that_stops_answering_times_out_and_does_not_hold_up_the_others() {
    let cluster = ValkeyCluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]).unwrap();
    let quick = config::Valkey {
        command_timeout: Duration::from_millis(150),
        connect_timeout: Duration::from_millis(300),
        ..in_cluster()
    };
    let shard = shard_of(&cluster, &quick).await;
    let names = [0, 1, 2].map(|at| tag_at(&cluster, at).0);
    cluster.freeze(2).unwrap();
    for _ in 0..20 {
        let began = Instant::now();
        let error = shard.get(&key(&names[2])).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        assert!(began.elapsed() < Duration::from_millis(400), "{:?}", began.elapsed());
        let began = Instant::now();
        assert_eq!(shard.get(&key(&names[0])).await.unwrap(), None);
        assert!(began.elapsed() < Duration::from_millis(140), "{:?}", began.elapsed());
    }
    cluster.thaw(2).unwrap();
    shard.ready(LONG).await.unwrap();
    assert_eq!(at_last(async || shard.get(&key(&names[2])).await).await, None);
}
