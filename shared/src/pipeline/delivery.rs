//! The pipeline at work: plans pages and hands their batches to the ring shards' queues.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use metrics::{counter, histogram};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::parking::Parking;
use super::plan::{Counts, Plan, plan, plan_overtaken};
use super::queue::{Item, Queue, RingShard};
use super::ticket::Ticket;
use crate::clock::unix_ms;
use crate::key::KeySpace;
use crate::metrics as names;
use crate::park::ParkStore;
use crate::record::{ChangeRecord, UnreadableRecord};
use crate::ring::{RingHistory, ShardName};
use crate::route::Router;

/// How much may wait for one ring shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Commands past which a ring shard that is down is flushed instead.
    pub capacity: usize,
    /// Commands past which taking in waits for a ring shard that is up.
    pub high_water: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { capacity: 200_000, high_water: 20_000 }
    }
}

/// The pipeline of one process, cheap to clone.
///
/// Delivery is at least once, in no order between keys; commands of one key are delivered in the order of their pages
/// wherever order matters (refreshes). Its tasks end with [`Pipeline::shutdown`], or with the last clone.
#[derive(Clone)]
pub struct Pipeline {
    inner: Arc<Inner>,
}

struct Inner {
    router: Router,
    ring: RingHistory,
    queues: BTreeMap<ShardName, Arc<Queue>>,
    parking: Arc<Parking>,
    prefixes: HashMap<String, BTreeSet<String>>,
    limits: Limits,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What [`Pipeline::deliver`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The first record of the page that was not delivered in time; `None` where all were.
    pub first_undelivered: Option<usize>,
    /// Records that could not be turned into all of their commands, and were parked, or are to be sent again.
    pub parked: usize,
}

/// How a page becomes commands: [`plan`] or [`plan_overtaken`].
type Planner = fn(&Router, &RingHistory, u64, &[Result<ChangeRecord, UnreadableRecord>]) -> Plan;

impl Pipeline {
    /// Starts one delivery task for each ring shard; must be called in a Tokio runtime.
    ///
    /// `shards` holds every ring shard that `ring` can name: a command for one that is missing is never delivered.
    /// Records that cannot be used are kept in `park`; without it they are logged and counted.
    #[must_use]
    pub fn start(
        router: Router,
        ring: RingHistory,
        shards: impl IntoIterator<Item = (ShardName, Arc<dyn RingShard>)>,
        limits: Limits,
        park: Option<Arc<dyn ParkStore>>,
    ) -> Self {
        let mut prefixes: HashMap<String, BTreeSet<String>> = HashMap::new();
        for table in router.tables() {
            let of_table = router.routes(table).map(|route| prefix(&route.space)).collect();
            prefixes.insert(table.to_owned(), of_table);
        }
        let all: Arc<BTreeSet<String>> = Arc::new(prefixes.values().flatten().cloned().collect());
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let queues = shards
            .into_iter()
            .map(|(name, shard)| {
                let queue = Arc::new(Queue::new(name.clone(), all.clone(), limits.capacity));
                let (delivering, stop) = (queue.clone(), stop.clone());
                tasks.spawn(async move { delivering.deliver(shard, stop).await });
                (name, queue)
            })
            .collect();
        let parking = Parking::new(park);
        Self { inner: Arc::new(Inner { router, ring, queues, parking, prefixes, limits, tasks, stop }) }
    }

    /// The routes.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.inner.router
    }

    /// Takes one page in stream order, and returns as soon as its commands are queued.
    ///
    /// Waits while too much is queued for a ring shard that is up, and never for one that is down. Parking is a part of
    /// the delivery, and so is waited for in the same way. Refreshes of the page are not stored past `deadline_ms` of the
    /// ring shard's clock, as with [`Pipeline::deliver`]; they drop their entries then (unix ms; 0 for no deadline).
    pub async fn submit(&self, page: Vec<Result<ChangeRecord, UnreadableRecord>>, deadline_ms: u64) -> Ticket {
        self.submit_page(&page, deadline_ms, plan).await.0
    }

    /// Delivers a page, and tells by `deadline` what was not delivered; that is not tried any further.
    ///
    /// Refreshes of the page are not stored past the deadline by the ring shard's clock: what is still on its way then,
    /// or is sent by a process that was stopped meanwhile, drops the entry instead. So whoever delivers the page again
    /// after the deadline, and a newer one after it, is not overtaken by an old image. Where the ring shard's clock is
    /// behind this process's one, an image may be stored that much later: the page must not be delivered again earlier
    /// than the clocks may differ after the deadline. Where it is ahead, refreshes that come as close to the deadline
    /// drop the entry, which costs a miss.
    pub async fn deliver(&self, page: &[Result<ChangeRecord, UnreadableRecord>], deadline: Instant) -> Delivered {
        self.deliver_as(page, deadline, plan).await
    }

    /// As [`Pipeline::deliver`], for a page that newer ones of its stream shard may have overtaken: its refreshes
    /// invalidate, because nothing that comes after it would correct the images that it brings.
    pub async fn deliver_overtaken(
        &self,
        page: &[Result<ChangeRecord, UnreadableRecord>],
        deadline: Instant,
    ) -> Delivered {
        self.deliver_as(page, deadline, plan_overtaken).await
    }

    async fn deliver_as(
        &self,
        page: &[Result<ChangeRecord, UnreadableRecord>],
        deadline: Instant,
        planner: Planner,
    ) -> Delivered {
        let left = deadline.saturating_duration_since(Instant::now());
        // Not 0, which would be no deadline at all.
        let deadline_ms = unix_ms().saturating_add(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)).max(1);
        let submitted = tokio::time::timeout_at(deadline, self.submit_page(page, deadline_ms, planner)).await;
        let Ok((mut ticket, parked)) = submitted else {
            return Delivered { first_undelivered: (!page.is_empty()).then_some(0), parked: 0 };
        };
        let first_undelivered = match tokio::time::timeout_at(deadline, &mut ticket).await {
            Ok(Ok(())) => None,
            Ok(Err(_)) | Err(_) => ticket.first_undelivered(),
        };
        Delivered { first_undelivered, parked }
    }

    /// Flushes every key of the table's key spaces on every ring shard: what a gap in its stream asks for.
    pub async fn flush_table(&self, table: &str) -> Ticket {
        let prefixes = self.inner.prefixes.get(table).cloned().unwrap_or_default();
        let (ticket, parts) = Ticket::new(self.inner.queues.keys().map(|_| 0));
        for (queue, part) in self.inner.queues.values().zip(parts) {
            queue.push_flush(prefixes.clone(), part, "gap");
        }
        ticket
    }

    /// The number of commands that wait for ring shards or are under way, and of records that wait to be parked.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.inner.queues.values().map(|queue| queue.pending()).sum::<usize>() + self.inner.parking.pending()
    }

    /// The ring shards that did not take their last batch.
    #[must_use]
    pub fn unhealthy(&self) -> Vec<ShardName> {
        let unhealthy = self.inner.queues.iter().filter(|(_, queue)| !queue.healthy());
        unhealthy.map(|(name, _)| name.clone()).collect()
    }

    /// Whether the store for parked records did not take the last one.
    #[must_use]
    pub fn parking_fails(&self) -> bool {
        !self.inner.parking.healthy()
    }

    /// Whether pages stay undelivered for a reason that must not hold up the others: a ring shard or the store for
    /// parked records is down, and what waits for them does not take up too much memory yet.
    #[must_use]
    pub fn held_up(&self) -> bool {
        let down = self.parking_fails() || self.inner.queues.values().any(|queue| !queue.healthy());
        down && self.inner.parking.has_room()
    }

    /// Ends the delivery tasks when everything is delivered, or at `deadline`; returns the commands left undelivered.
    pub async fn shutdown(&self, deadline: Instant) -> usize {
        let drained = async {
            for queue in self.inner.queues.values() {
                queue.drained().await;
            }
            self.inner.parking.drained().await;
        };
        // What is left at the deadline is counted and read again by the successor.
        let _in_time = tokio::time::timeout_at(deadline, drained).await;
        let left = self.pending();
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
        left
    }

    async fn submit_page(
        &self,
        page: &[Result<ChangeRecord, UnreadableRecord>],
        deadline_ms: u64,
        planner: Planner,
    ) -> (Ticket, usize) {
        let started = Instant::now();
        let planned = planner(&self.inner.router, &self.inner.ring, unix_ms(), page);
        count(&planned.counts);
        // A batch that settles has two parts: the page is delivered when both are.
        let parts_of_batches = planned
            .batches
            .iter()
            .flat_map(|batch| std::iter::repeat_n(batch.first_record, if batch.settle.is_some() { 2 } else { 1 }));
        let parked = planned.parked.len();
        let (ticket, parts) = Ticket::new(parts_of_batches.chain(planned.parked.iter().map(|parked| parked.index)));
        let mut parts = parts.into_iter();
        let mut touched = BTreeSet::new();
        for batch in planned.batches {
            let Some(part) = parts.next() else { break };
            counter!(names::PIPELINE_COMMANDS, names::RING_SHARD => batch.shard.to_string())
                .increment(batch.commands.len() as u64);
            if let Some(after) = batch.settle
                && let Some(part) = parts.next()
            {
                let again = Item { commands: batch.commands.clone(), part, deadline_ms };
                self.push_later(&batch.shard, again, Instant::now() + after);
            }
            self.push(&batch.shard, Item { commands: batch.commands, part, deadline_ms });
            touched.insert(batch.shard);
        }
        let Inner { queues, parking, limits, tasks, stop, .. } = &*self.inner;
        for (parked, part) in planned.parked.into_iter().zip(parts) {
            parking.park(parked, part, tasks, stop);
        }
        for queue in touched.iter().filter_map(|shard| queues.get(shard)) {
            queue.room(limits.high_water).await;
        }
        if parked > 0 {
            parking.room().await;
        }
        histogram!(names::PIPELINE_SUBMIT).record(started.elapsed());
        (ticket, parked)
    }

    fn push(&self, shard: &ShardName, item: Item) {
        match self.inner.queues.get(shard) {
            Some(queue) => queue.push(item),
            // The part is dropped undelivered, so that no checkpoint passes it.
            None => tracing::error!(ring_shard = %shard, "the pipeline has no such ring shard"),
        }
    }

    fn push_later(&self, shard: &ShardName, item: Item, at: Instant) {
        let Some(queue) = self.inner.queues.get(shard).cloned() else { return };
        let stop = self.inner.stop.clone();
        self.inner.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep_until(at) => queue.push(item),
            }
        });
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn prefix(space: &KeySpace) -> String {
    space.template.prefix().to_owned()
}

fn count(counts: &Counts) {
    let by_table = [
        (names::PIPELINE_RECORDS, &counts.records),
        (names::PIPELINE_UNROUTED, &counts.unrouted),
        (names::PIPELINE_KEYS_ONLY, &counts.keys_only),
        (names::TTL_DELETIONS, &counts.ttl_deletions),
    ];
    for (name, counts) in by_table {
        for (table, count) in counts {
            counter!(name, names::TABLE => table.clone()).increment(*count);
        }
    }
    let by_space = [
        (names::PIPELINE_UNRENDERABLE, &counts.unrenderable),
        (names::PIPELINE_VERSION_MISSING, &counts.version_missing),
    ];
    for (name, counts) in by_space {
        for (space, count) in counts {
            counter!(name, names::SPACE => space.to_string()).increment(*count);
        }
    }
    counter!(names::PIPELINE_COALESCED).increment(counts.coalesced);
}
