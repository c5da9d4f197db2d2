use std::collections::BTreeMap;

use super::*;
use crate::lease::{Lease, LeaseKey, OwnerId, PAUSED_OWNER};
use crate::lineage::{self, Plan};
use crate::stream::{Listing, StreamShard, StreamStatus};

const SECOND: Duration = Duration::from_secs(1);

fn health() -> (Health, Arc<str>) {
    let table: Arc<str> = Arc::from("products");
    (Health::new(10 * SECOND, [Arc::clone(&table)]), table)
}

fn age(health: &Health) -> f64 {
    health.snapshot().stream_shards[0].age_s.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_shard_that_is_not_read_makes_the_worker_unhealthy() {
    let (health, table) = health();
    health.discovered(&table, &BTreeSet::new());
    let shard = health.shard(&table, &"s1".into());
    shard.read(Duration::ZERO);
    assert!(health.ready().ok);
    tokio::time::advance(11 * SECOND).await;
    shard.failed(&StreamError::Unreachable("connection refused".into()));
    for verdict in [health.live(), health.ready()] {
        assert!(!verdict.ok && verdict.reasons[0].contains("s1") && verdict.reasons[0].contains("refused"));
    }
    shard.read(Duration::ZERO);
    assert!(health.live().ok && health.ready().ok);
    tokio::time::advance(11 * SECOND).await;
    shard.ended();
    assert!(health.live().ok, "an ended one is not read any more");
}

#[tokio::test(start_paused = true)]
async fn a_closed_shard_without_successor_makes_the_worker_unhealthy() {
    let (health, table) = health();
    health.discovered(&table, &BTreeSet::from(["s1".into()]));
    assert!(health.live().ok);
    tokio::time::advance(11 * SECOND).await;
    assert!(!health.live().ok && !health.ready().ok);
    health.discovered(&table, &BTreeSet::new());
    assert!(health.live().ok);
}

#[tokio::test(start_paused = true)]
async fn a_problem_that_lasts_makes_the_worker_unhealthy() {
    let (health, table) = health();
    health.discovered(&table, &BTreeSet::new());
    health.table_problem(&table, Part::Leases, Some("denied".into()));
    tokio::time::advance(6 * SECOND).await;
    health.table_problem(&table, Part::Leases, Some("denied".into()));
    assert!(health.live().ok);
    tokio::time::advance(6 * SECOND).await;
    assert!(health.live().reasons[0].contains("denied"));
    health.table_problem(&table, Part::Leases, None);
    assert!(health.live().ok);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_never_discovered_makes_the_worker_unhealthy() {
    let (health, _) = health();
    tokio::time::advance(11 * SECOND).await;
    assert!(!health.live().ok);
    assert_eq!(health.ready().reasons.len(), 1, "told once: {:?}", health.ready());
}

#[tokio::test(start_paused = true)]
async fn it_is_ready_once_everything_was_read() {
    let (health, table) = health();
    assert!(health.ready().reasons[0].contains("products"));
    let shard = health.shard(&table, &"s1".into());
    health.discovered(&table, &BTreeSet::new());
    assert!(health.ready().reasons[0].contains("s1"));
    shard.read(Duration::ZERO);
    assert!(health.ready().ok);
    health.stopping();
    assert!(!health.ready().ok);
}

#[tokio::test(start_paused = true)]
async fn an_age_grows_until_the_next_read_and_an_empty_page_ends_it() {
    let (health, table) = health();
    let shard = health.shard(&table, &"s1".into());
    tokio::time::advance(3 * SECOND).await;
    assert_eq!(age(&health), 3.0, "never read");
    shard.read(5 * SECOND);
    assert_eq!(age(&health), 5.0);
    tokio::time::advance(2 * SECOND).await;
    assert_eq!(age(&health), 7.0, "nobody knows what was written since");
    shard.read(Duration::ZERO);
    assert_eq!(age(&health), 0.0);
    tokio::time::advance(SECOND).await;
    shard.failed(&StreamError::Throttled("later".into()));
    assert_eq!(age(&health), 1.0, "a read that fails shows nothing");
}

#[tokio::test(start_paused = true)]
async fn a_watermark_that_stands_still_is_told_apart_from_one_that_moves() {
    let (health, table) = health();
    let shard = health.shard(&table, &"s1".into());
    let at = |sequence: &str| Some(Checkpoint::At(sequence.parse().unwrap()));
    let stands = |health: &Health| health.snapshot().stream_shards[0].undelivered_s;
    shard.delivering(1, None);
    tokio::time::advance(2 * SECOND).await;
    shard.delivering(2, None);
    assert_eq!(stands(&health), 2.0);
    shard.delivering(1, at("5"));
    assert_eq!(stands(&health), 0.0, "it moved");
    tokio::time::advance(SECOND).await;
    shard.delivering(3, at("5"));
    assert_eq!(stands(&health), 1.0);
    shard.delivering(0, at("7"));
    tokio::time::advance(SECOND).await;
    assert_eq!(stands(&health), 0.0, "nothing is under way");
    let note = &health.snapshot().stream_shards[0];
    assert_eq!((note.checkpoint.as_deref(), note.undelivered_pages), (Some("7"), 0));
}

/// Looks at leases as a follower does.
struct Look {
    health: Health,
    table: Arc<str>,
    me: OwnerId,
}

impl Look {
    fn new() -> Self {
        let (health, table) = health();
        health.discovered(&table, &BTreeSet::new());
        Self { health, table, me: OwnerId::named("me") }
    }

    fn at(&self, shards: &[(&str, Option<&str>, u64)]) {
        let lease = |&(shard, owner, counter): &(&str, Option<&str>, u64)| {
            let key = LeaseKey::parse(&format!("1:r$1$products$l:1:{shard}")).unwrap();
            let owner = owner.map(OwnerId::named);
            (ShardId::from(shard), Lease { owner, counter, ..Lease::new(key) })
        };
        let leases: BTreeMap<ShardId, Lease> = shards.iter().map(lease).collect();
        let listed =
            |(id, ..): &(&str, Option<&str>, u64)| StreamShard { id: (*id).into(), parent: None, starting: None };
        let listing = Listing { status: StreamStatus::Enabled, shards: shards.iter().map(listed).collect() };
        self.seen(&lineage::plan(&listing, &leases), &leases);
    }

    fn seen(&self, plan: &Plan, leases: &BTreeMap<ShardId, Lease>) {
        let (owner, timeout) = (&self.me, 10 * SECOND);
        let paused = leases.values().any(|lease| lease.owner == Some(OwnerId::named(PAUSED_OWNER)));
        self.health.leases(&self.table, &LeasesSeen { stream: "arn", owner, timeout, paused, plan, leases });
    }

    fn states(&self) -> Vec<(String, ShardState)> {
        let shards = self.health.snapshot().stream_shards;
        let mut states: Vec<_> = shards.into_iter().map(|shard| (shard.stream_shard, shard.state)).collect();
        states.sort();
        states
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_shard_that_nobody_holds_is_reported_by_every_worker() {
    let look = Look::new();
    let here = look.health.shard(&look.table, &"a".into());
    here.read(Duration::ZERO);
    for second in 0..30 {
        look.at(&[("a", Some("me"), second), ("b", Some("other"), second), ("c", Some("dead"), 7), ("d", None, 1)]);
        here.read(Duration::ZERO);
        if second == 19 {
            assert!(look.health.ready().ok, "a hand-over takes its time: {:?}", look.health.ready());
        }
        tokio::time::advance(SECOND).await;
    }
    let state = |shard: &str, state| (shard.to_owned(), state);
    assert_eq!(
        look.states(),
        [
            state("a", ShardState::Here),
            state("b", ShardState::Elsewhere),
            state("c", ShardState::Unheld),
            state("d", ShardState::Unheld)
        ]
    );
    let verdict = look.health.ready();
    assert!(!verdict.ok && verdict.reasons.len() == 2, "{verdict:?}");
    assert!(verdict.reasons[0].contains("stream shard c") && verdict.reasons[0].contains("dead"), "{verdict:?}");
    let live = look.health.live();
    assert!(live.ok && live.warnings.len() == 2, "a restart does not mend it: {live:?}");

    let taken = look.health.shard(&look.table, &"c".into());
    taken.read(Duration::ZERO);
    assert_eq!(look.health.live().warnings.len(), 1, "it is read here now");
    look.at(&[("a", Some("me"), 40), ("b", Some("other"), 40), ("c", Some("me"), 8), ("d", Some("other"), 2)]);
    assert!(look.health.ready().ok, "{:?}", look.health.ready());
}

#[tokio::test(start_paused = true)]
async fn a_paused_stream_is_shown_and_is_no_fault() {
    let look = Look::new();
    for _ in 0..40 {
        look.at(&[("a", Some(PAUSED_OWNER), 3), ("b", None, 1)]);
        tokio::time::advance(SECOND).await;
    }
    let paused = |shard: &str| (shard.to_owned(), ShardState::Paused);
    assert_eq!(look.states(), [paused("a"), paused("b")]);
    assert!(look.health.ready().ok, "{:?}", look.health.ready());
}

#[tokio::test(start_paused = true)]
async fn leases_that_are_looked_at_seldom_are_not_taken_for_unheld() {
    let look = Look::new();
    for minute in 0..5 {
        look.at(&[("a", Some("other"), minute)]);
        tokio::time::advance(60 * SECOND).await;
    }
    assert_eq!(look.states(), [("a".to_owned(), ShardState::Elsewhere)]);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_is_reported_until_one_succeeds() {
    let (health, table) = health();
    health.discovered(&table, &BTreeSet::new());
    health.probed("a", Ok(SECOND));
    assert!(health.ready().ok);
    health.probed("a", Err("not invalidated".into()));
    tokio::time::advance(3 * SECOND).await;
    health.probed("a", Err("not invalidated".into()));
    for verdict in [health.live(), health.ready()] {
        assert!(verdict.warnings[0].contains("since 3 s: not invalidated"), "{verdict:?}");
        assert!(verdict.ok, "no restart mends it, and the other ring shards are served: {verdict:?}");
    }
    health.probed("a", Ok(SECOND));
    assert!(health.ready().warnings.is_empty() && health.snapshot().probes[0].lag_s == Some(1.0));
    health.keep_probes(&BTreeSet::new());
    assert!(health.snapshot().probes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_last_hundred_gaps_are_remembered_newest_first() {
    let (health, _) = health();
    for n in 0..120 {
        health.gap("products", Some(&format!("s{n}").as_str().into()), "trimmed");
    }
    health.gap("products", None, "new_stream");
    let snapshot = health.snapshot();
    assert_eq!((snapshot.gaps.len(), snapshot.gaps_total), (100, 121));
    assert_eq!((snapshot.gaps[0].stream_shard.as_deref(), &*snapshot.gaps[0].reason), (None, "new_stream"));
    assert_eq!(snapshot.gaps[1].stream_shard.as_deref(), Some("s119"));
}
