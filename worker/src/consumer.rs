//! One stream shard from its checkpoint to its end: read, deliver, follow the watermark, checkpoint.

mod reading;

use std::collections::{BTreeSet, VecDeque};
use std::panic::resume_unwind;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use metrics::counter;
use ringtide_core::backoff::Backoff;
use ringtide_core::metrics as names;
use ringtide_core::pipeline::Abandoned;
use ringtide_core::record::Stream;
use ringtide_core::watermark::{Begun, Watermark};
use tokio::sync::Mutex;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

use crate::deliver::{Deliver, Delivery};
use crate::discovery::Discovery;
use crate::health::ShardHealth;
use crate::lease::keeper::{Cadence, LeaseKeeper};
use crate::lease::{Checkpoint, HeldLease, Lease, LeaseError, LeaseStore, OwnerId, StreamName};
use crate::lineage::{self, Origin};
use crate::stream::policy::AfterGap;
use crate::stream::{ShardId, StreamError, StreamSource};

use reading::{Reader, Step};

/// How long a closed stream shard's children are looked for before its end is stored without them.
const CHILD_PATIENCE: Duration = Duration::from_secs(30);
/// How long those of one are looked for that is gone: they were shown long before.
const CHILD_PATIENCE_WHEN_GONE: Duration = lineage::PATIENCE;
/// How often a consumer that waits for its pages looks whether something that is down holds them up.
const HOLD_UP_CHECK: Duration = Duration::from_millis(50);

/// How many times as many pages may be under way while something that is down or being flushed holds them up: what is kept of
/// each is small, and to read no more would hold up the other ring shards.
const HELD_UP_PAGES: usize = 1_000;

/// What all consumers of a stream share.
pub(crate) struct Shared {
    pub(crate) stream: Arc<Stream>,
    pub(crate) name: StreamName,
    pub(crate) table: Arc<str>,
    pub(crate) source: Arc<dyn StreamSource>,
    pub(crate) deliver: Arc<dyn Deliver>,
    pub(crate) leases: Arc<dyn LeaseStore>,
    pub(crate) owner: OwnerId,
    pub(crate) discovery: Discovery,
    pub(crate) settings: Settings,
}

/// The consumers' part of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) idle_poll: Duration,
    pub(crate) max_reads_per_second: u32,
    pub(crate) pages_in_flight: usize,
    /// How long a stop waits for what is under way.
    pub(crate) drain_timeout: Duration,
    pub(crate) cadence: Cadence,
}

/// Why a consumer stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The stream shard was delivered to its end, and that is stored.
    Ended,
    /// It was told to stop; what was delivered is stored and the lease is free.
    Stopped,
    /// Somebody else has the lease. Nothing was stored since.
    LeaseLost,
    /// The pipeline is gone: nothing can be delivered any more.
    Abandoned,
}

/// A page that is being delivered.
type UnderWay = BoxFuture<'static, (Begun, Result<(), Abandoned>)>;

/// Reads one stream shard under a held lease.
///
/// A worker has thousands of them, more than a processor's cache holds, and each touches what it has with every page. So the
/// reading is a task of its own, and what waits for causes to end it another one, which no page wakes.
pub(crate) struct Consumer {
    shared: Arc<Shared>,
    shard: ShardId,
    from: Checkpoint,
    keeper: LeaseKeeper,
    health: ShardHealth,
    origin: Origin,
    watermark: Watermark<Checkpoint>,
    under_way: FuturesUnordered<UnderWay>,
    child_patience: Duration,
}

impl Consumer {
    /// Prepares to go on where the lease's checkpoint stands.
    pub(crate) fn new(shared: Arc<Shared>, held: HeldLease, health: ShardHealth) -> Self {
        let (shard, from) = (held.key().shard.clone(), held.taken_at());
        if from != Checkpoint::TrimHorizon {
            shared.deliver.took_over();
        }
        let cadence = shared.settings.cadence;
        let keeper = LeaseKeeper::start(Arc::clone(&shared.leases), held, cadence, Arc::clone(&shared.table));
        let (watermark, under_way) = (Watermark::new(), FuturesUnordered::new());
        let (origin, child_patience) = (Origin::First, CHILD_PATIENCE);
        Self { shared, shard, from, keeper, health, origin, watermark, under_way, child_patience }
    }

    /// Tells what is known of the records before the stream shard's first one; nothing is, unless told.
    pub(crate) fn coming_from(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// Reads until the end of the stream shard, the loss of the lease, or until `stop` resolves.
    ///
    /// After `stop` it waits for what is under way until the drain's time-out, then stores what was delivered.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>) -> Exit {
        let (shared, shard, from) = (Arc::clone(&self.shared), self.shard.clone(), self.from);
        tracing::info!(table = %shared.table, stream_shard = %shard, from = %from, "stream shard opened");
        let (lost, tenure, origin) = (self.keeper.lost(), self.keeper.tenure(), self.origin);
        let mut halt = std::pin::pin!(async {
            tokio::select! {
                biased;
                () = stop => Exit::Stopped,
                () = lost => Exit::LeaseLost,
            }
        });
        let consumer = Arc::new(Mutex::new(self));
        let read = if from == Checkpoint::ShardEnd {
            None
        } else {
            let mut lent = Arc::clone(&consumer).lock_owned().await;
            let mut reader = Reader::new(shared, shard, from, origin, lent.health.line(), tenure);
            lent.health.delivering(0, Some(from));
            let reading = tokio::spawn(async move { lent.read(&mut reader).await });
            // Given up in the middle it gives the consumer back.
            let mut reading = AbortOnDropHandle::new(reading);
            tokio::select! {
                biased;
                exit = &mut halt => Some(exit),
                read = &mut reading => match read.map_err(JoinError::try_into_panic) {
                    Ok(read) => read,
                    Err(Ok(panic)) => resume_unwind(panic),
                    // The runtime ends.
                    Err(Err(_)) => Some(Exit::Stopped),
                },
            }
        };
        let mut consumer = consumer.lock().await;
        // Boxed, so that what waits while all goes well stays small.
        match read {
            None => Box::pin(consumer.finish(halt)).await,
            Some(Exit::Stopped) => Box::pin(consumer.stop()).await,
            Some(exit) => exit,
        }
    }

    /// Reads to the end of the stream shard; anything else that ends the reading is returned.
    ///
    /// Given up in the middle it leaves pages under way, which are settled later.
    async fn read(&mut self, reader: &mut Reader) -> Option<Exit> {
        let mut waits = false;
        loop {
            let most = self.shared.settings.pages_in_flight.max(1);
            let room = self.under_way.len() < most
                // A ring shard that is down holds its own pages up, as a store for parked records does, and must not
                // hold up the others': the pipeline bounds what waits for them.
                || (self.under_way.len() < most.saturating_mul(HELD_UP_PAGES) && self.shared.deliver.held_up());
            // What stands still would do so after a restart, too.
            let still = !room && self.shared.deliver.stands_still();
            if std::mem::replace(&mut waits, still) != still {
                self.health.waits(still);
            }
            if !room {
                tokio::select! {
                    biased;
                    Some((begun, delivered)) = self.under_way.next() => {
                        if self.settle(begun, delivered).is_err() {
                            return Some(Exit::Abandoned);
                        }
                    }
                    () = tokio::time::sleep(HOLD_UP_CHECK) => {}
                }
                continue;
            }
            let step = {
                let mut step = std::pin::pin!(reader.step());
                loop {
                    tokio::select! {
                        biased;
                        Some((begun, delivered)) = self.under_way.next(), if !self.under_way.is_empty() => {
                            if self.settle(begun, delivered).is_err() {
                                return Some(Exit::Abandoned);
                            }
                        }
                        step = &mut step => break step,
                    }
                }
            };
            match step {
                Step::Page { reached, delivery, last } => {
                    self.begin(reached, delivery);
                    if last {
                        return None;
                    }
                }
                Step::Gap(error, after) => {
                    self.health.gap(&error);
                    self.health.waits(true);
                    let flushed = flush_after_gap(&self.shared, &self.shard, &error).await;
                    self.health.waits(false);
                    if flushed.is_err() {
                        return Some(Exit::Abandoned);
                    }
                    match after {
                        AfterGap::Horizon => {}
                        AfterGap::End => {
                            self.child_patience = CHILD_PATIENCE_WHEN_GONE;
                            return None;
                        }
                    }
                }
            }
        }
    }

    /// Takes note of a page: of what delivers it, or that there is nothing to deliver up to where it leads.
    fn begin(&mut self, reached: Checkpoint, delivery: Option<Delivery>) {
        let begun = self.watermark.begin(reached);
        match delivery {
            Some(delivery) => {
                self.under_way.push(Box::pin(async move { (begun, delivery.await) }));
                self.health.delivering(self.under_way.len(), self.watermark.reached().copied());
            }
            None => self.done(begun),
        }
    }

    fn settle(&mut self, begun: Begun, delivered: Result<(), Abandoned>) -> Result<(), Abandoned> {
        delivered?;
        self.done(begun);
        Ok(())
    }

    fn done(&mut self, begun: Begun) {
        self.watermark.done(begun);
        if let Some(reached) = self.watermark.reached() {
            self.keeper.advance(*reached);
        }
        self.health.delivering(self.under_way.len(), self.watermark.reached().copied());
    }

    /// Waits until every page is delivered.
    async fn drain(&mut self) -> Result<(), Abandoned> {
        while let Some((begun, delivered)) = self.under_way.next().await {
            self.settle(begun, delivered)?;
        }
        Ok(())
    }

    /// After the last page: waits for its delivery, claims the children, stores the end.
    async fn finish(&mut self, halt: impl Future<Output = Exit>) -> Exit {
        self.health.read_out();
        let claimed = {
            let (shared, shard) = (Arc::clone(&self.shared), self.shard.clone());
            let claiming = async {
                // Looked for while the last pages are delivered, so that the children begin right after.
                let looking = shared.discovery.children_of(&shard, self.child_patience);
                let delivering = async {
                    self.drain().await?;
                    self.health.ended();
                    Ok::<_, Abandoned>(())
                };
                let (children, delivered) = tokio::join!(looking, delivering);
                delivered?;
                claim(&shared, &shard, &children).await;
                Ok::<_, Abandoned>(children)
            };
            tokio::select! {
                biased;
                claimed = claiming => Ok(claimed),
                exit = halt => Err(exit),
            }
        };
        let children = match claimed {
            Ok(Ok(children)) => children,
            Ok(Err(Abandoned)) => return Exit::Abandoned,
            // What was delivered is stored; the successor finds the end again.
            Err(Exit::Stopped) => return self.stop().await,
            Err(exit) => return exit,
        };
        let found = children.len();
        if self.keeper.end(children).await.is_err() {
            return Exit::LeaseLost;
        }
        let table = &self.shared.table;
        tracing::info!(%table, stream_shard = %self.shard, children = found, "stream shard read to its end");
        counter!(names::STREAM_SHARDS_ENDED, names::TABLE => table.to_string()).increment(1);
        Exit::Ended
    }

    async fn stop(&mut self) -> Exit {
        let lost = self.keeper.lost();
        let timeout = self.shared.settings.drain_timeout;
        tokio::select! {
            biased;
            () = lost => return Exit::LeaseLost,
            drained = tokio::time::timeout(timeout, self.drain()) => {
                if !matches!(drained, Ok(Ok(()))) {
                    // What was delivered before is stored all the same.
                    let pages = self.under_way.len();
                    tracing::warn!(stream_shard = %self.shard, pages, "not everything was delivered, the successor reads it again");
                }
            }
        }
        match self.keeper.release().await {
            Ok(()) => Exit::Stopped,
            Err(_) => Exit::LeaseLost,
        }
    }
}

/// Reports lost records so that nobody can miss it, and flushes what they may have made stale.
///
/// The checkpoint stays before the gap until the flush is acknowledged, so that a crash repeats it.
async fn flush_after_gap(shared: &Shared, shard: &ShardId, error: &StreamError) -> Result<(), Abandoned> {
    let table = shared.table.to_string();
    tracing::error!(
        table, stream_shard = %shard, stream = shared.stream.arn, reason = error.reason(), %error,
        "gap in the stream: records are lost, every cached key of this table is being flushed"
    );
    counter!(names::GAPS, names::TABLE => table.clone(), names::REASON => error.reason()).increment(1);
    shared.deliver.flush_table(&table).await.await?;
    tracing::warn!(table, stream_shard = %shard, "flushed after a gap in the stream");
    Ok(())
}

/// Creates the leases of a stream shard's children, claimed for this worker.
async fn claim(shared: &Shared, shard: &ShardId, children: &BTreeSet<ShardId>) {
    let mut unclaimed: VecDeque<&ShardId> = children.iter().collect();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    while let Some(child) = unclaimed.front() {
        let lease = Lease {
            owner: Some(shared.owner.clone()),
            parents: BTreeSet::from([shard.clone()]),
            ..Lease::new(shared.name.lease(child))
        };
        match shared.leases.create(&lease).await {
            Ok(_) => {
                unclaimed.pop_front();
            }
            Err(error @ (LeaseError::Unavailable(_) | LeaseError::Unfit(_) | LeaseError::Lost(_))) => {
                tracing::warn!(lease = %lease.key, %error, "stream lease of a child not created, trying again");
                tokio::time::sleep(backoff.next_pause()).await;
            }
        }
    }
}

#[cfg(test)]
#[path = "consumer_tests.rs"]
mod tests;
