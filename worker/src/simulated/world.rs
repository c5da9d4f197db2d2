//! Everything that workers share: the cloud, the ring, faults, and the book of what happened.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::cloud::{Cloud, Rules};
use super::ledger::Ledger;

/// What takes longer was interrupted by other work of the machine, and counts as so long.
const INTERRUPTED: Duration = Duration::from_micros(200);

pub(super) struct World {
    pub(super) cloud: Cloud,
    pub(super) ring: Vec<RingShard>,
    pub(super) ledger: Ledger,
    reads_throttled_until: Instant,
    listings_throttled_until: Instant,
    leases_down_until: Instant,
    /// A call fails once in so many times; 0 for never.
    pub(super) flaky: u32,
    /// The real time that everything in here has taken, which is no worker's.
    pub(super) spent: Duration,
}

pub(super) struct RingShard {
    pub(super) down_until: Instant,
    pub(super) delay: Duration,
}

/// What can be out of order for everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Service {
    Reads,
    Listings,
    Leases,
}

impl World {
    pub(super) fn new(rules: Rules, ring: usize, flaky: u32, seed: u64) -> Self {
        let now = Instant::now();
        Self {
            cloud: Cloud::new(rules, seed),
            ring: (0..ring).map(|_| RingShard { down_until: now, delay: Duration::ZERO }).collect(),
            ledger: Ledger::new(now),
            reads_throttled_until: now,
            listings_throttled_until: now,
            leases_down_until: now,
            flaky,
            spent: Duration::ZERO,
        }
    }

    /// Does something in the world, on the world's account.
    pub(super) fn with<T>(world: &Mutex<Self>, what: impl FnOnce(&mut Self) -> T) -> T {
        let mut world = world.lock().unwrap();
        let began = std::time::Instant::now();
        let answer = what(&mut world);
        world.spent += began.elapsed().min(INTERRUPTED);
        answer
    }

    pub(super) fn disturb(&mut self, service: Service, time: Duration) {
        let until = Instant::now() + time;
        match service {
            Service::Reads => self.reads_throttled_until = until,
            Service::Listings => self.listings_throttled_until = until,
            Service::Leases => self.leases_down_until = until,
        }
    }

    pub(super) fn is_disturbed(&self, service: Service) -> bool {
        let until = match service {
            Service::Reads => self.reads_throttled_until,
            Service::Listings => self.listings_throttled_until,
            Service::Leases => self.leases_down_until,
        };
        until > Instant::now()
    }

    /// All is well from now on.
    pub(super) fn heal(&mut self) {
        let now = Instant::now();
        for shard in &mut self.ring {
            (shard.down_until, shard.delay) = (now, Duration::ZERO);
        }
        for service in [Service::Reads, Service::Listings, Service::Leases] {
            self.disturb(service, Duration::ZERO);
        }
        self.flaky = 0;
    }
}
