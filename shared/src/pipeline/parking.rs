//! Parking as a delivery: a page with a record that nobody can read is delivered when that record is kept somewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use metrics::{counter, gauge};
use tokio::sync::{Notify, Semaphore};

use super::plan::Parked;
use super::status::ParkingStatus;
use super::tasks::Tasks;
use super::ticket::Part;
use crate::backoff::Backoff;
use crate::metrics as names;
use crate::park::{ParkError, ParkStore, ParkedRecord};

/// Records that are being parked at once.
const DEPTH: usize = 8;
/// How long the store may take for one record.
const TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(5);

/// Records and bytes that may wait before taking in waits too: records that nobody can read are few, and where they are
/// not, memory is what has to be kept.
const MOST_RECORDS: usize = 2_000;
const MOST_BYTES: usize = 32 * 1024 * 1024;

/// What parks the records of a pipeline.
pub(super) struct Parking {
    store: Option<Arc<dyn ParkStore>>,
    turns: Semaphore,
    records: AtomicUsize,
    bytes: AtomicUsize,
    parked: AtomicU64,
    healthy: AtomicBool,
    /// Something was parked or given up, or the store was found not to answer.
    moved: Notify,
}

impl Parking {
    pub(super) fn new(store: Option<Arc<dyn ParkStore>>) -> Arc<Self> {
        Arc::new(Self {
            store,
            turns: Semaphore::new(DEPTH),
            records: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
            parked: AtomicU64::new(0),
            healthy: AtomicBool::new(true),
            moved: Notify::new(),
        })
    }

    /// Parks a record in the background, for as long as somebody waits for its page and nothing stops it.
    pub(super) fn park(self: &Arc<Self>, parked: Parked, part: Part, tasks: &Tasks) {
        let record = parked.record;
        let (table, sequence) = place_of(&record);
        let Some(store) = self.store.clone() else {
            tracing::error!(%table, %sequence, reason = record.reason, "record cannot be used, and there is no place to park it");
            self.count(table);
            part.done();
            return;
        };
        tracing::error!(%table, %sequence, reason = record.reason, "record cannot be used, parking it");
        let waiting = Waiting::new(Arc::clone(self), record.weight());
        let parking = async move {
            if waiting.parking.keep(&*store, &record, &part).await {
                tracing::info!(%table, %sequence, "record parked");
                waiting.parking.count(table);
                part.done();
            }
        };
        tasks.spawn(parking, || {});
    }

    fn count(&self, table: String) {
        self.parked.fetch_add(1, Ordering::Relaxed);
        counter!(names::PIPELINE_PARKED, names::TABLE => table).increment(1);
    }

    /// How it fares.
    pub(super) fn status(&self) -> ParkingStatus {
        let parked = self.parked.load(Ordering::Relaxed);
        ParkingStatus { parked, waiting: self.pending(), failing: !self.healthy() }
    }

    /// The number of records that wait to be parked.
    pub(super) fn pending(&self) -> usize {
        self.records.load(Ordering::Acquire)
    }

    /// Whether the last attempt was acknowledged.
    pub(super) fn healthy(&self) -> bool {
        self.healthy.load(Ordering::Acquire)
    }

    /// Whether there is memory for more.
    pub(super) fn has_room(&self) -> bool {
        self.records.load(Ordering::Acquire) <= MOST_RECORDS && self.bytes.load(Ordering::Acquire) <= MOST_BYTES
    }

    /// Waits while too much waits to be parked in a store that answers.
    pub(super) async fn room(&self) {
        loop {
            let moved = self.moved.notified();
            if !self.healthy() || self.has_room() {
                return;
            }
            moved.await;
        }
    }

    /// Waits until nothing is pending.
    pub(super) async fn drained(&self) {
        loop {
            let moved = self.moved.notified();
            if self.pending() == 0 {
                return;
            }
            moved.await;
        }
    }

    /// Tries until the store has acknowledged the record; `false` where nobody waits for it any more.
    async fn keep(&self, store: &dyn ParkStore, record: &ParkedRecord, part: &Part) -> bool {
        let mut backoff = Backoff::new(FIRST_BACKOFF, LAST_BACKOFF);
        loop {
            {
                // Never closed: an error would mean no more than no limit.
                let _turn = self.turns.acquire().await;
                if part.given_up() {
                    return false;
                }
                let parked = tokio::time::timeout(TIMEOUT, store.park(record)).await;
                match parked.unwrap_or(Err(ParkError::TimedOut)) {
                    Ok(()) => {
                        if !self.healthy.swap(true, Ordering::AcqRel) {
                            tracing::info!("records can be parked again");
                        }
                        return true;
                    }
                    Err(error) => self.failed(record, &error),
                }
            }
            tokio::time::sleep(backoff.next_from_half(fastrand::f64())).await;
        }
    }

    fn failed(&self, record: &ParkedRecord, error: &ParkError) {
        counter!(names::PARK_FAILURES, names::REASON => error.label()).increment(1);
        let (table, sequence) = place_of(record);
        if self.healthy.swap(false, Ordering::AcqRel) {
            tracing::error!(%table, %sequence, %error, "record not parked, trying again; its page stays undelivered");
        } else {
            tracing::debug!(%table, %sequence, %error, "record not parked, trying again");
        }
        self.moved.notify_waiters();
    }
}

/// Counts a record for as long as it waits.
struct Waiting {
    parking: Arc<Parking>,
    bytes: usize,
}

impl Waiting {
    fn new(parking: Arc<Parking>, bytes: usize) -> Self {
        parking.bytes.fetch_add(bytes, Ordering::AcqRel);
        gauge!(names::PARK_PENDING).set((parking.records.fetch_add(1, Ordering::AcqRel) + 1) as f64);
        Self { parking, bytes }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.parking.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        gauge!(names::PARK_PENDING).set((self.parking.records.fetch_sub(1, Ordering::AcqRel) - 1) as f64);
        self.parking.moved.notify_waiters();
    }
}

fn place_of(record: &ParkedRecord) -> (String, String) {
    let unknown = || "unknown".to_owned();
    (
        record.table.clone().unwrap_or_else(unknown),
        record.sequence.map_or_else(unknown, |sequence| sequence.to_string()),
    )
}

#[cfg(test)]
#[path = "parking_tests.rs"]
mod tests;
