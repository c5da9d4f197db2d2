//! The pipeline at work: plans pages and hands their batches to the ring shards' queues.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, PoisonError};

use arc_swap::ArcSwap;
use metrics::{counter, histogram};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::connect::Connector;
use super::limits::Limits;
use super::parking::Parking;
use super::plan::{Batch, Counts, Plan, plan, plan_overtaken};
use super::queue::{Item, Queue};
use super::shard::RingShard;
use super::status::{ParkingStatus, RingShardStatus};
use super::tasks::Tasks;
use super::ticket::Ticket;
use crate::clock::unix_ms;
use crate::command::{Command, without_images};
use crate::key::KeySpace;
use crate::metrics as names;
use crate::park::ParkStore;
use crate::record::{ChangeRecord, UnreadableRecord};
use crate::ring::{RingHistory, Roster, ShardName};
use crate::route::Router;

/// The pipeline of one process, cheap to clone.
///
/// Delivery is at least once, in no order between keys; commands of one key are delivered in the order of their pages
/// wherever order matters (refreshes). Its tasks end with [`Pipeline::shutdown`], or with the last clone.
#[derive(Clone)]
pub struct Pipeline {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    router: Router,
    /// The ring, and the queues of its shards and of those that have left within the window.
    pub(super) roster: ArcSwap<Roster<Arc<Queue>>>,
    /// Changes of the ring happen one after another.
    pub(super) turn: Mutex<()>,
    /// The epoch whose ring shards have all been flushed that joined with it.
    pub(super) taken: watch::Sender<u64>,
    /// Counts the requests to look at followed sources at once.
    pub(super) looks: watch::Sender<u64>,
    /// How other ring shards are reached; `None` where only those are known that were given.
    pub(super) connector: Option<Connector>,
    parking: Arc<Parking>,
    /// Key spaces of which it was told that records come without the images that they need.
    imageless: std::sync::Mutex<BTreeSet<Arc<str>>>,
    prefixes: HashMap<String, BTreeSet<String>>,
    pub(super) all_prefixes: Arc<BTreeSet<String>>,
    limits: Limits,
    pub(super) tasks: Tasks,
}

/// Commands for one queue.
struct Lot<'a> {
    queue: &'a Arc<Queue>,
    batch: &'a Batch,
    commands: Arc<[Command]>,
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
    /// `shards` holds every ring shard that `ring` can name, and one that has moved once for each of its addresses, in the
    /// order of [`RingHistory::shards`]: a command for one that is missing is never delivered.
    /// Records that cannot be used are kept in `park`; without it they are logged and counted.
    #[must_use]
    pub fn start(
        router: Router,
        ring: RingHistory,
        shards: impl IntoIterator<Item = (ShardName, Arc<dyn RingShard>)>,
        limits: Limits,
        park: Option<Arc<dyn ParkStore>>,
    ) -> Self {
        Self::start_with(router, ring, shards, limits, park, None)
    }

    /// As [`Pipeline::start`], on a ring that can change where there is a connector.
    pub(super) fn start_with(
        router: Router,
        ring: RingHistory,
        shards: impl IntoIterator<Item = (ShardName, Arc<dyn RingShard>)>,
        limits: Limits,
        park: Option<Arc<dyn ParkStore>>,
        connector: Option<Connector>,
    ) -> Self {
        let mut prefixes: HashMap<String, BTreeSet<String>> = HashMap::new();
        for table in router.tables() {
            let of_table = router.routes(table).map(|route| prefix(&route.space)).collect();
            prefixes.insert(table.to_owned(), of_table);
        }
        let all_prefixes: Arc<BTreeSet<String>> = Arc::new(prefixes.values().flatten().cloned().collect());
        let mut by_name: HashMap<ShardName, VecDeque<Arc<dyn RingShard>>> = HashMap::new();
        for (name, shard) in shards {
            by_name.entry(name).or_default().push_back(shard);
        }
        let now_ms = unix_ms();
        let mut started = Vec::new();
        let mut queue = |name: &ShardName| {
            let queue = Arc::new(Queue::new(name.clone(), Arc::clone(&all_prefixes), limits));
            match by_name.get_mut(name).and_then(VecDeque::pop_front) {
                Some(shard) => started.push((Arc::clone(&queue), shard)),
                None => {
                    tracing::error!(ring_shard = %name, "the pipeline has no such ring shard");
                    queue.break_off();
                }
            }
            queue
        };
        let kept_ms = ring.kept_ms(now_ms);
        let queues = ring.shards(now_ms).into_iter().map(|spec| queue(&spec.name)).collect();
        let roster = Roster::beginning(ring, queues, now_ms);
        let (epoch, prunes) = (roster.ring().membership().epoch, !roster.former().is_empty());
        let inner = Arc::new(Inner {
            router,
            roster: ArcSwap::from_pointee(roster),
            turn: Mutex::new(()),
            taken: watch::Sender::new(epoch),
            looks: watch::Sender::new(0),
            connector,
            parking: Parking::new(park),
            imageless: std::sync::Mutex::default(),
            prefixes,
            all_prefixes,
            limits,
            tasks: Tasks::default(),
        });
        metrics::gauge!(names::DELIVERY_RING_EPOCH).set(epoch as f64);
        started.into_iter().for_each(|(queue, shard)| inner.attend(&queue, shard));
        inner.share_gauges();
        if prunes {
            inner.prune_after(kept_ms);
        }
        Self { inner }
    }

    /// The routes.
    #[must_use]
    pub fn router(&self) -> &Router {
        &self.inner.router
    }

    /// Takes one page in stream order, and returns as soon as its commands are queued.
    ///
    /// Waits while too much is queued for a ring shard that takes it, and never for one that is down or being flushed. Parking is a part of
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
        let queues = self.inner.queues();
        let (ticket, parts) = Ticket::new(queues.iter().map(|_| 0));
        for (queue, part) in queues.iter().zip(parts) {
            queue.push_flush(prefixes.clone(), part, "gap");
        }
        ticket
    }

    /// Tells that this process goes on where another one delivered before: what ring shards acknowledged to that one is not
    /// known here, so that after a fail-over they are flushed for as long as it may be lost.
    pub fn took_over(&self) {
        let now = Instant::now();
        self.inner.queues().iter().for_each(|queue| queue.took_over(now));
    }

    /// Resolves when a task of the pipeline has broken off, which a defect alone brings about: what it had to deliver never
    /// is, its tickets resolve to [`Abandoned`](super::Abandoned), and the process has to begin anew.
    pub async fn broken(&self) {
        self.inner.tasks.broken().await;
    }

    /// The number of commands that wait for ring shards or are under way, and of records that wait to be parked.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.inner.queues().iter().map(|queue| queue.pending()).sum::<usize>() + self.inner.parking.pending()
    }

    /// How each ring shard's queue fares: the ring's in the order of their names, then those that have left.
    #[must_use]
    pub fn ring_shards(&self) -> Vec<RingShardStatus> {
        self.inner.queues().iter().map(|queue| queue.status()).collect()
    }

    /// What became of records that could not be turned into all of their commands.
    #[must_use]
    pub fn parking(&self) -> ParkingStatus {
        self.inner.parking.status()
    }

    /// The ring shards that did not take their last batch.
    #[must_use]
    pub fn unhealthy(&self) -> Vec<ShardName> {
        let roster = self.inner.roster.load();
        let members = roster.ring().shards().iter().map(|spec| &spec.name).zip(roster.members());
        let former = roster.former().iter().map(|former| (&former.name, &former.member));
        let mut names: Vec<_> =
            members.chain(former).filter(|(_, queue)| !queue.healthy()).map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Whether the store for parked records did not take the last one.
    #[must_use]
    pub fn parking_fails(&self) -> bool {
        !self.inner.parking.healthy()
    }

    /// Whether pages stay undelivered for a reason that must not hold up the others: a ring shard is down or being
    /// flushed, or the store for parked records is down, and what waits for that does not take up too much memory yet.
    #[must_use]
    pub fn held_up(&self) -> bool {
        let stuck = self.parking_fails() || self.inner.queues().iter().any(|queue| queue.held_up());
        stuck && self.inner.parking.has_room()
    }

    /// Whether pages stay undelivered for as long as something else lasts: a ring shard is down or being flushed, or the store for
    /// parked records is down.
    #[must_use]
    pub fn stands_still(&self) -> bool {
        self.parking_fails() || self.inner.queues().iter().any(|queue| queue.stands_still())
    }

    /// The ring shards that may still lack what a fail-over has lost. It ends with the process unless it is made good before, and
    /// nobody else knows of it: they have to be flushed then.
    #[must_use]
    pub fn unrecovered(&self) -> Vec<ShardName> {
        let queues = self.inner.queues();
        queues.iter().filter(|queue| queue.owes_recovery()).map(|queue| queue.name().clone()).collect()
    }

    /// Ends the delivery tasks when everything is delivered, or at `deadline`; returns the commands left undelivered.
    ///
    /// What is owed to [`Pipeline::unrecovered`] ring shards at the deadline is told as an error.
    pub async fn shutdown(&self, deadline: Instant) -> usize {
        let drained = async {
            for queue in self.inner.queues() {
                queue.drained().await;
            }
            self.inner.parking.drained().await;
        };
        // What is left at the deadline is counted and read again by the successor.
        let _in_time = tokio::time::timeout_at(deadline, drained).await;
        let left = self.pending();
        for ring_shard in self.unrecovered() {
            tracing::error!(
                %ring_shard,
                "a ring shard may lack what a fail-over has lost, and nobody makes it good any more: flush it by `ringtide flush --all`"
            );
        }
        self.inner.tasks.stop();
        self.inner.tasks.ended().await;
        left
    }

    async fn submit_page(
        &self,
        page: &[Result<ChangeRecord, UnreadableRecord>],
        deadline_ms: u64,
        planner: Planner,
    ) -> (Ticket, usize) {
        let started = Instant::now();
        let roster = self.inner.roster.load_full();
        let now_ms = unix_ms();
        let planned = planner(&self.inner.router, roster.history(), now_ms, page);
        count(&planned.counts);
        self.inner.tell_imageless(&planned.counts);
        let lots: Vec<Lot<'_>> = planned.batches.iter().flat_map(|batch| lots(&roster, batch, now_ms)).collect();
        // A batch that settles has two parts: the page is delivered when both are.
        let parts_of_lots = lots.iter().flat_map(|lot| {
            std::iter::repeat_n(lot.batch.first_record, if lot.batch.settle.is_some() { 2 } else { 1 })
        });
        let parked = planned.parked.len();
        let (ticket, parts) = Ticket::new(parts_of_lots.chain(planned.parked.iter().map(|parked| parked.index)));
        let mut parts = parts.into_iter();
        for lot in &lots {
            let Some(part) = parts.next() else { break };
            counter!(names::PIPELINE_COMMANDS, names::RING_SHARD => lot.batch.shard.to_string())
                .increment(lot.commands.len() as u64);
            if let Some(after) = lot.batch.settle
                && let Some(part) = parts.next()
            {
                lot.queue.push_at(Item::new(lot.commands.clone(), part, deadline_ms), Instant::now() + after);
            }
            lot.queue.push(Item::new(lot.commands.clone(), part, deadline_ms));
        }
        let Inner { parking, limits, tasks, .. } = &*self.inner;
        for (parked, part) in planned.parked.into_iter().zip(parts) {
            parking.park(parked, part, tasks);
        }
        for lot in &lots {
            lot.queue.room(limits.high_water).await;
        }
        if parked > 0 {
            parking.room().await;
        }
        histogram!(names::PIPELINE_SUBMIT).record(started.elapsed());
        (ticket, parked)
    }
}

impl Inner {
    pub(super) fn queue(&self, name: ShardName) -> Arc<Queue> {
        Arc::new(Queue::new(name, Arc::clone(&self.all_prefixes), self.limits))
    }

    /// Tells once for each key space that records do not tell its keys.
    fn tell_imageless(&self, counts: &Counts) {
        if counts.imageless.is_empty() {
            return;
        }
        let mut told = self.imageless.lock().unwrap_or_else(PoisonError::into_inner);
        for space in counts.imageless.keys().filter(|space| told.insert(Arc::clone(space))) {
            tracing::error!(
                %space,
                "records carry no image, and their keys do not lead to the keys of a space: give the table a stream with the images that its routes need, and flush the space"
            );
        }
    }

    /// The queues of all ring shards that are told of changes.
    fn queues(&self) -> Vec<Arc<Queue>> {
        let roster = self.roster.load();
        let former = roster.former().iter().map(|former| &former.member);
        roster.members().iter().chain(former).cloned().collect()
    }
}

/// The queues for a batch: that of the ring's shard of its name, and those of shards of the name that have left, or are
/// left behind at another address. A name that stands for none has nothing that could be served.
fn lots<'a>(roster: &'a Roster<Arc<Queue>>, batch: &'a Batch, now_ms: u64) -> impl Iterator<Item = Lot<'a>> {
    let member = roster.member(&batch.shard).map(|queue| Lot { queue, batch, commands: Arc::clone(&batch.commands) });
    let former = roster.former().iter().filter(move |former| former.name == batch.shard && now_ms < former.until_ms);
    // An image there would live on past the time for which it is told of changes.
    let former = former.map(|former| Lot { queue: &former.member, batch, commands: without_images(&batch.commands) });
    member.into_iter().chain(former)
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.tasks.stop();
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
        (names::PIPELINE_IMAGELESS, &counts.imageless),
        (names::PIPELINE_VERSION_MISSING, &counts.version_missing),
    ];
    for (name, counts) in by_space {
        for (space, count) in counts {
            counter!(name, names::SPACE => space.to_string()).increment(*count);
        }
    }
    counter!(names::PIPELINE_COALESCED).increment(counts.coalesced);
}
