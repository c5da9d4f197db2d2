//! A ring whose membership changes while it is read.

mod invalidators;
mod left;
mod moved;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ringtide::{
    Cache, CacheBuilder, CacheKey, ChangeError, Config, Membership, Placement, RingChange, RingChangeError, ShardName,
    ShardSpec, ShardState, SpaceSettings, Version, config,
};
use ringtide_core::pipeline::{Limits, Pipeline, RingShard};
use ringtide_core::record::{RawRecord, record_from_json};
use ringtide_core::ring::{Ring, RingHistory};
use ringtide_core::route::Router;
use ringtide_core::valkey::{Fill, FillReply, LeaseReply, LeaseRequest, Shard, Token};
use tokio::time::Instant;

use super::support::{Counters, LONG, Server, until};

const KEYS: u64 = 60;

fn spec(name: &str, server: &Server) -> ShardSpec {
    ShardSpec { name: ShardName::new(name), address: server.address(), weight: 1 }
}

fn ring(epoch: u64, shards: &[(&str, &Server)]) -> Membership {
    let shards = shards.iter().map(|(name, server)| spec(name, server)).collect();
    Membership { epoch, changed_at_ms: 0, placement: Placement::default(), shards }
}

fn on(membership: &Membership) -> CacheBuilder {
    patient(membership, LONG)
}

/// A builder whose commands and connections may take so long: on a busy machine nothing is late by mistake.
fn patient(membership: &Membership, patience: Duration) -> CacheBuilder {
    let text = "ring = { shards = [{ name = \"x\", address = \"h:1\" }] }\n[spaces.item]\nkey = \"item:{pk}\"\n";
    let config = Config::parse(text, []).unwrap();
    let valkey = config::Valkey { connect_timeout: patience, command_timeout: patience, ..config::Valkey::default() };
    Cache::builder().config(Config { ring: membership.clone(), valkey, ..config })
}

/// Rows by number, each with its value.
#[derive(Clone, Default)]
struct Table {
    rows: Arc<BTreeMap<u64, AtomicU64>>,
    loads: Arc<AtomicU64>,
}

impl Table {
    fn new() -> Self {
        Self { rows: Arc::new((0..KEYS).map(|row| (row, AtomicU64::new(0))).collect()), loads: Arc::default() }
    }

    fn write(&self, row: u64, value: u64) {
        self.rows[&row].store(value, Ordering::SeqCst);
    }

    fn now(&self, row: u64) -> u64 {
        self.rows[&row].load(Ordering::SeqCst)
    }

    fn loads(&self) -> u64 {
        self.loads.load(Ordering::SeqCst)
    }

    async fn read(&self, cache: &Cache, row: u64) -> u64 {
        let table = self.clone();
        let load = move || {
            let table = table.clone();
            async move {
                table.loads.fetch_add(1, Ordering::SeqCst);
                Ok::<_, Infallible>(Some(table.now(row)))
            }
        };
        let items = cache.space::<u64>("item").unwrap();
        tokio::time::timeout(LONG, items.get_or_load(row, load)).await.expect("nobody hangs").unwrap().unwrap()
    }

    async fn read_all(&self, cache: &Cache) -> Vec<u64> {
        let mut read = Vec::new();
        for row in 0..KEYS {
            read.push(self.read(cache, row).await);
        }
        cache.settled().await;
        read
    }
}

async fn change(cache: &Cache, membership: Membership) {
    assert_eq!(cache.change_ring(membership).await.unwrap(), RingChange::Changed { unflushed: Vec::new() });
}

#[tokio::test]
async fn a_value_that_was_written_while_its_key_lived_elsewhere_does_not_come_back() {
    let (a, b) = (Server::start().await, Server::start().await);
    let (cache, table) = (on(&ring(1, &[("a", &a)])).build().await.unwrap(), Table::new());
    table.read_all(&cache).await;
    change(&cache, ring(2, &[("a", &a), ("b", &b)])).await;
    assert_eq!(table.read_all(&cache).await, vec![0; KEYS as usize]);
    let moved = table.loads() - KEYS;
    assert!((10..50).contains(&moved), "{moved} of {KEYS} keys moved to the other of two shards");
    for row in 0..KEYS {
        table.write(row, 1);
        let invalidated = cache.space::<u64>("item").unwrap().invalidate(row).await.unwrap();
        assert!(invalidated.is_done() && invalidated.applied.dropped >= 1, "{row}: {invalidated:?}");
    }
    change(&cache, ring(3, &[("a", &a)])).await;
    assert_eq!(table.read_all(&cache).await, vec![1; KEYS as usize]);
}

#[tokio::test]
async fn neither_does_it_where_records_invalidate() {
    let (a, b) = (Server::start().await, Server::start().await);
    let rings = [ring(1, &[("a", &a)]), ring(2, &[("a", &a), ("b", &b)]), ring(3, &[("a", &a)])];
    let (cache, table) = (on(&rings[0]).build().await.unwrap(), Table::new());
    let route = "ring = { shards = [{ name = \"x\", address = \"h:1\" }] }\n[spaces.item]\nkey = \"item:{pk}\"\n\
                 [[routes]]\ntable = \"items\"\nspace = \"item\"\n";
    let config = Config::parse(route, []).unwrap();
    let valkey = config::Valkey { command_timeout: LONG, ..config::Valkey::default() };
    // Knows every membership before the reader does.
    let pipeline = async |known: &[Membership]| {
        let mut history = RingHistory::new(Ring::new(known[0].clone()).unwrap(), 3_600_000);
        for membership in &known[1..] {
            history = history.change(membership.clone(), ringtide_core::clock::unix_ms()).unwrap().unwrap().history;
        }
        let mut shards: Vec<(ShardName, Arc<dyn RingShard>)> = Vec::new();
        for (name, server) in [("a", &a), ("b", &b)] {
            let shard = Shard::connect(&spec(name, server), &valkey).unwrap();
            shard.ready(LONG).await.unwrap();
            shards.push((ShardName::new(name), Arc::new(shard)));
        }
        Pipeline::start(Router::new(config.routes.clone()), history, shards, Limits::default(), None)
    };
    table.read_all(&cache).await;
    let both = pipeline(&rings[..2]).await;
    change(&cache, rings[1].clone()).await;
    table.read_all(&cache).await;
    (0..KEYS).for_each(|row| table.write(row, 1));
    let page: Vec<_> = (0..KEYS).map(record).collect();
    let delivered = both.deliver(&page, Instant::now() + LONG).await;
    assert_eq!(delivered.first_undelivered, None);
    change(&cache, rings[2].clone()).await;
    assert_eq!(table.read_all(&cache).await, vec![1; KEYS as usize]);
}

fn record(row: u64) -> Result<ringtide_core::record::ChangeRecord, ringtide_core::record::UnreadableRecord> {
    let image = format!(r#"{{"pk":{{"N":"{row}"}}}}"#);
    let text = format!(
        r#"{{"eventName":"MODIFY","eventSourceARN":"arn:aws:dynamodb:eu-west-1:123456789012:table/items/stream/2026-01-02T03:04:05.678",
        "dynamodb":{{"Keys":{image},"OldImage":{image},"NewImage":{image},"SequenceNumber":"{}"}}}}"#,
        1000 + row
    );
    record_from_json(RawRecord::parse(text).unwrap().as_raw())
}

#[tokio::test]
async fn a_shard_that_rejoins_is_not_read_from_before_its_entries_and_leases_are_gone() {
    let (a, b) = (Server::start().await, Server::start().await);
    let table = Table::new();
    // Another reader has left entries, of a key space and of keys given as they are, on what was told of no change since.
    let before = on(&ring(1, &[("a", &a), ("b", &b)])).build().await.unwrap();
    table.read_all(&before).await;
    let cached = |value: u64| move || async move { Ok::<_, Infallible>(Some(value)) };
    for key in 0..KEYS {
        before.get_or_load(format!("raw:{key}"), cached(0)).await.unwrap();
    }
    before.settled().await;
    let mut raw = b.connection().await;
    redis::cmd("SET").arg("foreign").arg("kept").exec_async(&mut raw).await.unwrap();
    let (held, token) = (b.shard().await, Token::random());
    let leased = ["item:leased", "raw:leased", "{tagged}"].map(|key| CacheKey::new(key).unwrap());
    for key in &leased {
        let request = LeaseRequest { token, ttl: LONG, inbox: None, refresh_before_ms: 0 };
        assert!(matches!(held.lease(key, &request).await.unwrap(), LeaseReply::Granted { .. }));
    }
    (0..KEYS).for_each(|row| table.write(row, 1));

    let cache = on(&ring(1, &[("a", &a)])).build().await.unwrap();
    for row in 0..KEYS {
        let _ = cache.space::<u64>("item").unwrap().invalidate(row).await.unwrap();
        let _ = cache.invalidate(format!("raw:{row}")).await.unwrap();
    }
    change(&cache, ring(2, &[("a", &a), ("b", &b)])).await;
    assert_eq!(table.read_all(&cache).await, vec![1; KEYS as usize]);
    for key in 0..KEYS {
        assert_eq!(cache.get_or_load(format!("raw:{key}"), cached(1)).await.unwrap(), Some(1));
    }
    assert!(b.exists("foreign").await);
    let (version, entry) = (Version::NONE, Bytes::from_static(b"old"));
    let fill = Fill { token, version, proven: version, ttl: LONG, entry, inline_max: 0 };
    for key in &leased {
        assert_eq!(held.fill(key, &fill).await.unwrap(), FillReply::Void, "{key}");
    }
}

#[tokio::test]
async fn a_flush_does_not_read_what_others_keep_on_the_server() {
    const LARGE: usize = 1 << 20;
    let (a, b) = (Server::start().await, Server::start().await);
    let mut raw = b.connection().await;
    for at in 0..30 {
        redis::cmd("SET").arg(format!("theirs:{at}")).arg(vec![b'x'; LARGE]).exec_async(&mut raw).await.unwrap();
    }
    redis::cmd("RPUSH").arg("a list").arg("of theirs").exec_async(&mut raw).await.unwrap();
    let before = on(&ring(1, &[("b", &b)])).build().await.unwrap();
    before.get_or_load("raw", || async { Ok::<_, Infallible>(Some(0)) }).await.unwrap();
    before.settled().await;
    b.forget_calls().await;
    let cache = on(&ring(1, &[("a", &a)])).build().await.unwrap();
    change(&cache, ring(2, &[("a", &a), ("b", &b)])).await;
    assert!(!b.exists("raw").await && b.exists("theirs:29").await && b.exists("a list").await);
    let info: String = redis::cmd("INFO").arg("stats").query_async(&mut raw).await.unwrap();
    let sent = info.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).unwrap();
    assert!(sent.trim().parse::<usize>().unwrap() < LARGE, "{sent} bytes were read");
}

#[tokio::test]
async fn the_keys_of_a_shard_that_cannot_be_flushed_are_loaded_past_it() {
    let (a, b) = (Server::start().await, Server::start().await);
    let table = Table::new();
    let before = on(&ring(1, &[("b", &b)])).build().await.unwrap();
    table.read_all(&before).await;
    (0..KEYS).for_each(|row| table.write(row, 1));
    let counters = Counters::default();
    let cache = counters.build(patient(&ring(1, &[("a", &a)]), Duration::from_millis(500))).await;
    table.read_all(&cache).await;
    b.freeze();
    let changed = cache.change_ring(ring(2, &[("a", &a), ("b", &b)])).await.unwrap();
    assert_eq!(changed, RingChange::Changed { unflushed: vec!["b".into()] });
    let state = |of: usize| cache.shards()[of].state;
    assert_eq!((state(0), state(1)), (ShardState::InUse, ShardState::Joining));
    assert_eq!(table.read_all(&cache).await, vec![1; KEYS as usize]);
    b.thaw();
    assert_eq!(table.read_all(&cache).await, vec![1; KEYS as usize], "right from its return on");
    until("cached reads", async || {
        let loads = table.loads();
        assert_eq!(table.read_all(&cache).await, vec![1; KEYS as usize]);
        table.loads() == loads
    })
    .await;
    // Until then copies in memory may have answered.
    until("its flush", async || state(1) == ShardState::InUse).await;
}

#[tokio::test]
async fn a_change_whose_caller_left_goes_on() {
    let (a, b) = (Server::start().await, Server::start().await);
    let cache = patient(&ring(1, &[("a", &a)]), Duration::from_millis(500)).build().await.unwrap();
    b.freeze();
    let two = ring(2, &[("a", &a), ("b", &b)]);
    let left = tokio::time::timeout(Duration::from_millis(50), cache.change_ring(two.clone())).await;
    assert!(left.is_err() && cache.ring().epoch == 1, "it waits for what joins");
    until("the change", async || cache.ring() == two).await;
    b.thaw();
    change(&cache, ring(3, &[("a", &a)])).await;
}

#[tokio::test]
async fn a_membership_that_does_not_follow_is_refused_and_the_ring_goes_on() {
    let (a, b) = (Server::start().await, Server::start().await);
    let first = ring(5, &[("a", &a)]);
    let (cache, table) = (on(&first).build().await.unwrap(), Table::new());
    assert_eq!(cache.change_ring(first.clone()).await.unwrap(), RingChange::Unchanged);
    let refused = async |membership| match cache.change_ring(membership).await {
        Err(RingChangeError::Refused(error)) => error,
        other => panic!("{other:?}"),
    };
    let older = refused(ring(4, &[("b", &b)])).await;
    assert_eq!(older, ChangeError::Older { current: 5, offered: 4 });
    assert_eq!(refused(ring(5, &[("b", &b)])).await, ChangeError::Ambiguous { epoch: 5 });
    assert!(matches!(refused(ring(6, &[])).await, ChangeError::Invalid { epoch: 6, .. }));
    let nowhere = ShardSpec { address: "redis://host/0/what".to_owned(), ..spec("b", &b) };
    let nowhere = Membership { shards: vec![nowhere], ..ring(6, &[]) };
    assert!(matches!(cache.change_ring(nowhere).await, Err(RingChangeError::Shard(_))));
    assert_eq!(cache.ring(), first);
    table.read_all(&cache).await;
    table.read_all(&cache).await;
    assert_eq!(table.loads(), KEYS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_changes_under_load_fail_no_read_and_leave_nothing_stale() {
    let servers = [Server::start().await, Server::start().await, Server::start().await];
    let [a, b, c] = &servers;
    let rings: [&[(&str, &Server)]; 2] = [&[("a", a), ("b", b)], &[("a", a), ("b", b), ("c", c)]];
    let (cache, table) = (on(&ring(1, rings[0])).build().await.unwrap(), Table::new());
    let (stop, written) = (Arc::new(AtomicBool::new(false)), Table::new());
    let mut tasks = Vec::new();
    for seed in 0..32 {
        let (cache, table, written, stop) = (cache.clone(), table.clone(), written.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            let (mut random, mut reads) = (fastrand::Rng::with_seed(seed), 0_u64);
            while !stop.load(Ordering::SeqCst) {
                let row = random.u64(..KEYS);
                let at_least = written.now(row);
                let read = table.read(&cache, row).await;
                assert!(read >= at_least, "{row}: {read} was read after {at_least} was invalidated");
                reads += 1;
                tokio::task::yield_now().await;
            }
            reads
        }));
    }
    let writer = tokio::spawn({
        let (cache, table, written, stop) = (cache.clone(), table.clone(), written.clone(), stop.clone());
        async move {
            let mut value = 0;
            while !stop.load(Ordering::SeqCst) {
                value += 1;
                let row = fastrand::u64(..KEYS);
                table.write(row, value);
                let invalidated = cache.space::<u64>("item").unwrap().invalidate(row).await.unwrap();
                assert!(invalidated.is_done(), "{invalidated:?}");
                written.write(row, value);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            value
        }
    });
    for epoch in 2..=11 {
        change(&cache, ring(epoch, rings[usize::from(epoch % 2 == 0)])).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    stop.store(true, Ordering::SeqCst);
    let writes = writer.await.unwrap();
    let mut reads = 0;
    for task in tasks {
        reads += task.await.unwrap();
    }
    cache.settled().await;
    let (loads, now): (u64, Vec<u64>) = (table.loads(), (0..KEYS).map(|row| table.now(row)).collect());
    assert_eq!(table.read_all(&cache).await, now);
    // Each write costs a load, and so does each key that has moved: about a third of them.
    let most = KEYS + 2 * writes + 10 * KEYS;
    assert!(loads <= most, "{loads} loads of {reads} reads, {writes} writes");
    assert!(reads > 5 * loads, "{loads} loads of {reads} reads");
}

#[tokio::test]
async fn a_load_under_way_ends_where_it_began() {
    let (a, b) = (Server::start().await, Server::start().await);
    let (cache, table) = (on(&ring(1, &[("a", &a)])).build().await.unwrap(), Table::new());
    let (begun, allowed) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
    let held = tokio::spawn({
        let (cache, begun, allowed) = (cache.clone(), begun.clone(), allowed.clone());
        async move {
            let load = move || {
                let (begun, allowed) = (begun.clone(), allowed.clone());
                async move {
                    begun.notify_one();
                    allowed.notified().await;
                    Ok::<_, Infallible>(Some(0))
                }
            };
            cache.space::<u64>("item").unwrap().get_or_load(1, load).await
        }
    });
    begun.notified().await;
    change(&cache, ring(2, &[("b", &b)])).await;
    table.write(1, 1);
    let invalidated = cache.space::<u64>("item").unwrap().invalidate(1).await.unwrap();
    assert_eq!(invalidated.applied.voided, 1, "the lease on the former owner");
    // It joins the flight, whose verdict sends it on to the new owner.
    let late = tokio::spawn({
        let (cache, table) = (cache.clone(), table.clone());
        async move { table.read(&cache, 1).await }
    });
    tokio::task::yield_now().await;
    allowed.notify_one();
    assert_eq!(late.await.unwrap(), 1);
    assert_eq!(held.await.unwrap().unwrap(), Some(0), "it began before the change");
    assert!(!a.exists("item:1").await);
    cache.settled().await;
    assert!(b.exists("item:1").await);
}

#[tokio::test]
async fn a_shard_that_has_left_and_is_gone_keeps_no_invalidation_waiting() {
    let (a, mut b) = (Server::start().await, Server::start().await);
    let cache = on(&ring(1, &[("a", &a), ("b", &b)])).build().await.unwrap();
    let items = cache.space::<u64>("item").unwrap();
    change(&cache, ring(2, &[("a", &a)])).await;
    b.kill();
    until("the lost connection", async || {
        let invalidated = items.invalidate_many(0..KEYS).await.unwrap();
        // All on the one that is left, and those that it owned on the other.
        let told = invalidated.applied.absent;
        assert!(told >= KEYS && told + invalidated.gone + invalidated.queued < 2 * KEYS, "{invalidated:?}");
        invalidated.is_done() && invalidated.gone > 0
    })
    .await;
}

#[tokio::test]
async fn a_cache_that_begins_within_the_window_tells_the_earlier_owners_that_its_file_lists() {
    let (a, b) = (Server::start().await, Server::start().await);
    let (old, table) = (on(&ring(1, &[("a", &a)])).build().await.unwrap(), Table::new());
    table.read_all(&old).await;
    let earlier = |changed_at_ms: u64| {
        let (a, b) = (a.address(), b.address());
        let text = format!(
            "[ring]\nepoch = 2\nchanged_at_ms = {changed_at_ms}\nshards = [{{ name = \"b\", address = \"{b}\" }}]\n\
             [[ring.earlier]]\nepoch = 1\nshards = [{{ name = \"a\", address = \"{a}\" }}]\n\
             [spaces.item]\nkey = \"item:{{pk}}\"\nttl = \"1h\"\n[valkey]\ncommand_timeout = \"10s\"\n"
        );
        Config::parse(&text, []).unwrap()
    };
    // Long over: nothing that the earlier owner holds is served any more.
    let later = Cache::from_config(earlier(1)).await.unwrap();
    (0..KEYS).for_each(|row| table.write(row, 1));
    let invalidated = later.space::<u64>("item").unwrap().invalidate_many(0..KEYS).await.unwrap();
    assert_eq!((invalidated.applied.dropped, invalidated.is_done()), (0, true), "{invalidated:?}");
    assert_eq!(table.read_all(&old).await, vec![0; KEYS as usize], "who still reads by it is on its own");

    let new = Cache::from_config(earlier(ringtide_core::clock::unix_ms())).await.unwrap();
    let invalidated = new.space::<u64>("item").unwrap().invalidate_many(0..KEYS).await.unwrap();
    assert_eq!((invalidated.applied.dropped, invalidated.is_done()), (KEYS, true), "{invalidated:?}");
    assert_eq!(table.read_all(&old).await, vec![1; KEYS as usize]);
    assert_eq!(table.read_all(&new).await, vec![1; KEYS as usize]);
}

#[tokio::test]
async fn a_cache_that_begins_within_the_window_tells_a_shard_that_has_moved_at_its_former_address_too() {
    let (a, b) = (Server::start().await, Server::start().await);
    let (old, table) = (on(&ring(1, &[("a", &a)])).build().await.unwrap(), Table::new());
    table.read_all(&old).await;
    let earlier = format!(
        "[[ring.earlier]]\nepoch = 1\nshards = [{{ name = \"a\", address = \"{}\" }}]\n\
         [spaces.item]\nkey = \"item:{{pk}}\"\n[valkey]\ncommand_timeout = \"10s\"\n",
        a.address()
    );
    let config = Config::parse(&format!("{}\n{earlier}", ring_text(2, &[("a", &b)])), []).unwrap();
    let new = Cache::from_config(config).await.unwrap();
    table.read_all(&new).await;
    (0..KEYS).for_each(|row| table.write(row, 1));
    let invalidated = new.space::<u64>("item").unwrap().invalidate_many(0..KEYS).await.unwrap();
    assert_eq!((invalidated.applied.dropped, invalidated.is_done()), (2 * KEYS, true), "{invalidated:?}");
    for cache in [&old, &new] {
        assert_eq!(table.read_all(cache).await, vec![1; KEYS as usize]);
    }
}

fn write_file(path: &Path, ring: &str) {
    let rest = "[spaces.item]\nkey = \"item:{pk}\"\n[reader]\nwatch = \"20ms\"\n";
    // Replaced in one step, as editors and orchestrators do.
    let next = path.with_extension("next");
    std::fs::write(&next, format!("{ring}\n{rest}")).unwrap();
    std::fs::rename(next, path).unwrap();
}

fn ring_text(epoch: u64, servers: &[(&str, &Server)]) -> String {
    let shards: Vec<_> = servers
        .iter()
        .map(|(name, server)| format!("{{ name = \"{name}\", address = \"{}\" }}", server.address()))
        .collect();
    format!("[ring]\nepoch = {epoch}\nshards = [{}]", shards.join(", "))
}

#[tokio::test]
async fn a_file_is_followed_and_a_bad_one_changes_nothing() {
    let (a, b) = (Server::start().await, Server::start().await);
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("ringtide.toml");
    write_file(&path, &ring_text(1, &[("a", &a)]));
    let counters = Counters::default();
    let config = Config::load(&path, []).unwrap();
    let cache = counters.build(Cache::builder().config(config).watch_file(&path)).await;
    let changes = |outcome| counters.sum("ringtide_reader_ring_changes_total", outcome);
    let table = Table::new();
    table.read_all(&cache).await;

    write_file(&path, &ring_text(2, &[("a", &a), ("b", &b)]));
    until("the change", async || cache.ring().epoch == 2).await;
    table.read_all(&cache).await;
    assert_eq!(changes("changed"), 1);

    write_file(&path, "[ring]\nepoch = \"three\"");
    until("the refusal of what is no configuration", async || changes("unread") >= 1).await;
    write_file(&path, &ring_text(2, &[("a", &a)]));
    until("the refusal of an epoch used twice", async || changes("refused") == 1).await;
    std::fs::remove_file(&path).unwrap();
    let unread = changes("unread");
    until("the missing file", async || changes("unread") > unread).await;
    assert_eq!(cache.ring().epoch, 2);
    assert_eq!(cache.ring().shards.len(), 2);

    write_file(&path, &ring_text(3, &[("b", &b)]));
    until("the change after all that", async || cache.ring().epoch == 3).await;
    assert_eq!(table.read_all(&cache).await, vec![0; KEYS as usize]);
}

#[tokio::test]
async fn a_cache_from_a_file_follows_it() {
    let (a, b) = (Server::start().await, Server::start().await);
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("ringtide.toml");
    write_file(&path, &ring_text(1, &[("a", &a)]));
    let cache = Cache::from_config_file(&path).await.unwrap();
    write_file(&path, &ring_text(2, &[("b", &b)]));
    until("the change", async || cache.ring().epoch == 2).await;
    cache.close().await;
}

#[tokio::test]
async fn all_addresses_of_a_name_are_the_ring() {
    let server = Server::start().await;
    let port = server.address().split(':').next_back().unwrap().to_owned();
    let reader = config::Reader { watch: Duration::from_millis(10), ..config::Reader::default() };
    let space = SpaceSettings::new("item", "item:{pk}");
    let builder = Cache::builder().reader(reader).space(space);
    let cache = builder.clone().ring_from_dns(format!("localhost:{port}")).build().await.unwrap();
    let names: Vec<_> = cache.ring().shards.iter().map(|shard| shard.name.to_string()).collect();
    assert!(names.contains(&server.address()), "{names:?}");
    let table = Table::new();
    table.read_all(&cache).await;
    let stored: Vec<bool> = table.read_all(&cache).await.into_iter().map(|value| value == 0).collect();
    assert_eq!(stored.len() as u64, KEYS);
    // The name goes on resolving to the same addresses, and nothing changes.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(cache.ring().epoch, 1);

    let unknown = builder.clone().ring_from_dns("does-not-exist.invalid:6379").build().await.unwrap_err();
    assert!(unknown.to_string().contains("does-not-exist.invalid:6379 is not resolved"), "{unknown}");
    let both = builder.shard("a", server.address()).ring_from_dns("localhost:6379").build().await.unwrap_err();
    assert!(both.to_string().contains("ring shards are named"), "{both}");
}

#[tokio::test]
async fn an_unknown_space_of_settings_is_not_needed_to_follow_a_ring() {
    let (a, b) = (Server::start().await, Server::start().await);
    let reader = config::Reader { watch: Duration::from_millis(10), ..config::Reader::default() };
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("ring.toml");
    write_file(&path, &ring_text(2, &[("a", &a), ("b", &b)]));
    let builder = Cache::builder().reader(reader).shard("a", a.address()).watch_file(&path);
    let cache = builder.space(SpaceSettings::new("mine", "mine:{pk}")).build().await.unwrap();
    until("the change", async || cache.ring().epoch == 2).await;
    assert!(cache.space::<u64>("mine").is_ok() && cache.space::<u64>("item").is_err());
}
