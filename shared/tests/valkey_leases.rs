//! Leasing, extending, filling and releasing against a real server.

use std::time::Duration;

use ringtide_core::entry::State;
use ringtide_core::valkey::{Fill, FillReply, LeaseReply, LeaseRequest, Notice, Release, Token};
use ringtide_core::version::Version;

use crate::support::*;

#[tokio::test]
async fn a_fresh_entry_is_a_hit_and_anything_else_a_grant() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    for (name, bytes) in [("v", value("1")), ("n", entry(State::Negative, version(3), version(2), ""))] {
        set(&mut raw, name, &bytes).await;
        let reply = shard.lease(&key(name), &request(Token::random())).await.unwrap();
        assert_eq!(reply, LeaseReply::Hit(bytes));
    }

    let mut later = value("1").to_vec();
    later[4] = 2;
    let mut cut = value("12345").to_vec();
    cut.pop();
    let mut codec = value("1").to_vec();
    codec[6] = 0x23;
    for (name, bytes) in [("f", &b"foreign"[..]), ("e", b""), ("l", &later), ("c", &cut), ("d", &codec)] {
        set(&mut raw, name, bytes).await;
        let reply = shard.lease(&key(name), &request(Token::random())).await.unwrap();
        assert_eq!(reply, LeaseReply::Granted { floor: Version::NONE, stale: None }, "{name}");
    }
    redis::cmd("LPUSH").arg("list").arg(1).exec_async(&mut raw).await.unwrap();
    let token = Token::random();
    let reply = shard.lease(&key("list"), &request(token)).await.unwrap();
    assert_eq!(reply, LeaseReply::Granted { floor: Version::NONE, stale: None });
    assert_eq!(shard.get(&key("list")).await.unwrap(), None);
    assert_eq!(shard.fill(&key("list"), &fill_of(token, value("2"))).await.unwrap(), FillReply::Stored);
    assert_eq!(parsed(&shard.get(&key("list")).await.unwrap().unwrap()).payload, "2");
}

#[tokio::test]
async fn what_is_not_fresh_comes_with_the_grant_and_gives_its_floor() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let stale = entry(State::Stale, version(5), version(7), "old");
    set(&mut raw, "s", &stale).await;
    let reply = shard.lease(&key("s"), &request(Token::random())).await.unwrap();
    assert_eq!(reply, LeaseReply::Granted { floor: version(7), stale: Some(stale.clone()) });
    let reply = shard.lease(&key("s"), &request(Token::random())).await.unwrap();
    assert!(matches!(reply, LeaseReply::Wait { stale: Some(bytes), registered: false, .. } if bytes == stale));

    set(&mut raw, "t", &entry(State::Tombstone, Version::NONE, version(9), "")).await;
    let reply = shard.lease(&key("t"), &request(Token::random())).await.unwrap();
    assert_eq!(reply, LeaseReply::Granted { floor: version(9), stale: None });

    // Past its soft expiry only for those who say so.
    let mut soft = value_at(4, "soft").to_vec();
    soft[64..72].copy_from_slice(&1_700_000_000_123_u64.to_be_bytes());
    set(&mut raw, "x", &soft).await;
    let at = |refresh_before_ms| LeaseRequest { refresh_before_ms, ..request(Token::random()) };
    let early = shard.lease(&key("x"), &at(1_700_000_000_122)).await.unwrap();
    assert!(matches!(early, LeaseReply::Hit(_)));
    let due = shard.lease(&key("x"), &at(1_700_000_000_123)).await.unwrap();
    assert_eq!(due, LeaseReply::Granted { floor: version(4), stale: Some(soft.into()) });
}

#[tokio::test]
async fn one_attempt_holds_the_lease_and_asking_again_with_its_token_finds_it() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let (holder, other) = (Token::random(), Token::random());
    let granted = LeaseReply::Granted { floor: Version::NONE, stale: None };
    assert_eq!(shard.lease(&key("k"), &request(holder)).await.unwrap(), granted);
    assert_eq!(shard.lease(&key("k"), &request(holder)).await.unwrap(), granted);
    let LeaseReply::Wait { remaining, registered, holder: told, stale } =
        shard.lease(&key("k"), &request(other)).await.unwrap()
    else {
        panic!("two hold the lease");
    };
    assert!(remaining > Duration::from_secs(3) && remaining <= Duration::from_secs(5), "{remaining:?}");
    assert!(!registered && stale.is_none());
    assert_eq!(told, holder);

    assert!(!shard.extend(&key("k"), &other, Duration::from_secs(50)).await.unwrap());
    assert!(shard.extend(&key("k"), &holder, Duration::from_secs(50)).await.unwrap());
    assert!(pttl(&mut raw, "lock:{k}").await > 40_000);
    assert!(!shard.release(&key("k"), &other, Release::Retry).await.unwrap());
    assert_eq!(shard.fill(&key("k"), &fill_of(other, value("1"))).await.unwrap(), FillReply::Void);
    assert_eq!(get(&mut raw, "k").await, None);
}

#[tokio::test]
async fn an_expired_lease_stores_nothing() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let token = Token::random();
    let short = LeaseRequest { ttl: Duration::from_millis(1), ..request(token) };
    shard.lease(&key("k"), &short).await.unwrap();
    while get(&mut raw, "lock:{k}").await.is_some() {}
    assert!(!shard.extend(&key("k"), &token, Duration::from_secs(1)).await.unwrap());
    assert_eq!(shard.fill(&key("k"), &fill_of(token, value("1"))).await.unwrap(), FillReply::Void);
    assert!(!shard.release(&key("k"), &token, Release::Retry).await.unwrap());
    assert_eq!(get(&mut raw, "k").await, None);
}

#[tokio::test]
async fn waiters_are_woken_once_with_the_entry_that_was_stored() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let (mut near, mut far) = (inbox(&shard, "near").await, inbox(&shard, "far").await);
    let token = Token::random();
    shard.lease(&key("k"), &request(token)).await.unwrap();
    for channel in ["near", "far", "near"] {
        let ask = LeaseRequest { inbox: Some(channel), ..request(Token::random()) };
        let reply = shard.lease(&key("k"), &ask).await.unwrap();
        assert!(matches!(reply, LeaseReply::Wait { registered: true, .. }), "{reply:?}");
    }
    let fill = Fill { version: version(3), ..fill_of(token, value_at(3, "three")) };
    assert_eq!(shard.fill(&key("k"), &fill).await.unwrap(), FillReply::Stored);
    let stored = shard.get(&key("k")).await.unwrap().unwrap();
    for inbox in [&mut near, &mut far] {
        assert_eq!(notice(inbox).await, Notice::Filled { holder: token, key: key("k"), entry: Some(stored.clone()) });
        nothing_more(&mut raw, inbox).await;
    }
    assert_eq!(get(&mut raw, "lock:{k}").await, None);
    assert!(pttl(&mut raw, "k").await > 50_000);
    // A second delivery of the same fill finds no lease.
    assert_eq!(shard.fill(&key("k"), &fill).await.unwrap(), FillReply::Void);
}

#[tokio::test]
async fn a_long_entry_stays_behind_and_a_failed_load_says_why() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let mut mine = inbox(&shard, "mine").await;
    let wait = LeaseRequest { inbox: Some("mine"), ..request(Token::random()) };

    let token = Token::random();
    shard.lease(&key("long"), &request(token)).await.unwrap();
    shard.lease(&key("long"), &wait).await.unwrap();
    shard.fill(&key("long"), &fill_of(token, value(&"x".repeat(1024)))).await.unwrap();
    assert_eq!(notice(&mut mine).await, Notice::Filled { holder: token, key: key("long"), entry: None });

    for (release, expected) in [
        (Release::Retry, Notice::Voided { key: key("r") }),
        (Release::Failed("boom"), Notice::Released { key: key("r"), reason: "boom".to_owned() }),
        (Release::Failed(&"ä".repeat(150)), Notice::Released { key: key("r"), reason: "ä".repeat(100) }),
    ] {
        let token = Token::random();
        shard.lease(&key("r"), &request(token)).await.unwrap();
        shard.lease(&key("r"), &wait).await.unwrap();
        assert!(shard.release(&key("r"), &token, release).await.unwrap());
        assert_eq!(notice(&mut mine).await, expected);
        assert_eq!(get(&mut raw, "lock:{r}").await, None);
    }
    nothing_more(&mut raw, &mut mine).await;
}

#[tokio::test]
async fn a_fill_below_the_floor_keeps_the_lease_until_it_is_proven() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    set(&mut raw, "k", &entry(State::Tombstone, Version::NONE, version(9), "")).await;
    let token = Token::random();
    shard.lease(&key("k"), &request(token)).await.unwrap();
    // The floor is evicted with its entry, but not with the lease.
    redis::cmd("DEL").arg("k").exec_async(&mut raw).await.unwrap();
    let below = FillReply::Below { floor: version(9) };
    let fill = |number| Fill { version: version(number), ..fill_of(token, value_at(number, "v")) };
    assert_eq!(shard.fill(&key("k"), &fill(8)).await.unwrap(), below);
    assert_eq!(shard.fill(&key("k"), &fill_of(token, value("v"))).await.unwrap(), below);
    assert!(shard.extend(&key("k"), &token, Duration::from_secs(5)).await.unwrap());
    let proven = Fill { proven: version(9), ..fill_of(token, value("strong")) };
    assert_eq!(shard.fill(&key("k"), &proven).await.unwrap(), FillReply::Stored);
    let stored = parsed(&get(&mut raw, "k").await.unwrap());
    assert_eq!((stored.header.version, stored.header.floor), (Version::NONE, version(9)));
    assert_eq!(stored.payload, "strong");
}

#[tokio::test]
async fn an_older_fill_gives_waiters_the_newer_entry() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let mut mine = inbox(&shard, "mine").await;
    let token = Token::random();
    shard.lease(&key("k"), &request(token)).await.unwrap();
    let wait = LeaseRequest { inbox: Some("mine"), ..request(Token::random()) };
    shard.lease(&key("k"), &wait).await.unwrap();
    let newer = entry(State::Value, version(8), Version::NONE, "new");
    set(&mut raw, "k", &newer).await;
    let fill = Fill { version: version(7), ..fill_of(token, value_at(7, "old")) };
    assert_eq!(shard.fill(&key("k"), &fill).await.unwrap(), FillReply::Older);
    assert_eq!(get(&mut raw, "k").await.unwrap(), newer);
    assert_eq!(notice(&mut mine).await, Notice::Filled { holder: token, key: key("k"), entry: Some(newer) });
    assert_eq!(get(&mut raw, "lock:{k}").await, None);
}

#[tokio::test]
async fn foreign_locks_are_waited_for_and_never_written_to() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    set(&mut raw, "lock:{a}", b"somebody's").await;
    redis::cmd("SET").arg("lock:{b}").arg("forever").exec_async(&mut raw).await.unwrap();
    redis::cmd("LPUSH").arg("lock:{c}").arg(1).exec_async(&mut raw).await.unwrap();
    for (name, longest) in [("a", 60), ("b", 5), ("c", 5)] {
        let ask = LeaseRequest { inbox: Some("mine"), ..request(Token::random()) };
        let reply = shard.lease(&key(name), &ask).await.unwrap();
        let LeaseReply::Wait { remaining, registered: false, stale: None, .. } = reply else { panic!("{reply:?}") };
        assert!(remaining <= Duration::from_secs(longest) && remaining > Duration::from_secs(longest - 2), "{name}");
        assert_eq!(shard.fill(&key(name), &fill_of(ask.token, value("1"))).await.unwrap(), FillReply::Void);
    }
    assert_eq!(get(&mut raw, "lock:{a}").await.unwrap(), "somebody's");
}

#[tokio::test]
async fn a_lock_that_is_full_of_waiters_takes_no_more() {
    let server = Server::start();
    let shard = server.shard().await;
    let token = Token::random();
    shard.lease(&key("k"), &request(token)).await.unwrap();
    let mut registered = 0;
    for number in 0..300 {
        let channel = format!("{number:0>255}");
        let ask = LeaseRequest { inbox: Some(&channel), ..request(Token::random()) };
        match shard.lease(&key("k"), &ask).await.unwrap() {
            LeaseReply::Wait { registered: true, .. } => registered += 1,
            LeaseReply::Wait { .. } => {}
            reply => panic!("{reply:?}"),
        }
    }
    assert_eq!(registered, 256);
    let too_long = "x".repeat(256);
    let ask = LeaseRequest { inbox: Some(&too_long), ..request(Token::random()) };
    let reply = shard.lease(&key("k"), &ask).await.unwrap();
    assert!(matches!(reply, LeaseReply::Wait { registered: false, .. }));
}

#[tokio::test]
async fn keys_with_a_hash_tag_and_bytes_above_ascii_lock_and_wake() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let mut mine = inbox(&shard, "mine").await;
    for (name, lock) in [("{u}:ß", "lock:{u}:ß"), ("ÿ\u{1f600}", "lock:{ÿ\u{1f600}}")] {
        let token = Token::random();
        shard.lease(&key(name), &request(token)).await.unwrap();
        assert!(get(&mut raw, lock).await.is_some());
        let wait = LeaseRequest { inbox: Some("mine"), ..request(Token::random()) };
        shard.lease(&key(name), &wait).await.unwrap();
        shard.fill(&key(name), &fill_of(token, value("1"))).await.unwrap();
        assert_eq!(notice(&mut mine).await.key(), &key(name));
    }
}

#[tokio::test]
async fn a_lease_from_before_a_purge_stores_nothing_that_outlives_it() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let mut fillers = redis::cmd("MSET");
    (0..2000).for_each(|n| {
        fillers.arg(format!("theirs:{n}")).arg("RT");
    });
    fillers.exec_async(&mut raw).await.unwrap();
    // A lock's name is longer than its key.
    let names: Vec<String> = (0..100).map(|n| n.to_string()).chain([format!("long:{}", "x".repeat(8185))]).collect();
    let mut held = Vec::new();
    for name in &names {
        let token = Token::random();
        shard.lease(&key(name), &request(token)).await.unwrap();
        held.push((name, token));
    }
    let fills = async {
        // As many pages of names later: some names are seen by then, and some are not.
        tokio::time::sleep(Duration::from_millis(70)).await;
        for (name, token) in held {
            shard.fill(&key(name), &fill_of(token, value("old"))).await.unwrap();
        }
    };
    let (purged, ()) = tokio::join!(shard.purge(Duration::from_millis(20)), fills);
    purged.unwrap();
    for name in &names {
        assert_eq!(shard.get(&key(name)).await.unwrap(), None, "{}", &name[..name.len().min(9)]);
    }
    assert_eq!(shard.dbsize().await.unwrap(), 2000);
}
