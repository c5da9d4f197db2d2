//! Who reads a stream shard: whoever holds its lease, and for a while those who lost it and do not know yet.

use std::time::Duration;

use tokio::time::Instant;

/// What a reader that was told to stop may still take beyond its lease's time: a look at the clock, and a call that is slow.
const SLACK: Duration = Duration::from_secs(1);

/// The readers of one stream shard, by the numbers of workers.
#[derive(Default)]
pub(super) struct Readers {
    holder: Option<u32>,
    /// Former holders, each with when it lost the lease.
    former: Vec<(u32, Instant)>,
}

/// Who made a read.
pub(super) enum Reading {
    Holder,
    /// One that lost the lease not long ago.
    Former,
    /// One that never had the lease, or lost it so long ago; it gave it up where that is not told.
    Stranger(Option<Duration>),
}

impl Readers {
    pub(super) fn taken(&mut self, worker: u32, now: Instant) {
        self.former.retain(|(former, _)| *former != worker);
        if let Some(before) = self.holder.replace(worker).filter(|before| *before != worker) {
            self.former.push((before, now));
        }
    }

    pub(super) fn released(&mut self) {
        self.holder = None;
    }

    /// Judges a read by a worker, whose calls last stood still until `hung` and whose leases last so long.
    pub(super) fn read(&self, worker: u32, hung: Instant, lease_time: Duration, now: Instant) -> Reading {
        if self.holder == Some(worker) {
            return Reading::Holder;
        }
        match self.former.iter().find(|(former, _)| *former == worker) {
            Some((_, lost)) if now <= hung.max(*lost) + lease_time + SLACK => Reading::Former,
            former => Reading::Stranger(former.map(|(_, lost)| now.duration_since(*lost))),
        }
    }
}
