//! Invalidations and refreshes against a real server.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use ringtide_core::command::{Command, Image};
use ringtide_core::entry::State;
use ringtide_core::valkey::{Applied, Fill, FillReply, LeaseReply, LeaseRequest, Notice, Shard, Token};
use ringtide_core::version::Version;

use crate::support::*;

const SECOND: Duration = Duration::from_secs(1);

async fn apply(shard: &Shard, commands: &[Command]) -> Applied {
    shard.apply(commands, 0).await.unwrap()
}

/// Takes the lease of a key, with one waiter.
async fn hold(shard: &Shard, name: &str) -> Token {
    let token = Token::random();
    assert!(matches!(shard.lease(&key(name), &request(token)).await.unwrap(), LeaseReply::Granted { .. }));
    let wait = LeaseRequest { inbox: Some("mine"), ..request(Token::random()) };
    assert!(matches!(shard.lease(&key(name), &wait).await.unwrap(), LeaseReply::Wait { registered: true, .. }));
    token
}

async fn state(raw: &mut MultiplexedConnection, name: &str) -> Option<(State, Version, Version)> {
    let header = parsed(&get(raw, name).await?).header;
    Some((header.state, header.version, header.floor))
}

#[tokio::test]
async fn a_plain_batch_drops_everything_and_voids_the_leases_that_are_held() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let mut mine = inbox(&shard, "mine").await;
    let space = plain();
    let commands: Vec<_> = (0..200).map(|n| invalidate(&format!("p:{n}"), &space, Version::NONE)).collect();
    for n in 0..50 {
        set(&mut raw, &format!("p:{n}"), &value("1")).await;
    }
    set(&mut raw, "p:50", b"foreign").await;
    redis::cmd("LPUSH").arg("p:51").arg(1).exec_async(&mut raw).await.unwrap();
    set(&mut raw, "lock:{p:52}", b"foreign").await;
    let mut tokens = Vec::new();
    for n in [100, 150, 199] {
        tokens.push((n, hold(&shard, &format!("p:{n}")).await));
    }
    let applied = apply(&shard, &commands).await;
    assert_eq!(applied, Applied { absent: 148, dropped: 52, voided: 4, ..Applied::default() });
    assert_eq!(shard.dbsize().await.unwrap(), 0);
    for (n, token) in tokens {
        assert_eq!(notice(&mut mine).await, Notice::Voided { key: key(&format!("p:{n}")) });
        let fill = fill_of(token, value("old"));
        assert_eq!(shard.fill(&key(&format!("p:{n}")), &fill).await.unwrap(), FillReply::Void);
    }
    nothing_more(&mut raw, &mut mine).await;
    assert_eq!(apply(&shard, &commands).await, Applied { absent: 200, ..Applied::default() });
}

#[tokio::test]
async fn a_key_space_that_no_single_item_feeds_never_compares() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    set(&mut raw, "k", &value_at(9, "1")).await;
    let applied = apply(&shard, &[invalidate("k", &plain(), version(3))]).await;
    assert_eq!(applied, Applied { dropped: 1, ..Applied::default() });
}

#[tokio::test]
async fn keeping_stale_marks_values_keeps_their_expiry_and_is_repeatable() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let space = space(ringtide_core::key::Mode::Plain, true);
    set(&mut raw, "v", &value("1")).await;
    redis::cmd("PEXPIRE").arg("v").arg(30_000).exec_async(&mut raw).await.unwrap();
    set(&mut raw, "n", &entry(State::Negative, Version::NONE, Version::NONE, "")).await;
    set(&mut raw, "f", b"foreign").await;
    let token = hold(&shard, "absent").await;
    let commands: Vec<_> =
        ["v", "n", "f", "absent"].iter().map(|name| invalidate(name, &space, Version::NONE)).collect();
    let applied = apply(&shard, &commands).await;
    assert_eq!(applied, Applied { marked: 1, dropped: 2, absent: 1, voided: 1, ..Applied::default() });
    assert_eq!(apply(&shard, &commands).await, Applied { marked: 1, absent: 3, ..Applied::default() });
    let kept = get(&mut raw, "v").await.unwrap();
    assert_eq!((parsed(&kept).header.state, &parsed(&kept).payload[..]), (State::Stale, &b"1"[..]));
    assert!((20_000..=30_000).contains(&pttl(&mut raw, "v").await));
    assert_eq!(shard.fill(&key("absent"), &fill_of(token, value("1"))).await.unwrap(), FillReply::Void);
}

#[tokio::test]
async fn versions_are_compared_as_numbers() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let space = versioned(None, false);
    let at = |created, digits: &str| Version::from_sequence(created, &digits.parse().unwrap());
    let nines = "9".repeat(40);
    let byte = |at: usize, byte: u8| {
        let mut bytes = [0; 28];
        bytes[at] = byte;
        Version::from_bytes(bytes)
    };
    // Each pair is lower, higher.
    let mut pairs = vec![
        (version(0), version(1)),
        (version(0x7f), version(0x80)),
        (version(0xff), version(0x100)),
        (version(u128::MAX - 2), version(u128::MAX - 1)),
        (version(7), version(7).just_above()),
        (version(7).just_above(), version(8)),
        (at(1, "9"), at(1, "10")),
        (at(1, &nines), at(2, "1")),
        (at(1, &format!("1{}", "0".repeat(39))), at(1, &format!("1{}1", "0".repeat(38)))),
        (at(1, &nines[..39]), at(1, &nines)),
        (Version::from_bytes([0x7f; 28]), Version::from_bytes([0x80; 28])),
        (Version::from_bytes([0xfe; 28]), Version::from_bytes([0xff; 28])),
    ];
    for n in 0..27 {
        pairs.push((byte(n + 1, 0xff), byte(n, 0x01)));
        pairs.push((byte(n, 0x7f), byte(n, 0x80)));
    }
    for (n, (lower, higher)) in pairs.into_iter().enumerate() {
        assert!(lower < higher);
        let name = format!("k:{n}");
        set(&mut raw, &name, &entry(State::Value, higher, Version::NONE, "1")).await;
        let older = Applied { older: 1, ..Applied::default() };
        assert_eq!(apply(&shard, &[invalidate(&name, &space, lower)]).await, older, "{lower:?} {higher:?}");
        assert_eq!(apply(&shard, &[invalidate(&name, &space, higher)]).await, older);
        set(&mut raw, &name, &entry(State::Value, Version::NONE, lower, "1")).await;
        let dropped = Applied { dropped: 1, ..Applied::default() };
        assert_eq!(apply(&shard, &[invalidate(&name, &space, higher)]).await, dropped, "{lower:?} {higher:?}");
    }
}

#[tokio::test]
async fn a_versioned_invalidation_raises_the_leases_floor_and_keeps_the_lease() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let mut mine = inbox(&shard, "mine").await;
    let space = versioned(None, false);
    let token = hold(&shard, "k").await;
    let commands = [invalidate("k", &space, version(5)), invalidate("k", &space, version(4))];
    assert_eq!(apply(&shard, &commands).await, Applied { absent: 2, ..Applied::default() });
    assert!(pttl(&mut raw, "lock:{k}").await > 3000);
    let fill = |number| Fill { version: version(number), ..fill_of(token, value_at(number, "v")) };
    assert_eq!(shard.fill(&key("k"), &fill(4)).await.unwrap(), FillReply::Below { floor: version(5) });
    assert_eq!(shard.fill(&key("k"), &fill(6)).await.unwrap(), FillReply::Stored);
    assert_eq!(state(&mut raw, "k").await, Some((State::Value, version(6), version(5))));
    assert!(matches!(notice(&mut mine).await, Notice::Filled { .. }));
    // A replay changes nothing.
    assert_eq!(apply(&shard, &commands).await, Applied { older: 2, ..Applied::default() });
    assert_eq!(state(&mut raw, "k").await, Some((State::Value, version(6), version(5))));

    // Without a version it drops and voids in this mode too, twice in one batch as well.
    let token = Token::random();
    set(&mut raw, "lock:{k}", &[&b"RTL\x01"[..], token.as_bytes(), &[0; 28], b"\x04mine"].concat()).await;
    let kept = versioned(None, true);
    for space in [&space, &kept] {
        set(&mut raw, "n", &entry(State::Negative, version(1), Version::NONE, "")).await;
        let both = [invalidate("n", space, Version::NONE), invalidate("n", space, Version::NONE)];
        let applied = apply(&shard, &both).await;
        assert_eq!((applied.dropped, applied.absent), (1, 1));
    }
    let twice = [invalidate("k", &kept, Version::NONE), invalidate("k", &kept, version(9))];
    let applied = apply(&shard, &twice).await;
    assert_eq!(applied, Applied { marked: 2, voided: 1, ..Applied::default() });
    assert_eq!(get(&mut raw, "lock:{k}").await, None);
    assert_eq!(notice(&mut mine).await, Notice::Voided { key: key("k") });
}

#[tokio::test]
async fn a_floor_outlives_its_entry_in_the_lease() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let space = versioned(None, true);
    set(&mut raw, "k", &value_at(3, "old")).await;
    apply(&shard, &[invalidate("k", &space, version(5))]).await;
    assert_eq!(state(&mut raw, "k").await, Some((State::Stale, version(3), version(5))));
    assert!(pttl(&mut raw, "k").await > 50_000);
    let token = Token::random();
    let reply = shard.lease(&key("k"), &request(token)).await.unwrap();
    assert!(matches!(reply, LeaseReply::Granted { floor, stale: Some(_) } if floor == version(5)));
    redis::cmd("DEL").arg("k").exec_async(&mut raw).await.unwrap();
    apply(&shard, &[invalidate("k", &space, version(6))]).await;
    let fill = Fill { version: version(5), ..fill_of(token, value_at(5, "v")) };
    assert_eq!(shard.fill(&key("k"), &fill).await.unwrap(), FillReply::Below { floor: version(6) });
}

#[tokio::test]
async fn tombstones_hold_the_floor_where_loads_may_lag() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let space = versioned(Some(20 * SECOND), false);
    set(&mut raw, "there", &value_at(3, "old")).await;
    set(&mut raw, "foreign", b"x").await;
    redis::cmd("LPUSH").arg("list").arg(1).exec_async(&mut raw).await.unwrap();
    let names = ["there", "absent", "foreign", "list"];
    let at = |number| names.map(|name| invalidate(name, &space, version(number)));
    assert_eq!(apply(&shard, &at(5)).await, Applied { dropped: 3, absent: 1, ..Applied::default() });
    assert_eq!(apply(&shard, &at(4)).await, Applied { older: 4, ..Applied::default() });
    for name in names {
        assert_eq!(state(&mut raw, name).await, Some((State::Tombstone, Version::NONE, version(5))), "{name}");
        assert!((10_000..=20_000).contains(&pttl(&mut raw, name).await));
    }
    assert_eq!(apply(&shard, &at(6)).await, Applied { absent: 4, ..Applied::default() });
    let token = Token::random();
    let reply = shard.lease(&key("absent"), &request(token)).await.unwrap();
    assert_eq!(reply, LeaseReply::Granted { floor: version(6), stale: None });
    let lagging = Fill { version: version(5), ..fill_of(token, value_at(5, "v")) };
    assert_eq!(shard.fill(&key("absent"), &lagging).await.unwrap(), FillReply::Below { floor: version(6) });

    // A stale value stands in for the tombstone, and lives as long as one.
    let keeping = versioned(Some(20 * SECOND), true);
    set(&mut raw, "short", &value_at(3, "old")).await;
    redis::cmd("PEXPIRE").arg("short").arg(5000).exec_async(&mut raw).await.unwrap();
    let marked = Applied { marked: 1, ..Applied::default() };
    assert_eq!(apply(&shard, &[invalidate("short", &keeping, version(5))]).await, marked);
    assert_eq!(state(&mut raw, "short").await, Some((State::Stale, version(3), version(5))));
    assert!(pttl(&mut raw, "short").await > 10_000);
    // Where the configuration has none any more, those that are left are still raised.
    assert_eq!(apply(&shard, &[invalidate("list", &versioned(None, false), version(8))]).await.absent, 1);
    assert_eq!(state(&mut raw, "list").await, Some((State::Tombstone, Version::NONE, version(8))));
}

#[tokio::test]
async fn a_refresh_replaces_what_is_there_and_older() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let mut mine = inbox(&shard, "mine").await;
    let space = versioned(None, false);
    set(&mut raw, "k", &value_at(3, "old")).await;
    let json = |text: &str| Image::Json(text.to_owned().into());
    let to = |name, number, image, populate| [refresh(name, &space, version(number), image, populate)];
    let refreshed = Applied { refreshed: 1, ..Applied::default() };
    let older = Applied { older: 1, ..Applied::default() };
    assert_eq!(apply(&shard, &to("k", 5, json("new"), false)).await, refreshed);
    assert_eq!(state(&mut raw, "k").await, Some((State::Value, version(5), version(5))));
    assert_eq!(parsed(&get(&mut raw, "k").await.unwrap()).payload, "new");
    assert!((90_000..=100_000).contains(&pttl(&mut raw, "k").await));
    assert_eq!(apply(&shard, &to("k", 5, json("again"), false)).await, older);
    assert_eq!(apply(&shard, &to("k", 4, json("late"), true)).await, older);
    assert_eq!(apply(&shard, &to("k", 6, Image::Deleted, false)).await, refreshed);
    assert_eq!(state(&mut raw, "k").await, Some((State::Negative, version(6), version(6))));
    assert!(pttl(&mut raw, "k").await <= 10_000);

    // Absent: only the floor of the lease is raised, unless it is to be populated.
    let token = hold(&shard, "a").await;
    assert_eq!(apply(&shard, &to("a", 5, json("x"), false)).await, Applied { absent: 1, ..Applied::default() });
    let fill = Fill { version: version(4), ..fill_of(token, value_at(4, "v")) };
    assert_eq!(shard.fill(&key("a"), &fill).await.unwrap(), FillReply::Below { floor: version(5) });
    let populated = Applied { refreshed: 1, voided: 1, ..Applied::default() };
    assert_eq!(apply(&shard, &to("a", 6, json("six"), true)).await, populated);
    let stored = get(&mut raw, "a").await.unwrap();
    assert_eq!(notice(&mut mine).await, Notice::Filled { holder: token, key: key("a"), entry: Some(stored) });
    assert_eq!(shard.fill(&key("a"), &fill).await.unwrap(), FillReply::Void);

    set(&mut raw, "f", b"foreign").await;
    assert_eq!(apply(&shard, &to("f", 6, json("x"), false)).await.dropped, 1);
    assert_eq!(get(&mut raw, "f").await, None);
    nothing_more(&mut raw, &mut mine).await;
}

#[tokio::test]
async fn a_refresh_past_its_deadline_drops_and_voids_instead() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let mut mine = inbox(&shard, "mine").await;
    let space = versioned(None, false);
    let (seconds, _): (u64, u64) = redis::cmd("TIME").query_async(&mut raw).await.unwrap();
    let commands = [refresh("k", &space, version(5), Image::Json("new".into()), true)];
    set(&mut raw, "k", &value_at(3, "old")).await;
    let token = Token::random();
    set(&mut raw, "lock:{k}", &[&b"RTL\x01"[..], token.as_bytes(), &[0; 28], b"\x04mine"].concat()).await;
    let late = shard.apply(&commands, (seconds - 1) * 1000).await.unwrap();
    assert_eq!(late, Applied { late: 1, voided: 1, ..Applied::default() });
    assert_eq!(notice(&mut mine).await, Notice::Voided { key: key("k") });
    assert_eq!(shard.dbsize().await.unwrap(), 0);
    let in_time = shard.apply(&commands, (seconds + 60) * 1000).await.unwrap();
    assert_eq!(in_time, Applied { refreshed: 1, ..Applied::default() });
    // What is already new enough is kept, however late.
    let late = shard.apply(&commands, 1).await.unwrap();
    assert_eq!(late, Applied { older: 1, ..Applied::default() });

    // Where loads may lag, the floor stays behind.
    let space = versioned(Some(20 * SECOND), false);
    set(&mut raw, "lagging", &value_at(3, "old")).await;
    let commands = [refresh("lagging", &space, version(5), Image::Json("new".into()), true)];
    let late = shard.apply(&commands, 1).await.unwrap();
    assert_eq!(late, Applied { late: 1, ..Applied::default() });
    assert_eq!(state(&mut raw, "lagging").await, Some((State::Tombstone, Version::NONE, version(5))));
}

#[tokio::test]
async fn a_refresh_of_what_is_absent_leaves_a_tombstone_where_loads_may_lag() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let space = versioned(Some(20 * SECOND), false);
    let absent = Applied { absent: 1, ..Applied::default() };
    for number in [5, 6] {
        let commands = [refresh("k", &space, version(number), Image::Deleted, false)];
        assert_eq!(apply(&shard, &commands).await, absent);
        assert_eq!(state(&mut raw, "k").await, Some((State::Tombstone, Version::NONE, version(number))));
    }
}

#[tokio::test]
async fn a_server_without_memory_still_drops() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let keeping = space(ringtide_core::key::Mode::Plain, true);
    let (plain, versioned) = (plain(), versioned(None, false));
    for name in ["a", "b", "c"] {
        set(&mut raw, name, &value_at(3, "old")).await;
    }
    let token = hold(&shard, "d").await;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).exec_async(&mut raw).await.unwrap();
    let commands = [
        invalidate("a", &plain, Version::NONE),
        invalidate("b", &keeping, Version::NONE),
        refresh("c", &versioned, version(5), Image::Json("new".into()), false),
    ];
    assert_eq!(apply(&shard, &commands).await, Applied { dropped: 3, ..Applied::default() });
    // A floor that cannot be noted down costs the lease.
    let applied = apply(&shard, &[invalidate("d", &versioned, version(5))]).await;
    assert_eq!(applied, Applied { absent: 1, voided: 1, ..Applied::default() });
    let late = Fill { version: version(4), ..fill_of(token, value_at(4, "x")) };
    assert_eq!(shard.fill(&key("d"), &late).await.unwrap(), FillReply::Void);
    // A tombstone that cannot be stored is asked for again, but the entry is gone.
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(0).exec_async(&mut raw).await.unwrap();
    set(&mut raw, "t", &value_at(3, "old")).await;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(1).exec_async(&mut raw).await.unwrap();
    let lagging = [invalidate("t", &self::versioned(Some(SECOND), false), version(5))];
    let error = shard.apply(&lagging, 0).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("OOM"), "{error}");
    assert_eq!(get(&mut raw, "t").await, None);
    let error = shard.lease(&key("e"), &request(Token::random())).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("OOM"), "{error}");
}

#[tokio::test]
async fn a_large_mixed_batch_is_split_and_counted() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    let (plain, compared) = (plain(), versioned(None, false));
    let mut commands = Vec::new();
    for n in 0..450 {
        set(&mut raw, &format!("p:{n}"), &value("1")).await;
        set(&mut raw, &format!("v:{n}"), &value_at(n, "1")).await;
        commands.push(invalidate(&format!("p:{n}"), &plain, Version::NONE));
        commands.push(invalidate(&format!("v:{n}"), &compared, version(200)));
        commands.push(refresh(&format!("r:{n}"), &compared, version(1), Image::Json("x".into()), n < 10));
    }
    let applied = apply(&shard, &commands).await;
    let expected = Applied { dropped: 450 + 200, older: 250, refreshed: 10, absent: 440, ..Applied::default() };
    assert_eq!(applied, expected);
    assert_eq!(apply(&shard, &[]).await, Applied::default());
}

#[tokio::test]
async fn a_flush_takes_entries_and_locks_of_its_prefix_only() {
    let server = Server::start();
    let (shard, mut raw) = (server.shard().await, server.raw().await);
    for n in 0..600 {
        set(&mut raw, &format!("a*:{n}"), &value("1")).await;
        set(&mut raw, &format!("aa:{n}"), &value("1")).await;
    }
    for name in ["lock:{a*:7}", "lock:a*:{t}", "lock:{aa:7}", "lock:{xa*:7}"] {
        set(&mut raw, name, b"x").await;
    }
    assert_eq!(shard.keys("a*:").await.unwrap().len(), 600);
    assert_eq!(shard.flush("a*:", Duration::ZERO).await.unwrap(), 602);
    assert_eq!(shard.keys("a*:").await.unwrap().len(), 0);
    assert_eq!(shard.dbsize().await.unwrap(), 602);
    assert_eq!(shard.flush("", Duration::ZERO).await.unwrap(), 602);
}
