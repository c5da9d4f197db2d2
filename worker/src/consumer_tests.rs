use ringtide_core::clock::unix_ms;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::health::Health;
use crate::lease::MemoryLeases;
use crate::scripted::{Recorder, ScriptedStream, stream};
use crate::stream::Position;

const MS: Duration = Duration::from_millis(1);

struct Bench {
    source: Arc<ScriptedStream>,
    recorder: Arc<Recorder>,
    leases: Arc<MemoryLeases>,
    shared: Arc<Shared>,
    stop: CancellationToken,
    health: Health,
    _lister: tokio::task::JoinSet<()>,
}

impl Bench {
    fn new() -> Self {
        let (source, recorder, leases) = (ScriptedStream::new(), Recorder::new(), Arc::new(MemoryLeases::new()));
        let (discovery, lister) = Discovery::new(source.clone(), stream(), Duration::from_secs(10));
        let mut listing = tokio::task::JoinSet::new();
        listing.spawn(lister.run());
        let shared = Arc::new(Shared {
            stream: stream(),
            name: StreamName::of(&stream()).unwrap(),
            table: Arc::from("products"),
            source: source.clone(),
            deliver: recorder.clone(),
            leases: leases.clone(),
            owner: OwnerId::named("me"),
            discovery,
            settings: Settings {
                idle_poll: 200 * MS,
                max_reads_per_second: 100,
                pages_in_flight: 3,
                drain_timeout: Duration::from_secs(5),
                cadence: Cadence { checkpoint: 100 * MS, timeout: Duration::from_secs(9) },
            },
        });
        let health = Health::new(Duration::from_secs(10), []);
        health.discovered(&shared.table, &BTreeSet::new());
        Self { source, recorder, leases, shared, stop: CancellationToken::new(), health, _lister: listing }
    }

    async fn lease(&self, shard: &str) -> Option<Lease> {
        self.leases.list().await.unwrap().into_iter().find(|lease| lease.key.shard.as_str() == shard)
    }

    async fn checkpoint(&self, shard: &str) -> Checkpoint {
        self.lease(shard).await.unwrap().checkpoint
    }

    /// Takes the lease, which is created where it is missing, and begins to read.
    async fn read(&self, shard: &str) -> tokio::task::JoinHandle<Exit> {
        self.read_from(shard, Origin::First).await
    }

    async fn read_from(&self, shard: &str, origin: Origin) -> tokio::task::JoinHandle<Exit> {
        let new = Lease::new(self.shared.name.lease(&shard.into()));
        self.leases.create(&new).await.unwrap();
        let lease = self.lease(shard).await.unwrap();
        let held = self.leases.take(&lease, &self.shared.owner).await.unwrap();
        let line = self.health.shard(&self.shared.table, &shard.into());
        let consumer = Consumer::new(self.shared.clone(), held, line).coming_from(origin);
        tokio::spawn(consumer.run(self.stop.clone().cancelled_owned()))
    }
}

fn at(sequence: u64) -> Checkpoint {
    Checkpoint::At(sequence.to_string().parse().unwrap())
}

fn after(sequence: u64) -> Position {
    Position::AfterSequence(sequence.to_string().parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn refreshes_are_bounded_by_the_lease() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1]);
    let before = unix_ms();
    let reading = bench.read("s").await;
    while bench.recorder.deadlines().is_empty() {
        tokio::time::sleep(MS).await;
    }
    let timeout = 9_000;
    let bounds = before + timeout / 2..unix_ms() + timeout;
    assert!(bench.recorder.deadlines().iter().all(|deadline| bounds.contains(deadline)), "{bounds:?}");
    bench.stop.cancel();
    assert!(matches!(reading.await.unwrap(), Exit::Stopped));
}

#[tokio::test(start_paused = true)]
async fn the_last_pages_records_are_delivered_before_the_end_is_stored() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2, 3]);
    bench.source.close("s");
    bench.source.shard("child", Some("s"), &[]);
    bench.recorder.hold();
    let reading = bench.read("s").await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(bench.health.live().ok, "{:?}", bench.health.live());
    assert_eq!(bench.recorder.pages(), [("s".to_owned(), vec![1, 2]), ("s".to_owned(), vec![3])]);
    assert!(!reading.is_finished() && bench.lease("child").await.is_none(), "the last page is not delivered");
    bench.recorder.deliver(1);
    bench.recorder.deliver(0);
    assert_eq!(reading.await.unwrap(), Exit::Ended);
    let lease = bench.lease("s").await.unwrap();
    assert_eq!((lease.checkpoint, lease.owner), (Checkpoint::ShardEnd, None));
    assert_eq!(lease.children, BTreeSet::from(["child".into()]));
    let child = bench.lease("child").await.unwrap();
    assert_eq!((child.checkpoint, child.owner), (Checkpoint::TrimHorizon, Some(OwnerId::named("me"))));
    assert_eq!(child.parents, BTreeSet::from(["s".into()]));
}

#[tokio::test(start_paused = true)]
async fn a_child_that_shows_up_late_is_claimed() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1]);
    bench.source.shard("child", Some("s"), &[]);
    bench.source.hide("child", true);
    bench.source.close("s");
    let reading = bench.read("s").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!reading.is_finished());
    bench.source.hide("child", false);
    assert_eq!(reading.await.unwrap(), Exit::Ended);
    assert!(bench.lease("child").await.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_expired_iterator_is_opened_again_after_the_last_record() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2]);
    let _reading = bench.read("s").await;
    tokio::time::sleep(500 * MS).await;
    bench.source.expire_iterators();
    bench.source.append("s", &[10]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.recorder.records(), [1, 2, 10]);
    let opened: Vec<_> = bench.source.opened().into_iter().map(|(_, position)| position).collect();
    assert_eq!(opened, [Position::TrimHorizon, after(2)]);
}

#[tokio::test(start_paused = true)]
async fn a_checkpoint_never_passes_a_page_that_is_not_delivered() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2, 3, 4, 5, 6]);
    bench.recorder.hold();
    let _reading = bench.read("s").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.recorder.deliver(1);
    bench.recorder.deliver(2);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.checkpoint("s").await, Checkpoint::TrimHorizon);
    bench.recorder.deliver(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.checkpoint("s").await, at(6));
}

#[tokio::test(start_paused = true)]
async fn pages_under_way_are_limited_unless_a_ring_shard_is_down() {
    let bench = Bench::new();
    bench.source.shard("s", None, &(1..=20).collect::<Vec<_>>());
    bench.recorder.hold();
    let _reading = bench.read("s").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.recorder.pages().len(), 3);
    bench.recorder.shard_down(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.recorder.pages().len(), 10, "the other ring shards' invalidations go on");
    assert_eq!(bench.checkpoint("s").await, Checkpoint::TrimHorizon);
}

#[tokio::test(start_paused = true)]
async fn pages_under_way_have_a_bound_also_while_a_ring_shard_is_down() {
    let bench = Bench::new();
    bench.source.shard("s", None, &(1..=8_000).collect::<Vec<_>>());
    bench.recorder.hold();
    bench.recorder.shard_down(true);
    let _reading = bench.read("s").await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.recorder.pages().len(), 3_000, "a thousand times as many as otherwise");
    assert!(bench.health.live().ok, "a restart would have to wait for it, too: {:?}", bench.health.live());
    bench.recorder.deliver(1_000);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.recorder.pages().len(), 3_001);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_ends_the_reading_without_a_checkpoint() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2]);
    bench.recorder.hold();
    let reading = bench.read("s").await;
    tokio::time::sleep(500 * MS).await;
    let lease = bench.lease("s").await.unwrap();
    let _theirs = bench.leases.take(&lease, &OwnerId::named("other")).await.unwrap();
    bench.recorder.deliver(0);
    let exit = tokio::time::timeout(Duration::from_secs(60), reading).await.expect("the reading ends");
    assert_eq!(exit.unwrap(), Exit::LeaseLost);
    assert_eq!(bench.checkpoint("s").await, Checkpoint::TrimHorizon);
}

#[tokio::test(start_paused = true)]
async fn trimmed_records_are_a_gap_that_flushes_and_goes_on_with_the_oldest() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2]);
    let reading = bench.read("s").await;
    tokio::time::sleep(500 * MS).await;
    bench.stop.cancel();
    assert_eq!(reading.await.unwrap(), Exit::Stopped);
    assert_eq!(bench.checkpoint("s").await, at(2));

    let bench = Bench { stop: CancellationToken::new(), ..bench };
    bench.source.append("s", &[3, 4, 5]);
    bench.source.trim("s", 4);
    let _reading = bench.read("s").await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.recorder.flushed(), ["products"]);
    assert_eq!(bench.recorder.records(), [1, 2, 4, 5]);
    assert_eq!(bench.checkpoint("s").await, at(5));
    let gaps = bench.health.snapshot().gaps;
    assert_eq!((gaps.len(), &*gaps[0].reason, gaps[0].stream_shard.as_deref()), (1, "trimmed", Some("s")));
}

#[tokio::test(start_paused = true)]
async fn a_gap_whose_flush_takes_long_is_nothing_that_a_restart_mends() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2, 3, 4, 5]);
    bench.source.trim("s", 4);
    bench.recorder.hold_flushes();
    let new = Lease { checkpoint: at(2), ..Lease::new(bench.shared.name.lease(&"s".into())) };
    bench.leases.create(&new).await.unwrap();
    let _reading = bench.read("s").await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.recorder.flushed(), ["products"]);
    assert!(bench.health.live().ok, "{:?}", bench.health.live());
    assert_eq!(bench.checkpoint("s").await, at(2), "a crash repeats the flush");
    bench.recorder.deliver_flushes();
    for _ in 0..100 {
        tokio::time::sleep(MS).await;
        assert!(bench.health.live().ok, "{:?}", bench.health.live());
    }
    assert_eq!(bench.recorder.records(), [4, 5]);
    for _ in 0..1000 {
        bench.source.fail(StreamError::Other("internal".into()));
    }
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(!bench.health.live().ok, "it is to be read again");
}

#[tokio::test(start_paused = true)]
async fn what_has_to_wait_for_a_flush_is_nothing_that_a_restart_mends() {
    for page in [0, 3] {
        let bench = Bench::new();
        bench.source.shard("s", None, &(1..=20).collect::<Vec<_>>());
        bench.recorder.hold();
        let _reading = bench.read("s").await;
        // Pages are held up as they are handed over, or once there are as many under way as may be.
        bench.recorder.full(page == 0);
        bench.recorder.shard_waited_for(true);
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(bench.recorder.pages().len(), page);
        assert!(bench.health.live().ok, "{:?}", bench.health.live());
        bench.recorder.shard_waited_for(false);
        tokio::time::sleep(Duration::from_secs(9)).await;
        assert!(bench.health.live().ok, "{:?}", bench.health.live());
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert!(!bench.health.live().ok, "nothing is left to be waited for");
    }
}

#[tokio::test(start_paused = true)]
async fn a_gap_after_which_nothing_is_kept_is_told_once() {
    let mut bench = Bench::new();
    bench.source.shard("s", None, &[1, 2]);
    for (checkpoint, flushes) in [(at(2), 0), (Checkpoint::TrimHorizon, 1), (Checkpoint::TrimHorizon, 1)] {
        bench.stop = CancellationToken::new();
        let reading = bench.read("s").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        bench.stop.cancel();
        assert_eq!(reading.await.unwrap(), Exit::Stopped);
        assert_eq!((bench.checkpoint("s").await, bench.recorder.flushed().len()), (checkpoint, flushes));
        bench.source.trim("s", 9);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_gone_is_a_gap_that_flushes_and_ends_it() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2]);
    bench.source.shard("child", Some("s"), &[]);
    let reading = bench.read("s").await;
    tokio::time::sleep(500 * MS).await;
    bench.recorder.hold_flushes();
    bench.source.forget("s");
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert!(!reading.is_finished() && bench.health.live().ok, "{:?}", bench.health.live());
    assert_eq!(bench.checkpoint("s").await, at(2), "it is not flushed");
    bench.recorder.deliver_flushes();
    assert_eq!(reading.await.unwrap(), Exit::Ended);
    assert_eq!(bench.recorder.flushed(), ["products"]);
    assert_eq!(bench.checkpoint("s").await, Checkpoint::ShardEnd);
}

#[tokio::test(start_paused = true)]
async fn one_that_is_gone_without_a_child_does_not_hold_up_what_comes_after_it() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2]);
    let reading = bench.read("s").await;
    tokio::time::sleep(500 * MS).await;
    bench.source.forget("s");
    tokio::time::sleep(CHILD_PATIENCE_WHEN_GONE + Duration::from_secs(1)).await;
    assert!(reading.is_finished());
    assert_eq!(bench.checkpoint("s").await, Checkpoint::ShardEnd);
}

#[tokio::test(start_paused = true)]
async fn throttled_and_failed_reads_are_made_again() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2, 3]);
    for _ in 0..3 {
        bench.source.fail(StreamError::Throttled(String::new()));
        bench.source.fail(StreamError::Other("internal".into()));
    }
    let _reading = bench.read("s").await;
    let error = || bench.health.snapshot().stream_shards[0].error.clone().unwrap_or_default();
    let shown = async {
        while !error().contains("internal") {
            tokio::time::sleep(MS).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), shown).await.expect("a failure is shown while it lasts");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(bench.recorder.records(), [1, 2, 3]);
    assert!(bench.recorder.flushed().is_empty() && error().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_delivers_what_is_under_way_and_frees_the_lease() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2, 3]);
    bench.recorder.hold();
    let reading = bench.read("s").await;
    tokio::time::sleep(500 * MS).await;
    bench.stop.cancel();
    tokio::time::sleep(500 * MS).await;
    assert!(!reading.is_finished());
    bench.recorder.deliver(0);
    bench.recorder.deliver(1);
    assert_eq!(reading.await.unwrap(), Exit::Stopped);
    let lease = bench.lease("s").await.unwrap();
    assert_eq!((lease.checkpoint, lease.owner), (at(3), None));
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_cannot_deliver_everything_stores_what_was_delivered() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2, 3]);
    bench.recorder.hold();
    let reading = bench.read("s").await;
    tokio::time::sleep(500 * MS).await;
    bench.recorder.deliver(0);
    bench.stop.cancel();
    assert_eq!(reading.await.unwrap(), Exit::Stopped);
    let lease = bench.lease("s").await.unwrap();
    assert_eq!((lease.checkpoint, lease.owner), (at(2), None));
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_page_stops_the_reading_before_its_checkpoint() {
    let bench = Bench::new();
    bench.source.shard("s", None, &[1, 2]);
    bench.recorder.hold();
    let reading = bench.read("s").await;
    tokio::time::sleep(500 * MS).await;
    bench.recorder.abandon();
    assert_eq!(reading.await.unwrap(), Exit::Abandoned);
    assert_eq!(bench.checkpoint("s").await, Checkpoint::TrimHorizon);
}

/// A stream shard that another worker has found, while this one's listings fail for ten minutes.
async fn found_by_another(error: StreamError) -> (Bench, tokio::task::JoinHandle<Exit>) {
    let bench = Bench::new();
    bench.source.fail_listings(Some(error));
    bench.source.shard("s", None, &[5, 6]);
    bench.source.begins("s", 5);
    let reading = bench.read_from("s", Origin::Continued).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(bench.recorder.flushed().is_empty(), "nobody has answered that anything is gone");
    (bench, reading)
}

#[tokio::test(start_paused = true)]
async fn what_no_listing_could_show_is_not_taken_for_lost() {
    for error in [StreamError::Throttled("slow down".to_owned()), StreamError::Unreachable("reset".to_owned())] {
        let (bench, _reading) = found_by_another(error).await;
        assert!(bench.recorder.records().is_empty(), "from where it counts is not known");
        bench.source.fail_listings(None);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(bench.recorder.records(), [5, 6]);
        assert!(bench.recorder.flushed().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_trimmed_while_listings_failed_is_still_found_to_be_lost() {
    let (bench, _reading) = found_by_another(StreamError::Unreachable("reset".to_owned())).await;
    bench.source.trim("s", 6);
    bench.source.fail_listings(None);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(bench.recorder.flushed(), ["products"]);
    assert_eq!(bench.recorder.records(), [6]);
}

#[tokio::test(start_paused = true)]
async fn what_listings_leave_out_for_some_seconds_is_lost_only_after_that() {
    for (hidden, flushes) in [(3, 0), (20, 1)] {
        let bench = Bench::new();
        bench.source.shard("s", None, &[5, 6]);
        bench.source.begins("s", 5);
        bench.source.hide("s", true);
        let _reading = bench.read_from("s", Origin::Continued).await;
        tokio::time::sleep(Duration::from_secs(hidden)).await;
        bench.source.hide("s", false);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!((bench.recorder.flushed().len(), bench.recorder.records()), (flushes, vec![5, 6]), "{hidden} s");
    }
}

#[tokio::test(start_paused = true)]
async fn an_orphan_flushes_once_its_first_page_was_read_and_before_that_is_handed_over() {
    let bench = Bench::new();
    bench.source.shard("s", Some("gone"), &[7, 8]);
    bench.source.fail(StreamError::Other("internal".into()));
    let _reading = bench.read_from("s", Origin::Orphan).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.recorder.flushed(), ["products"]);
    assert_eq!(bench.recorder.records(), [7, 8]);
    assert_eq!(bench.checkpoint("s").await, at(8));
}

#[tokio::test(start_paused = true)]
async fn a_child_whose_first_records_were_trimmed_unread_is_a_gap() {
    let bench = Bench::new();
    bench.source.shard("s", Some("parent"), &[3, 4, 5]);
    bench.source.begins("s", 3);
    bench.source.trim("s", 5);
    while bench.shared.discovery.newest().is_none() {
        tokio::time::sleep(MS).await;
    }
    let _reading = bench.read_from("s", Origin::Continued).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.recorder.flushed(), ["products"]);
    assert_eq!(bench.recorder.records(), [5]);
}

#[tokio::test(start_paused = true)]
async fn a_child_that_is_all_there_is_read_from_its_beginning() {
    let bench = Bench::new();
    bench.source.shard("s", Some("parent"), &[3, 4]);
    bench.source.begins("s", 2);
    while bench.shared.discovery.newest().is_none() {
        tokio::time::sleep(MS).await;
    }
    let _reading = bench.read_from("s", Origin::Continued).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(bench.recorder.flushed().is_empty());
    assert_eq!(bench.recorder.records(), [3, 4]);
    let first = bench.source.opened().into_iter().map(|(_, position)| position).next();
    assert_eq!(first, Some(Position::AtSequence("2".parse().unwrap())));
}
