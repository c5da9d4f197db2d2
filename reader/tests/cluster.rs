//! Reader and pipeline on a real cluster: read, write, invalidate, read.
#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ringtide::{Cache, Config, LocalTier, Space, SpaceSettings, config};
use ringtide_core::pipeline::{Connected, Pipeline, Services};
use ringtide_core::record::{Attribute, Attributes, ChangeRecord, EventName, Stream};
use ringtide_servers::ValkeyCluster;

const LONG: Duration = Duration::from_secs(30);

/// What the readers load from: every item's revision, and how often it was asked.
#[derive(Clone, Default)]
struct Origin {
    items: Arc<Mutex<BTreeMap<usize, u64>>>,
    loads: Arc<AtomicUsize>,
}

impl Origin {
    async fn read(&self, space: &Space<u64>, item: usize) -> Option<u64> {
        let origin = self.clone();
        let load = move || {
            let origin = origin.clone();
            async move {
                origin.loads.fetch_add(1, Ordering::Relaxed);
                let found = origin.items.lock().unwrap().get(&item).copied();
                Ok::<_, Infallible>(found)
            }
        };
        let name = item.to_string();
        tokio::time::timeout(LONG, space.get_or_load(&name[..], load)).await.expect("nobody hangs").unwrap()
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::Relaxed)
    }
}

fn modified(item: usize) -> ChangeRecord {
    let stream = Arc::new(Stream { table: "items".into(), arn: "arn".into(), created_ms: 1 });
    let keys =
        || -> Box<dyn Attributes> { Box::new(BTreeMap::from([("pk".to_owned(), Attribute::S(item.to_string()))])) };
    ChangeRecord {
        stream,
        stream_shard: "shard".into(),
        event: EventName::Modify,
        keys: keys(),
        old: Some(keys()),
        new: Some(keys()),
        sequence: (item as u128 + 10_u128.pow(21)).to_string().parse().unwrap(),
        approximate_time_s: None,
        ttl_deletion: false,
    }
}

async fn invalidate(pipeline: &Pipeline, items: std::ops::Range<usize>) {
    let ticket = pipeline.submit(items.map(|item| Ok(modified(item))).collect(), 0).await;
    tokio::time::timeout(LONG, ticket).await.expect("the page is delivered").unwrap();
}

fn config(cluster: &ValkeyCluster) -> Config {
    let text = format!(
        "[valkey]\ncluster = true\n[[ring.shards]]\nname = \"a\"\naddress = \"{}\"\n[spaces.item]\nkey = \"item:{{pk}}\"\n\
         [[routes]]\ntable = \"items\"\nspace = \"item\"\n",
        cluster.address()
    );
    Config::parse(&text, []).unwrap()
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waiting).await.is_ok(), "{what} did not come about");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_is_read_after_its_record_was_delivered() {
    const ITEMS: usize = 300;
    let cluster = ValkeyCluster::start(3).unwrap();
    let config = config(&cluster);
    let (one, other) =
        (Cache::from_config(config.clone()).await.unwrap(), Cache::from_config(config.clone()).await.unwrap());
    let (one, other) = (one.space::<u64>("item").unwrap(), other.space::<u64>("item").unwrap());
    let Connected { pipeline, shards } = Pipeline::connect(&config, Services::default()).unwrap();
    shards[0].ready(LONG).await.unwrap();
    let origin = Origin::default();
    for round in 1..4 {
        origin.items.lock().unwrap().extend((0..ITEMS).map(|item| (item, round)));
        invalidate(&pipeline, 0..ITEMS).await;
        let before = origin.loads();
        for item in 0..ITEMS {
            assert_eq!(origin.read(&one, item).await, Some(round));
        }
        until("every fill", async || shards[0].dbsize().await.unwrap() == ITEMS as u64).await;
        for item in 0..ITEMS {
            assert_eq!(origin.read(&other, item).await, Some(round));
        }
        assert_eq!(origin.loads() - before, ITEMS);
    }
    // A slot that moves away in between costs no reader more than its own load.
    let slot = cluster.slot("item:7").unwrap();
    let from = cluster.first_owner(slot);
    let to = (from + 1) % 3;
    cluster.begin_move(slot, from, to).unwrap();
    origin.items.lock().unwrap().insert(7, 10);
    invalidate(&pipeline, 7..8).await;
    assert_eq!(origin.read(&one, 7).await, Some(10));
    cluster.end_move(slot, to).unwrap();
    until("a cached read", async || {
        let before = origin.loads();
        assert_eq!(origin.read(&other, 7).await, Some(10));
        origin.loads() == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_fall_back_while_a_master_is_away_and_no_record_is_lost() {
    let mut cluster = ValkeyCluster::start_with(3, 0, &["--cluster-require-full-coverage", "no"]).unwrap();
    let config = config(&cluster);
    let cache = Cache::from_config(config.clone()).await.unwrap();
    let space = cache.space::<u64>("item").unwrap();
    let Connected { pipeline, shards } = Pipeline::connect(&config, Services::default()).unwrap();
    shards[0].ready(LONG).await.unwrap();
    let origin = Origin::default();
    origin.items.lock().unwrap().extend((0..60).map(|item| (item, 1)));
    for item in 0..60 {
        assert_eq!(origin.read(&space, item).await, Some(1));
    }
    until("every fill", async || shards[0].dbsize().await.unwrap() == 60).await;
    cluster.kill(2);
    for item in 0..60 {
        assert_eq!(origin.read(&space, item).await, Some(1));
    }
    origin.items.lock().unwrap().extend((0..60).map(|item| (item, 2)));
    let ticket = pipeline.submit((0..60).map(|item| Ok(modified(item))).collect(), 0).await;
    assert!(shards[0].ready(Duration::from_millis(200)).await.is_err());
    cluster.restart(2).unwrap();
    tokio::time::timeout(LONG, ticket).await.expect("the page is delivered").unwrap();
    for item in 0..60 {
        assert_eq!(origin.read(&space, item).await, Some(2));
    }
}

/// Loads whose values are 1 and that take a while, and how many of them ran at most at once.
#[derive(Clone, Default)]
struct SlowOrigin {
    loads: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl SlowOrigin {
    async fn read(&self, space: &Space<u64>, item: u64) -> Duration {
        let (origin, began) = (self.clone(), Instant::now());
        let load = move || {
            let origin = origin.clone();
            async move { Ok::<_, Infallible>(origin.load().await) }
        };
        let read = tokio::time::timeout(LONG, space.get_or_load(item, load)).await;
        assert_eq!(read.expect("nobody hangs").unwrap(), Some(1));
        began.elapsed()
    }

    async fn read_all(&self, space: &Space<u64>) -> Duration {
        let (origin, began) = (self.clone(), Instant::now());
        let load = move |items: Vec<u64>| {
            let origin = origin.clone();
            async move {
                origin.loads.fetch_add(items.len(), Ordering::SeqCst);
                Ok::<_, Infallible>(items.into_iter().map(|item| (item, 1)).collect::<HashMap<_, _>>())
            }
        };
        let read = tokio::time::timeout(LONG, space.get_many(0..ITEMS, load)).await;
        assert_eq!(read.expect("nobody hangs").into_found().count(), ITEMS as usize);
        began.elapsed()
    }

    async fn load(&self) -> Option<u64> {
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(self.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(5)).await;
        self.running.fetch_sub(1, Ordering::SeqCst);
        Some(1)
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }
}

const ITEMS: u64 = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_master_that_has_failed_in_a_row_and_the_others_keys_are_not_touched() {
    const COMMAND: Duration = Duration::from_millis(600);
    const DEAD: usize = 2;
    let cluster = ValkeyCluster::start_with(3, 0, &["--cluster-node-timeout", "60000"]).unwrap();
    let valkey =
        config::Valkey { cluster: true, connections: 4, command_timeout: COMMAND, ..config::Valkey::default() };
    let reader = config::Reader {
        breaker_failures: 2,
        breaker_pause: Duration::from_millis(300),
        max_fallback_loads: 2,
        ..config::Reader::default()
    };
    let settings = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Off);
    let builder = Cache::builder().shard("a", cluster.address()).valkey(valkey).reader(reader).space(settings);
    let cache = builder.build().await.unwrap();
    let (space, origin) = (cache.space::<u64>("item").unwrap(), SlowOrigin::default());
    until("every fill", async || {
        let before = origin.loads();
        origin.read_all(&space).await;
        origin.loads() == before
    })
    .await;
    let owner = |item: &u64| cluster.first_owner(cluster.slot(&format!("item:{item}")).unwrap());
    let (dead, alive): (Vec<u64>, Vec<u64>) = (0..ITEMS).partition(|item| owner(item) == DEAD);

    cluster.freeze(DEAD).unwrap();
    let before = origin.loads();
    for item in &dead[..2] {
        let took = origin.read(&space, *item).await;
        assert!(took >= COMMAND, "the master was not asked: {took:?}");
        for item in &alive {
            origin.read(&space, *item).await;
        }
    }
    assert_eq!(origin.loads() - before, 2, "what the others hold is read from them");
    // Several pauses, and so several probes, none of which a read waits for.
    let (open, mut rounds) = (Instant::now(), 0);
    while open.elapsed() < COMMAND * 4 {
        let before = origin.loads();
        let took = origin.read(&space, dead[rounds % dead.len()]).await;
        assert!(took < COMMAND * 3 / 4, "read {rounds} took {took:?}");
        origin.read(&space, alive[rounds % alive.len()]).await;
        let took = origin.read_all(&space).await;
        assert!(took < COMMAND * 3 / 4, "a read of all took {took:?}");
        assert_eq!(origin.loads() - before, 1 + dead.len());
        rounds += 1;
    }
    let herd: Vec<_> = dead.iter().map(|item| origin.read(&space, *item)).collect();
    join_all(herd).await;
    assert!(origin.most.load(Ordering::SeqCst) <= 2, "{} loads at once", origin.most.load(Ordering::SeqCst));

    cluster.thaw(DEAD).unwrap();
    until("a cached read", async || {
        let before = origin.loads();
        origin.read(&space, dead[0]).await;
        origin.loads() == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalidation_that_a_dead_master_owes_keeps_no_key_of_the_others_from_being_cached() {
    let cluster = ValkeyCluster::start_with(3, 0, &["--cluster-node-timeout", "60000"]).unwrap();
    let valkey =
        config::Valkey { cluster: true, command_timeout: Duration::from_millis(300), ..config::Valkey::default() };
    let settings = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Off);
    let cache = Cache::builder().shard("a", cluster.address()).valkey(valkey).space(settings).build().await.unwrap();
    let (space, origin) = (cache.space::<u64>("item").unwrap(), SlowOrigin::default());
    cluster.freeze(1).unwrap();
    let told = tokio::time::timeout(LONG, space.invalidate_many(0..ITEMS)).await.expect("nobody hangs").unwrap();
    let owner = |item: &u64| cluster.first_owner(cluster.slot(&format!("item:{item}")).unwrap());
    let (dead, alive): (Vec<u64>, Vec<u64>) = (0..ITEMS).partition(|item| owner(item) == 1);
    assert_eq!(told.queued, dead.len() as u64);
    for item in alive {
        until("a cached read", async || {
            let before = origin.loads();
            origin.read(&space, item).await;
            origin.loads() == before
        })
        .await;
    }
    cluster.thaw(1).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_master_owes_is_delivered_to_it_while_another_stays_dead() {
    let cluster = ValkeyCluster::start_with(3, 0, &["--cluster-node-timeout", "60000"]).unwrap();
    let valkey =
        config::Valkey { cluster: true, command_timeout: Duration::from_millis(300), ..config::Valkey::default() };
    let settings = SpaceSettings::new("item", "item:{pk}").local(LocalTier::Off);
    let cache = Cache::builder().shard("a", cluster.address()).valkey(valkey).space(settings).build().await.unwrap();
    let (space, origin) = (cache.space::<u64>("item").unwrap(), SlowOrigin::default());
    let owner = |item: &u64| cluster.first_owner(cluster.slot(&format!("item:{item}")).unwrap());
    cluster.freeze(1).unwrap();
    cluster.freeze(2).unwrap();
    // More of either than are sent at once.
    let told = tokio::time::timeout(LONG, space.invalidate_many(0..900)).await.expect("nobody hangs").unwrap();
    let (dead, returned): (Vec<u64>, Vec<u64>) =
        (0..900).filter(|item| owner(item) != 0).partition(|item| owner(item) == 1);
    assert_eq!(told.queued as usize, dead.len() + returned.len());
    assert!(dead.len() > 200 && returned.len() > 200);
    cluster.thaw(2).unwrap();
    for item in [returned[0], returned[returned.len() - 1]] {
        until("a cached read", async || {
            let before = origin.loads();
            origin.read(&space, item).await;
            origin.loads() == before
        })
        .await;
    }
    cluster.thaw(1).unwrap();
    tokio::time::timeout(LONG, cache.settled()).await.expect("the other is told as well");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiters_of_another_process_are_woken_by_a_fill() {
    let cluster = ValkeyCluster::start(3).unwrap();
    let config = config(&cluster);
    let caches = [Cache::from_config(config.clone()).await.unwrap(), Cache::from_config(config).await.unwrap()];
    let spaces = caches.each_ref().map(|cache| cache.space::<u64>("item").unwrap());
    // Both inboxes are subscribed, on whichever master.
    until("two inboxes", async || {
        (0..3).map(|at| cluster.ask(at, &["PUBSUB", "CHANNELS"]).unwrap().lines().count()).sum::<usize>() == 2
    })
    .await;
    for item in 0..20 {
        let loads = Arc::new(AtomicUsize::new(0));
        let read = |space: &Space<u64>| {
            let (space, loads) = (space.clone(), loads.clone());
            tokio::spawn(async move {
                let load = move || {
                    let loads = loads.clone();
                    async move {
                        loads.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(30)).await;
                        Ok::<_, Infallible>(Some(5))
                    }
                };
                space.get_or_load(&item.to_string()[..], load).await.unwrap()
            })
        };
        let began = std::time::Instant::now();
        let readers = [read(&spaces[0]), read(&spaces[1])];
        for reader in readers {
            assert_eq!(reader.await.unwrap(), Some(5));
        }
        assert_eq!(loads.load(Ordering::Relaxed), 1);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
}

#[tokio::test]
async fn a_cluster_beside_other_ring_shards_is_refused() {
    let built = Cache::builder().cluster(true).shard("a", "127.0.0.1:1").shard("b", "127.0.0.1:2").build().await;
    let error = built.unwrap_err();
    assert!(error.violations().iter().any(|violation| violation.to_string().starts_with("valkey.cluster")), "{error}");
}
