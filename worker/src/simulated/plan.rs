//! From a seed to a world and what happens in it.

use std::time::Duration;

use super::cloud::{FilterRule, Rules};
use super::world::Service;

/// How long things happen before the world is left in peace.
const TROUBLE_MS: u64 = 24_000;

pub(super) struct Plan {
    pub(super) rules: Rules,
    pub(super) ring: usize,
    pub(super) roots: usize,
    pub(super) workers: usize,
    pub(super) flaky: u32,
    /// Each worker's own idea of how long a lease lives: its clock may be fast or slow.
    pub(super) lease_timeouts: Vec<Duration>,
    /// In order of time, from the beginning on.
    pub(super) events: Vec<(Duration, Event)>,
}

/// Which one is meant is told by a number, modulo how many there are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Event {
    Write {
        shard: usize,
        count: u8,
    },
    Split {
        shard: usize,
        children: usize,
        visible: Duration,
        filter_lag: Duration,
    },
    Hide {
        shard: usize,
        time: Duration,
    },
    Trim {
        age: Duration,
        forget: bool,
    },
    ExpireIterators,
    NewStream {
        off: Duration,
        enabling: Duration,
    },
    Crash {
        worker: usize,
        down: Duration,
        renamed: bool,
    },
    /// A worker\'s pipeline ends under it; the process goes down with that.
    Abandon {
        worker: usize,
        down: Duration,
    },
    Stop {
        worker: usize,
        down: Duration,
    },
    Hang {
        worker: usize,
        time: Duration,
    },
    Cut {
        worker: usize,
        time: Duration,
    },
    /// Nobody works for a time, and then nothing is kept that was written before its end.
    Outage {
        down: Duration,
        writes: u8,
    },
    RingShardDown {
        shard: usize,
        time: Duration,
    },
    RingShardSlow {
        shard: usize,
        delay: Duration,
    },
    Steal {
        lease: usize,
    },
    Disturb {
        service: Service,
        time: Duration,
    },
}

impl Plan {
    pub(super) fn of(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let filter = [FilterRule::Supported, FilterRule::Refused, FilterRule::Ignored, FilterRule::Lagging];
        let rules = Rules {
            listing_page: rng.usize(1..6),
            read_page: rng.usize(1..6),
            iterator_life: Duration::from_secs(if rng.u8(..4) == 0 { 3 } else { 900 }),
            filter: filter[rng.usize(..filter.len())],
            long_numbers: rng.bool(),
            empty_pages: rng.u8(..6),
            duplicates: rng.u8(..3),
        };
        let workers = rng.usize(1..4);
        let mut plan = Self {
            rules,
            ring: rng.usize(1..4),
            roots: rng.usize(1..4),
            workers,
            flaky: if rng.bool() { rng.u32(20..200) } else { 0 },
            lease_timeouts: (0..workers).map(|_| Duration::from_millis(rng.u64(4_000..8_000))).collect(),
            events: Vec::new(),
        };
        for _ in 0..rng.usize(20..50) {
            let write = Event::Write { shard: rng.usize(..1_000), count: rng.u8(1..4) };
            plan.at(&mut rng, write);
        }
        for _ in 0..rng.usize(2..7) {
            let visible = millis(&mut rng, &[0, 400, 2_000, 7_000]);
            let filter_lag = millis(&mut rng, &[0, 500, 4_000]);
            let (shard, children) = (rng.usize(..1_000), rng.usize(1..3));
            plan.at(&mut rng, Event::Split { shard, children, visible, filter_lag });
        }
        for _ in 0..rng.usize(..10) {
            let event = trouble(&mut rng);
            plan.at(&mut rng, event);
        }
        plan.events.sort_by_key(|(at, _)| *at);
        plan
    }

    fn at(&mut self, rng: &mut fastrand::Rng, event: Event) {
        self.events.push((Duration::from_millis(rng.u64(..TROUBLE_MS)), event));
    }
}

/// Up to one of these times.
fn millis(rng: &mut fastrand::Rng, most: &[u64]) -> Duration {
    let most = most[rng.usize(..most.len())];
    Duration::from_millis(rng.u64(..=most))
}

fn trouble(rng: &mut fastrand::Rng) -> Event {
    let worker = rng.usize(..3);
    let shard = rng.usize(..1_000);
    let down = millis(rng, &[500, 5_000, 12_000]);
    match rng.u8(..40) {
        0..4 => Event::Crash { worker, down, renamed: rng.bool() },
        4..6 => Event::Stop { worker, down },
        6..10 => Event::Hang { worker, time: millis(rng, &[1_000, 6_000, 12_000]) },
        10..12 => Event::Cut { worker, time: millis(rng, &[1_000, 10_000]) },
        12..15 => Event::RingShardDown { shard, time: millis(rng, &[1_000, 10_000]) },
        15..17 => Event::RingShardSlow { shard, delay: millis(rng, &[300, 3_000]) },
        17..20 => Event::Steal { lease: rng.usize(..1_000) },
        20..24 => {
            let service = [Service::Reads, Service::Listings, Service::Leases][rng.usize(..3)];
            let most: &[u64] = match service {
                // Longer than any patience.
                Service::Listings => &[500, 3_000, 9_000, 60_000],
                Service::Reads | Service::Leases => &[500, 3_000, 9_000],
            };
            Event::Disturb { service, time: millis(rng, most) }
        }
        24..29 => Event::Trim { age: millis(rng, &[0, 500, 3_000]), forget: rng.bool() },
        29..31 => Event::ExpireIterators,
        31..33 => Event::Hide { shard, time: millis(rng, &[1_000, 6_000]) },
        33..35 => Event::NewStream { off: millis(rng, &[0, 3_000]), enabling: millis(rng, &[0, 3_000]) },
        35..37 => Event::Abandon { worker, down },
        _ => Event::Outage { down: millis(rng, &[3_000, 10_000]), writes: rng.u8(2..12) },
    }
}
