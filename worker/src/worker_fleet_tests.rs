//! Several workers on one lease table.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::lease::{HeldLease, Lease, LeaseError};

impl Bench {
    /// How many leases each owner holds or is to get.
    async fn shares(&self) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for lease in self.leases.list().await.unwrap() {
            *shares.entry(lease.owner.map_or_else(String::new, |owner| owner.to_string())).or_default() += 1;
        }
        shares
    }
}

fn shares<const N: usize>(shares: [(&str, usize); N]) -> BTreeMap<String, usize> {
    shares.into_iter().map(|(owner, count)| (owner.to_owned(), count)).collect()
}

#[tokio::test(start_paused = true)]
async fn workers_that_join_and_leave_come_to_equal_shares_and_rest() {
    let bench = Bench::new();
    for shard in 0..7 {
        bench.source.shard(&format!("s{shard}"), None, &[shard * 10 + 1, shard * 10 + 2]);
    }
    let first = bench.start("first").await.unwrap();
    seconds(3).await;
    assert_eq!(bench.shares().await, shares([("first", 7)]));
    let second = bench.start("second").await.unwrap();
    let third = bench.start("third").await.unwrap();
    seconds(30).await;
    let balanced = bench.shares().await;
    assert!(balanced.len() == 3 && balanced.values().all(|count| (2..=3).contains(count)), "{balanced:?}");
    let switches = |leases: Vec<Lease>| leases.iter().map(|lease| lease.switches).sum::<u64>();
    let moved = switches(bench.leases.list().await.unwrap());
    seconds(300).await;
    assert_eq!(bench.shares().await, balanced);
    assert_eq!(switches(bench.leases.list().await.unwrap()), moved, "nothing moves any more");
    assert!(bench.leases.list().await.unwrap().iter().all(|lease| lease.leaving.is_none()));
    let read = bench.recorder.records();
    assert_eq!(read.iter().collect::<BTreeSet<_>>().len(), 14, "{read:?}");
    assert_eq!(read.len(), 14, "what was handed over is not read again: {read:?}");
    // An orderly end hands over within a second.
    third.shutdown();
    third.join().await.unwrap();
    for shard in 0..7 {
        bench.source.append(&format!("s{shard}"), &[shard * 10 + 3]);
    }
    seconds(1).await;
    assert_eq!(bench.recorder.records().len(), 21);
    let left = bench.shares().await;
    assert!(left.len() == 2 && left.values().all(|count| (3..=4).contains(count)), "{left:?}");
    // A crash is made up for within the time of a lease.
    drop(second);
    for shard in 0..7 {
        bench.source.append(&format!("s{shard}"), &[shard * 10 + 4]);
    }
    seconds(10).await;
    // What it had not checkpointed is read again.
    assert_eq!(bench.recorder.records().into_iter().collect::<BTreeSet<_>>().len(), 28);
    assert_eq!(bench.shares().await, shares([("first", 7)]));
    assert_eq!(bench.recorder.flushed(), [""; 0]);
    first.shutdown();
    first.join().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_replaced_stream_is_read_to_its_end_by_one_worker_and_not_again_by_others() {
    let bench = Bench::new();
    bench.source.shard("a", None, &[1, 2]);
    bench.source.shard("b", None, &[11, 12]);
    let _workers = [bench.start("first").await.unwrap(), bench.start("second").await.unwrap()];
    seconds(30).await;
    bench.source.replace_stream(&ARN.replace("2026-01", "2026-03"));
    seconds(60).await;
    bench.source.close("a");
    bench.source.close("b");
    seconds(600).await;
    let mut read = bench.recorder.records();
    read.sort_unstable();
    assert_eq!(read, [1, 1, 2, 2, 11, 11, 12, 12], "once in each stream");
    let left = bench.leases.list().await.unwrap();
    assert!(left.len() == 2 && left.iter().all(|lease| lease.key.to_string().contains("2026-03")), "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_ring_shard_is_down_reads_on_until_its_lease_is_taken() {
    let bench = Bench::new();
    for shard in ["a", "b"] {
        bench.source.shard(shard, None, &[]);
    }
    let _first = bench.start("first").await.unwrap();
    seconds(3).await;
    bench.recorder.shard_down(true);
    let lease = bench.leases.list().await.unwrap().remove(0);
    assert!(bench.leases.ask(&lease, &OwnerId::named("second")).await.unwrap());
    seconds(8).await;
    bench.source.append("a", &[1]);
    seconds(1).await;
    assert_eq!(bench.recorder.records(), [1]);
    let asked = bench.leases.list().await.unwrap().remove(0);
    assert_eq!(asked.holder(), Some(&OwnerId::named("first")));
    // By force: it stops at once.
    let mut taken = bench.leases.take(&asked, &OwnerId::named("second")).await.unwrap();
    seconds(4).await;
    bench.source.append("a", &[2]);
    bench.source.append("b", &[3]);
    bench.leases.renew(&mut taken).await.unwrap();
    seconds(1).await;
    assert_eq!(bench.recorder.records(), [1, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_ring_shard_is_being_flushed_reads_on_until_that_is_done() {
    let bench = Bench::new();
    bench.source.shard("a", None, &[]);
    let _first = bench.start("first").await.unwrap();
    seconds(3).await;
    bench.recorder.shard_flushed(true);
    let lease = bench.leases.list().await.unwrap().remove(0);
    assert!(bench.leases.ask(&lease, &OwnerId::named("second")).await.unwrap());
    seconds(8).await;
    bench.source.append("a", &[1]);
    seconds(1).await;
    assert_eq!(bench.recorder.records(), [1]);
    assert_eq!(bench.leases.list().await.unwrap().remove(0).holder(), Some(&OwnerId::named("first")));
    bench.recorder.shard_flushed(false);
    seconds(1).await;
    assert_eq!(bench.leases.list().await.unwrap().remove(0).owner, Some(OwnerId::named("second")), "handed over");
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_under_its_name_hands_over_what_was_asked_for_meanwhile() {
    let bench = Bench::new();
    for shard in ["a", "b"] {
        bench.source.shard(shard, None, &[]);
    }
    let first = bench.start("first").await.unwrap();
    seconds(3).await;
    drop(first);
    let lease = bench.leases.list().await.unwrap().remove(0);
    assert!(bench.leases.ask(&lease, &OwnerId::named("second")).await.unwrap());
    let _first = bench.start("first").await.unwrap();
    seconds(1).await;
    let [handed, kept] = &bench.leases.list().await.unwrap()[..] else { panic!("two leases") };
    assert_eq!((handed.owner.as_ref(), &handed.leaving), (Some(&OwnerId::named("second")), &None));
    assert_eq!(kept.owner, Some(OwnerId::named("first")));
}

#[tokio::test(start_paused = true)]
async fn who_stops_frees_what_it_had_asked_for() {
    let bench = Bench::new();
    for shard in ["a", "b"] {
        bench.source.shard(shard, None, &[]);
    }
    let _first = bench.start("first").await.unwrap();
    seconds(3).await;
    let second = bench.start("second").await.unwrap();
    let is_asked = |lease: &Lease| lease.leaving.is_some();
    while !bench.leases.list().await.unwrap().iter().any(is_asked) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    second.shutdown();
    second.join().await.unwrap();
    seconds(1).await;
    for (shard, record) in [("a", 1), ("b", 2)] {
        bench.source.append(shard, &[record]);
    }
    seconds(1).await;
    let mut read = bench.recorder.records();
    read.sort_unstable();
    assert_eq!(read, [1, 2]);
    assert_eq!(bench.shares().await, shares([("first", 2)]));
}

#[tokio::test(start_paused = true)]
async fn what_was_stolen_is_not_read_any_further() {
    let bench = Bench::new();
    for shard in ["a", "b"] {
        bench.source.shard(shard, None, &[]);
    }
    let _first = bench.start("first").await.unwrap();
    let _second = bench.start("second").await.unwrap();
    seconds(30).await;
    assert_eq!(bench.shares().await, shares([("first", 1), ("second", 1)]));
    // Just renewed: the next write of its holder is three seconds away.
    let before = bench.leases.list().await.unwrap().remove(0);
    let renewed = async {
        while bench.leases.list().await.unwrap()[0].counter == before.counter {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    renewed.await;
    let lease = bench.leases.list().await.unwrap().remove(0);
    let _stolen = bench.leases.take(&lease, &OwnerId::named("thief")).await.unwrap();
    seconds(1).await;
    bench.source.append("a", &[1]);
    seconds(5).await;
    assert_eq!(bench.recorder.records(), [0; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_second_worker_of_the_same_name_takes_over_and_is_reported() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1]);
    let first = bench.start("me").await.unwrap();
    seconds(3).await;
    let second = bench.start("me").await.unwrap();
    seconds(90).await;
    bench.source.append("s", &[2]);
    seconds(1).await;
    assert_eq!(bench.recorder.records(), [1, 2], "one of them reads");
    let verdict = first.health().live();
    assert!(!verdict.ok && verdict.reasons[0].contains("--owner"), "{verdict:?}");
    assert!(second.health().live().ok);
}

#[tokio::test(start_paused = true)]
async fn a_paused_table_is_not_read_until_it_is_resumed() {
    let bench = Bench::new();
    for shard in ["a", "b"] {
        bench.source.shard(shard, None, &[]);
    }
    let _worker = bench.start("me").await.unwrap();
    seconds(3).await;
    let mut paused = Vec::new();
    for lease in bench.leases.list().await.unwrap() {
        paused.push(bench.leases.take(&lease, &OwnerId::paused()).await.unwrap());
    }
    seconds(5).await;
    bench.source.append("a", &[1]);
    bench.source.shard("new", None, &[2]);
    seconds(120).await;
    assert_eq!(bench.recorder.records(), [0; 0]);
    for held in paused {
        bench.leases.release(held).await.unwrap();
    }
    seconds(35).await;
    let mut read = bench.recorder.records();
    read.sort_unstable();
    assert_eq!(read, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_is_asked_for_is_granted_in_order() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[]);
    let worker = bench.start("me").await.unwrap();
    seconds(3).await;
    let lease = bench.leases.list().await.unwrap().remove(0);
    bench.source.append("s", &[1]);
    seconds(1).await;
    assert!(bench.leases.ask(&lease, &OwnerId::paused()).await.unwrap());
    seconds(5).await;
    let paused = bench.leases.list().await.unwrap().remove(0);
    assert_eq!((paused.owner.as_ref(), paused.leaving.as_ref()), (Some(&OwnerId::paused()), None));
    assert_eq!(paused.checkpoint, Checkpoint::At("1".parse().unwrap()), "what was read is stored");
    bench.source.append("s", &[2]);
    seconds(300).await;
    assert_eq!(bench.recorder.records(), [1]);
    worker.shutdown();
    worker.join().await.unwrap();
    assert!(bench.leases.list().await.unwrap().remove(0).is_paused(), "a pause outlives the workers");
}

/// Workers come, go and die at random, with records all the while; then everything comes to rest.
#[tokio::test(start_paused = true)]
async fn whoever_comes_goes_or_dies_every_record_is_read_and_shares_become_equal() {
    for seed in 0..12 {
        let mut random = fastrand::Rng::with_seed(seed);
        let bench = Bench::new();
        let shards = random.u64(1..12);
        for shard in 0..shards {
            bench.source.shard(&format!("s{shard:02}"), None, &[]);
        }
        let mut workers = Vec::new();
        let mut stopping = tokio::task::JoinSet::new();
        let mut written = BTreeSet::new();
        for step in 1..40_u64 {
            match random.u8(0..10) {
                0..3 if workers.len() < 5 => workers.push(bench.start(&format!("w{step}")).await.unwrap()),
                3 if !workers.is_empty() => drop(workers.swap_remove(random.usize(0..workers.len()))),
                4 if !workers.is_empty() => {
                    let worker = workers.swap_remove(random.usize(0..workers.len()));
                    worker.shutdown();
                    stopping.spawn(worker.join());
                }
                _ => {
                    let record = step * 100;
                    bench.source.append(&format!("s{:02}", random.u64(0..shards)), &[record]);
                    written.insert(record);
                }
            }
            tokio::time::sleep(Duration::from_millis(random.u64(1..4000))).await;
        }
        workers.push(bench.start("last").await.unwrap());
        seconds(60).await;
        while let Some(ended) = stopping.join_next().await {
            ended.unwrap().unwrap();
        }
        let read: BTreeSet<u64> = bench.recorder.records().into_iter().collect();
        assert_eq!(read, written, "seed {seed}");
        let shares = bench.shares().await;
        let least = if shares.len() < workers.len() { 0 } else { *shares.values().min().unwrap() };
        assert!(shares.values().max().unwrap() - least <= 1, "seed {seed}: {shares:?} of {} workers", workers.len());
        assert!(bench.leases.list().await.unwrap().iter().all(|lease| lease.leaving.is_none()), "seed {seed}");
        assert_eq!(bench.recorder.flushed(), [""; 0], "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_description_that_is_older_than_what_is_known_is_not_followed() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1]);
    let newer = ARN.replace("2026-01", "2026-03");
    bench.source.replace_stream(&newer);
    let first = bench.start("first").await.unwrap();
    seconds(3).await;
    bench.source.replace_stream(ARN);
    seconds(120).await;
    let second = bench.start("second").await.unwrap();
    seconds(120).await;
    let streams: BTreeSet<_> = bench.leases.list().await.unwrap().into_iter().map(|lease| lease.key.stream).collect();
    assert_eq!(streams.len(), 1, "{streams:?}");
    assert_eq!(bench.recorder.flushed(), [""; 0]);
    for worker in [first, second] {
        worker.shutdown();
        worker.join().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_panics_ends_the_worker_with_an_error() {
    struct Faulty(Arc<ScriptedStream>, &'static str);
    #[async_trait::async_trait]
    impl StreamSource for Faulty {
        async fn describe_table(&self, table: &str) -> Result<crate::stream::TableDescription, StreamError> {
            self.0.describe_table(table).await
        }
        async fn shards_page(
            &self,
            stream: &ringtide_core::record::Stream,
            query: &crate::stream::ShardQuery,
        ) -> Result<crate::stream::ShardsPage, StreamError> {
            assert_ne!(self.1, "list");
            self.0.shards_page(stream, query).await
        }
        async fn iterator(
            &self,
            stream: &Arc<ringtide_core::record::Stream>,
            shard: &crate::stream::ShardId,
            position: crate::stream::Position,
        ) -> Result<crate::stream::ShardIterator, StreamError> {
            self.0.iterator(stream, shard, position).await
        }
        async fn read(&self, iterator: &crate::stream::ShardIterator) -> Result<crate::stream::Page, StreamError> {
            assert_ne!(self.1, "read");
            self.0.read(iterator).await
        }
    }
    /// Leases whose renewal panics.
    struct Panicking(Arc<MemoryLeases>);
    #[async_trait::async_trait]
    impl LeaseStore for Panicking {
        async fn prepare(&self) -> Result<(), LeaseError> {
            self.0.prepare().await
        }
        async fn list(&self) -> Result<Vec<Lease>, LeaseError> {
            self.0.list().await
        }
        async fn create(&self, lease: &Lease) -> Result<bool, LeaseError> {
            self.0.create(lease).await
        }
        async fn ask(&self, lease: &Lease, owner: &OwnerId) -> Result<bool, LeaseError> {
            self.0.ask(lease, owner).await
        }
        async fn withdraw(&self, lease: &Lease, owner: &OwnerId) -> Result<bool, LeaseError> {
            self.0.withdraw(lease, owner).await
        }
        async fn take(&self, lease: &Lease, owner: &OwnerId) -> Result<HeldLease, LeaseError> {
            self.0.take(lease, owner).await
        }
        async fn renew(&self, _: &mut HeldLease) -> Result<(), LeaseError> {
            panic!("as planned")
        }
        async fn checkpoint(
            &self,
            held: &mut HeldLease,
            checkpoint: &Checkpoint,
            children: &BTreeSet<crate::stream::ShardId>,
        ) -> Result<(), LeaseError> {
            self.0.checkpoint(held, checkpoint, children).await
        }
        async fn release(&self, held: HeldLease) -> Result<(), LeaseError> {
            self.0.release(held).await
        }
        async fn delete(&self, lease: &Lease) -> Result<(), LeaseError> {
            self.0.delete(lease).await
        }
    }
    for place in ["list", "read", "renew"] {
        let bench = Bench::new();
        bench.source.shard("s", None, &[1]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), CONFIG).unwrap();
        let mut config = Config::load(file.path(), std::iter::empty()).unwrap();
        config.worker.listen = None;
        let worker = Worker {
            source: Arc::new(Faulty(bench.source.clone(), place)),
            leases: if place == "renew" { Arc::new(Panicking(bench.leases.clone())) } else { bench.leases.clone() },
            deliver: bench.recorder.clone(),
            owner: OwnerId::named("me"),
            metrics: None,
            start_timeout: Duration::from_secs(20),
        };
        let worker = worker.start(&config).await.unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(60), worker.join()).await;
        assert_eq!(ended, Ok(Err(RunError::BrokenOff)), "{place}");
    }
}
