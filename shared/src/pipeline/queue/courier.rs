//! The task that delivers what waits for one ring shard.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::Queue;
use super::state::{Flush, Item};
use crate::pipeline::backoff::ShardBackoff;
use crate::pipeline::shard::RingShard;
use crate::ring::ShardName;
use crate::valkey::{Applied, Servers, ShardError};

/// Batches under way at once: more would hold up the shard's readers.
pub(super) const DEPTH: usize = 4;
/// The pause between two batches of names that a flush removes.
const FLUSH_PAUSE: Duration = Duration::from_millis(2);
/// Looks that are remembered at most.
const LOOKS: usize = 128;

/// A batch that was carried out, and what became of it.
type Carried = (Item, Applied);

pub(super) struct Courier<'a> {
    queue: &'a Queue,
    shard: &'a dyn RingShard,
    backoff: ShardBackoff,
    /// The pause after a failure is over.
    rested: bool,
    sight: Sight,
    under_way: FuturesUnordered<BoxFuture<'a, (Item, Result<Applied, ShardError>)>>,
    /// Refreshes go alone, so that they keep their order even where the entry that would tell their versions apart is
    /// evicted in between.
    alone: bool,
    /// Carried out, and not known yet to be on enough replicas.
    carried: Vec<Carried>,
    /// Asks replicas for all that was carried out before.
    barrier: Option<BoxFuture<'a, Result<(), ShardError>>>,
    behind_barrier: Vec<Carried>,
}

/// What is known of the servers behind the ring shard.
#[derive(Default)]
struct Sight {
    /// What they said, each with the moment before they were asked; oldest first.
    seen: VecDeque<(Instant, Servers)>,
    looked: Option<Instant>,
    connects: u64,
    /// Something failed since.
    doubtful: bool,
    /// They did not say who they are.
    blind: bool,
}

enum Event {
    Carried(Box<Item>, Result<Applied, ShardError>),
    Replicated(Result<(), ShardError>),
    Filled,
}

impl<'a> Courier<'a> {
    pub(super) fn new(queue: &'a Queue, shard: &'a dyn RingShard) -> Self {
        Self {
            queue,
            shard,
            backoff: ShardBackoff::default(),
            rested: false,
            sight: Sight::default(),
            under_way: FuturesUnordered::new(),
            alone: false,
            carried: Vec::new(),
            barrier: None,
            behind_barrier: Vec::new(),
        }
    }

    /// Delivers until the queue is retired.
    pub(super) async fn run(mut self) {
        loop {
            if self.is_idle() {
                self.alone = false;
                if self.queue.is_retired() {
                    self.queue.release();
                    return;
                }
                if !std::mem::take(&mut self.rested) {
                    self.backoff.pause(self.shard).await;
                }
                if self.is_look_due() {
                    self.rested = self.look().await;
                    continue;
                }
                if let Some(flush) = self.queue.take_flush() {
                    self.flush(flush).await;
                    continue;
                }
            }
            self.begin();
            if self.is_idle() && (self.is_look_due() || self.queue.is_held()) {
                continue;
            }
            match self.next().await {
                Event::Filled => {}
                Event::Carried(item, Ok(applied)) if self.queue.replicas().is_some() => {
                    self.carried.push((*item, applied));
                }
                Event::Carried(item, Ok(applied)) => self.acknowledged((*item, applied)),
                Event::Carried(item, Err(error)) => self.failed(*item, &error),
                Event::Replicated(result) => self.replicated(result),
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.in_hand() == 0
    }

    fn in_hand(&self) -> usize {
        self.under_way.len() + self.carried.len() + self.behind_barrier.len()
    }

    /// Whether another batch may be taken; a shard that is down is tried with one at a time.
    fn has_room(&self) -> bool {
        let depth = if self.queue.healthy() { DEPTH } else { 1 };
        !self.alone && self.in_hand() < depth
    }

    /// Sends as much as there is room for.
    fn begin(&mut self) {
        while self.has_room() && !self.queue.is_held() && !self.is_look_due() {
            let Some(item) = self.queue.take(self.is_idle()) else { break };
            self.alone = item.is_refresh();
            let (shard, name, connects) = (self.shard, &self.queue.name, self.sight.connects);
            self.under_way.push(Box::pin(async move {
                let result = shard.apply(&item.commands, item.deadline_ms).await;
                // Whoever has answered over a connection that was made meanwhile is not known yet.
                let known = || shard.connects() == connects;
                let result = result.and_then(|applied| if known() { Ok(applied) } else { Err(anew(name)) });
                (item, result)
            }));
        }
        if self.barrier.is_none()
            && !self.carried.is_empty()
            && let Some(replicas) = self.queue.replicas()
        {
            self.behind_barrier = std::mem::take(&mut self.carried);
            let (shard, name, connects) = (self.shard, &self.queue.name, self.sight.connects);
            self.barrier = Some(Box::pin(async move {
                shard.replicated(replicas.count, replicas.within).await?;
                if shard.connects() == connects { Ok(()) } else { Err(anew(name)) }
            }));
        }
    }

    /// Waits for the next thing to happen.
    async fn next(&mut self) -> Event {
        let room = self.has_room();
        let idle = self.is_idle();
        let delayed = self.queue.next_due().filter(|_| room);
        let wake = if idle { [delayed, self.next_look()].into_iter().flatten().min() } else { delayed };
        let (under_way, barrier) = (&mut self.under_way, &mut self.barrier);
        let replicated = async {
            match barrier {
                Some(barrier) => barrier.await,
                None => std::future::pending().await,
            }
        };
        let woken = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some((item, result)) = under_way.next() => Event::Carried(Box::new(item), result),
            result = replicated => Event::Replicated(result),
            () = self.queue.filled.notified(), if room => Event::Filled,
            () = woken => Event::Filled,
        }
    }

    fn acknowledged(&mut self, (item, applied): Carried) {
        self.backoff.reset();
        self.queue.acknowledged(item, &applied);
    }

    fn failed(&mut self, item: Item, error: &ShardError) {
        self.doubt(error);
        self.queue.put_back(item, error);
    }

    fn replicated(&mut self, result: Result<(), ShardError>) {
        self.barrier = None;
        let waited = std::mem::take(&mut self.behind_barrier);
        match result {
            Ok(()) => waited.into_iter().for_each(|carried| self.acknowledged(carried)),
            Err(error) => waited.into_iter().for_each(|(item, _)| self.failed(item, &error)),
        }
    }

    fn doubt(&mut self, error: &ShardError) {
        self.sight.doubtful |= !matches!(error, ShardError::Rejected { .. });
        self.backoff.grow(matches!(error, ShardError::Unavailable { .. }));
    }

    async fn flush(&mut self, flush: Flush) {
        if let Some(removed) = flush.removed {
            // It was looked since, and nothing was found to be lost.
            self.backoff.reset();
            self.queue.flushed(flush, removed);
            return;
        }
        tracing::warn!(
            ring_shard = %self.queue.name, reason = flush.reason, prefixes = ?flush.prefixes,
            "flushing key spaces of a ring shard"
        );
        match flush_all(self.queue, self.shard, &flush).await {
            // Not repeated for that alone: where connections break again and again it would have no end.
            Ok(removed) if self.shard.connects() != self.sight.connects => {
                self.queue.flushed_by_somebody(flush, removed);
            }
            Ok(removed) => {
                self.backoff.reset();
                self.queue.flushed(flush, removed);
            }
            Err(error) => {
                self.doubt(&error);
                self.queue.not_flushed(flush, &error);
            }
        }
    }

    /// Whether the servers have to be asked who they are before anything else is sent.
    fn is_look_due(&self) -> bool {
        let sight = &self.sight;
        let Some(looked) = sight.looked else { return true };
        sight.doubtful
            || sight.connects != self.shard.connects()
            || looked.elapsed() >= self.queue.limits.redelivery.check
    }

    fn next_look(&self) -> Option<Instant> {
        Some(self.sight.looked? + self.queue.limits.redelivery.check)
    }

    /// Asks the servers who they are, and has delivered again what others in their place may have lost; `false` where they
    /// do not answer.
    async fn look(&mut self) -> bool {
        let (asked, connects) = (Instant::now(), self.shard.connects());
        let answer = self.shard.servers().await;
        let blind = match answer {
            Ok(Some(servers)) => {
                let loss = servers.loss(self.sight.seen.iter());
                self.sight.seen.push_back((asked, servers));
                while self.sight.seen.len() > LOOKS {
                    self.sight.seen.pop_front();
                }
                self.queue.recover(loss, Instant::now());
                None
            }
            Ok(None) => Some("it does not say which primary it is".to_owned()),
            Err(error) if !error.is_retryable() => Some(error.to_string()),
            Err(error) => {
                self.backoff.grow(matches!(error, ShardError::Unavailable { .. }));
                if self.queue.has_waiting() {
                    self.queue.failed(&error);
                }
                return false;
            }
        };
        if let Some(reason) = &blind
            && !self.sight.blind
        {
            tracing::warn!(ring_shard = %self.queue.name, reason, "fail-overs of a ring shard cannot be seen");
        }
        let blind = blind.is_some();
        self.queue.gauges.blind(blind);
        self.sight =
            Sight { seen: std::mem::take(&mut self.sight.seen), looked: Some(asked), connects, doubtful: false, blind };
        // An error that no retry mends is an answer as well: this client may not ask, which keeps no command from being taken.
        self.queue.answered();
        if self.queue.healthy() {
            self.backoff.reset();
        }
        true
    }
}

/// Why a batch counts as not carried out that another server than the known one may have answered.
fn anew(name: &ShardName) -> ShardError {
    ShardError::Unavailable { shard: name.clone(), reason: "a connection was made anew meanwhile".into() }
}

async fn flush_all(queue: &Queue, shard: &dyn RingShard, flush: &Flush) -> Result<u64, ShardError> {
    let mut removed = 0;
    for prefix in &flush.prefixes {
        removed += shard.flush(prefix, FLUSH_PAUSE).await?;
    }
    if let Some(replicas) = queue.replicas() {
        shard.replicated(replicas.count, replicas.within).await?;
    }
    Ok(removed)
}
