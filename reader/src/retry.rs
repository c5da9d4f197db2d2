//! Sending again: fills and invalidations of this process that a ring shard did not answer.
//!
//! A fill is worth storing as long as its lease lives, and safe to repeat or to be late, since it needs the lease's
//! live token. An invalidation is owed until the ring shard has answered it. Both wait in one bounded queue; each ring
//! shard with work has one task, so that none waits for another. One that has moved is two of them for as long as its
//! former address is told: what one of the two has answered says nothing of the other. The masters of a cluster are told
//! side by side.

mod late;
mod queue;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use metrics::{Counter, Gauge, counter, gauge};
use ringtide_core::backoff::Backoff;
use ringtide_core::command::Command;
use ringtide_core::key::CacheKey;
use ringtide_core::metrics as names;
use ringtide_core::valkey::{FillReply, Release, ShardError};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use queue::PendingFill;
use queue::{Batch, Dropped, Lot, Queue, Sent, Server, Servers};

use crate::counters::FillOutcome;
use crate::shard::{Place, ReadShard};

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How long the end of what is under way takes at most, when the cache is closed, and then the last try.
pub(crate) const CLOSING: Duration = Duration::from_secs(1);

/// What this process still has to send again.
pub(crate) struct Retries {
    queue: Mutex<Queue<Arc<ReadShard>>>,
    /// Invalidations that are not answered: in the queue, or on their way and late.
    owed: AtomicUsize,
    tasks: TaskTracker,
    ended: CancellationToken,
    counters: Counters,
}

struct Counters {
    fills: Gauge,
    invalidations: Gauge,
    sent_fills: Counter,
    sent_invalidations: Counter,
    expired_fills: Counter,
    dropped_fills: Counter,
    dropped_invalidations: Counter,
}

impl Retries {
    /// Begins with nothing; holds at most `limit` fills and invalidations over all ring shards.
    pub(crate) fn new(limit: usize, tasks: TaskTracker, ended: CancellationToken) -> Arc<Self> {
        let queue = Mutex::new(Queue::new(limit));
        Arc::new(Self { queue, owed: AtomicUsize::new(0), tasks, ended, counters: Counters::new() })
    }

    /// Takes an invalidation that `shard` did not answer, and sends it again until it is answered.
    ///
    /// Returns at once. Invalidations of one key are merged; they do not expire. Where the queue overflows, fills are
    /// dropped first, then the oldest invalidation, which is counted and logged as an error. What waits when the cache
    /// is closed is tried once more.
    pub(crate) fn invalidation(self: &Arc<Self>, shard: &Arc<ReadShard>, command: Command) {
        self.add(shard, |queue| queue.add_invalidation(&shard.place, Arc::clone(shard), command.without_image()));
    }

    /// Takes a fill that `shard` did not answer, and sends it again until it is answered or its lease's time is over.
    pub(crate) fn fill(self: &Arc<Self>, shard: &Arc<ReadShard>, fill: PendingFill) {
        self.add(shard, |queue| queue.add_fill(&shard.place, Arc::clone(shard), fill));
    }

    fn add(self: &Arc<Self>, shard: &ReadShard, add: impl FnOnce(&mut Queue<Arc<ReadShard>>) -> Dropped) {
        let (idle, dropped) = {
            let mut queue = self.queue();
            let dropped = add(&mut queue);
            self.show(&queue);
            (queue.begin(&shard.place), dropped)
        };
        self.dropped(dropped);
        if idle {
            self.spawn(shard.place.clone());
        }
    }

    /// Counts keys as owed whose invalidation is still on its way to a server, by a task of its own.
    pub(crate) fn expect<'k>(&self, place: &Place, keys: impl Iterator<Item = &'k CacheKey>) {
        let mut queue = self.queue();
        queue.late.add(place, keys);
        self.show(&queue);
    }

    /// Notes the end of what was expected: it is answered, or waits in the queue by now.
    pub(crate) fn heard<'k>(&self, place: &Place, keys: impl Iterator<Item = &'k CacheKey>) {
        let mut queue = self.queue();
        queue.late.remove(place, keys);
        self.show(&queue);
    }

    /// Drops what waits for any other server: those have left the ring for good, and nothing is read from them any more.
    pub(crate) fn keep(&self, known: impl Fn(&Place) -> bool) {
        let mut queue = self.queue();
        queue.keep(known);
        self.show(&queue);
    }

    /// Whether a ring shard has yet to answer an invalidation of a key.
    #[inline]
    pub(crate) fn owes(self: &Arc<Self>, shard: &ReadShard, key: &CacheKey) -> bool {
        self.owed.load(Ordering::Acquire) > 0 && self.finds_owed(&shard.place, key)
    }

    #[cold]
    fn finds_owed(self: &Arc<Self>, place: &Place, key: &CacheKey) -> bool {
        let mut queue = self.queue();
        let owes = queue.owes(place, key);
        // Whoever was at it may have ended with its runtime.
        let idle = owes && queue.begin(place);
        drop(queue);
        if idle {
            self.spawn(place.clone());
        }
        owes
    }

    /// Tries once more what waits, for at most a second; what is left then is logged and lost.
    pub(crate) async fn finish(self: &Arc<Self>) {
        let places = self.queue().places();
        let last_try = join_all(places.iter().map(async |place| {
            self.round(place).await;
            if self.queue().end(place) {
                return;
            }
            let Some(shard) = self.queue().shard(place) else { return };
            if shard.shard.ready(CLOSING).await.is_ok() {
                self.round(place).await;
            }
        }));
        // What was not answered in time is told when the queue is dropped.
        let _in_time = tokio::time::timeout(CLOSING, last_try).await;
    }

    fn spawn(self: &Arc<Self>, place: Place) {
        let sender = Sender { retries: Arc::clone(self), place, done: false };
        // Without a runtime there is nobody to send it before the cache is closed, or somebody asks who has one.
        let Ok(runtime) = Handle::try_current() else { return };
        let ended = self.ended.clone();
        let work = async move { ended.run_until_cancelled(sender.work()).await };
        self.tasks.spawn_on(work, &runtime);
    }

    /// Sends what waits for one ring shard, until nothing does except for servers that fail; whether anything was
    /// answered.
    async fn round(&self, place: &Place) -> bool {
        let (mut any, mut failed) = (false, BTreeSet::new());
        while let Some((shard, batch)) = self.take(place, &failed) {
            any |= self.send(place, &shard, batch, &mut failed).await;
        }
        any
    }

    fn take(&self, place: &Place, failed: &BTreeSet<Server>) -> Option<(Arc<ReadShard>, Batch)> {
        let mut queue = self.queue();
        let shard = queue.shard(place)?;
        let servers = Servers { of: &|key| shard.server_of(key), several: shard.shard.is_cluster() };
        let (taken, expired) = queue.take(place, Instant::now(), &servers, failed);
        self.counters.expired_fills.increment(expired);
        self.show(&queue);
        taken
    }

    /// Sends a batch, and notes who fails; what was not answered stays in the queue. Whether anything was answered.
    async fn send(&self, place: &Place, shard: &ReadShard, batch: Batch, failed: &mut BTreeSet<Server>) -> bool {
        let mut any = false;
        let lots = batch.invalidations.into_iter();
        let told = lots.map(async |(server, lot)| (self.tell(place, shard, &server, &lot).await, server));
        for (answered, server) in join_all(told).await {
            any |= answered;
            if !answered {
                failed.insert(server);
            }
        }
        // A fill would fare no better.
        let (late, fills): (Vec<_>, Vec<_>) =
            batch.fills.into_iter().partition(|fill| failed.contains(&shard.server_of(&fill.key)));
        late.into_iter().for_each(|fill| self.queue().put_back(place, fill));
        let fills =
            fills.into_iter().map(async |fill| (shard.insist([&fill.key], send_fill(shard, &fill)).await, fill));
        for (answer, fill) in join_all(fills).await {
            match answer {
                Ok(outcome) => {
                    any = true;
                    fill.space.counters.fills.add(outcome);
                    self.counters.sent_fills.increment(1);
                    tracing::debug!(key = %fill.key, ?outcome, "fill sent again");
                }
                Err(error @ ShardError::Rejected { .. }) => {
                    tracing::debug!(key = %fill.key, %error, "fill sent again and rejected");
                }
                Err(_) => {
                    failed.insert(shard.server_of(&fill.key));
                    self.queue().put_back(place, fill);
                }
            }
        }
        self.show(&self.queue());
        any
    }

    /// Sends one server its invalidations; whether it has answered.
    async fn tell(&self, place: &Place, shard: &ReadShard, server: &Server, lot: &Lot) -> bool {
        // Not by way of the breaker: this task's own pauses are as long, and its success closes it.
        let commands = lot.commands();
        let keys = commands.iter().map(|command| &command.key);
        let answer = shard.insist(keys, shard.shard.apply(&commands, 0)).await;
        let sent = match &answer {
            Ok(_) => Sent::Answered,
            Err(ShardError::Rejected { .. }) => Sent::Rejected,
            Err(ShardError::Unavailable { .. } | ShardError::TimedOut { .. }) => Sent::Unanswered,
        };
        let mut queue = self.queue();
        let answered = queue.sent(place, server, lot, sent);
        self.show(&queue);
        drop(queue);
        self.counters.sent_invalidations.increment(answered);
        if let Err(error) = &answer {
            tracing::debug!(ring_shard = %place.name, server = server.as_deref(), %error, "invalidations are not answered yet");
        }
        answer.is_ok()
    }

    fn dropped(&self, dropped: Dropped) {
        self.counters.dropped_fills.increment(dropped.fills);
        for (place, command) in dropped.invalidations {
            self.counters.dropped_invalidations.increment(1);
            tracing::error!(
                ring_shard = %place.name, key = %command.key,
                "an invalidation is lost: more wait than `reader.retry_queue` allows; the entry stays until it expires or \
                 its change record arrives"
            );
        }
    }

    fn show(&self, queue: &Queue<Arc<ReadShard>>) {
        self.counters.fills.set(queue.fills() as f64);
        self.counters.invalidations.set(queue.invalidations() as f64);
        self.owed.store(queue.invalidations() + queue.late.len(), Ordering::Release);
    }

    fn queue(&self) -> MutexGuard<'_, Queue<Arc<ReadShard>>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever sends what waits for one ring shard.
struct Sender {
    retries: Arc<Retries>,
    place: Place,
    done: bool,
}

impl Sender {
    /// Sends until nothing waits.
    async fn work(mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        while !self.done {
            // What failed has just failed: the first pause is before the first try.
            let shard = self.retries.queue().shard(&self.place);
            if let Some(shard) = shard {
                rest(&shard, backoff.next_from_half(fastrand::f64())).await;
            }
            if self.retries.round(&self.place).await {
                backoff.reset();
            }
            self.done = self.retries.queue().end(&self.place);
        }
    }
}

impl Drop for Sender {
    /// Lets somebody else begin where this one was stopped.
    fn drop(&mut self) {
        if !self.done {
            self.retries.queue().stop(&self.place);
        }
    }
}

impl Drop for Retries {
    fn drop(&mut self) {
        let lost = self.queue().invalidations();
        if lost > 0 {
            self.counters.dropped_invalidations.increment(lost as u64);
            tracing::error!(
                invalidations = lost,
                "the cache ended before its ring shards had answered; the entries stay until they expire or their \
                 change records arrive"
            );
        }
    }
}

impl Counters {
    fn new() -> Self {
        let (fill, invalidation) = ("fill", "invalidation");
        let dropped =
            |kind, reason| counter!(names::READER_RETRIES_DROPPED, names::KIND => kind, names::REASON => reason);
        Self {
            fills: gauge!(names::READER_RETRIES_PENDING, names::KIND => fill),
            invalidations: gauge!(names::READER_RETRIES_PENDING, names::KIND => invalidation),
            sent_fills: counter!(names::READER_RETRIES_SENT, names::KIND => fill),
            sent_invalidations: counter!(names::READER_RETRIES_SENT, names::KIND => invalidation),
            expired_fills: dropped(fill, "expired"),
            dropped_fills: dropped(fill, "overflow"),
            dropped_invalidations: dropped(invalidation, "overflow"),
        }
    }
}

/// Sends a fill once more; below the floor its lease is given back, since what was loaded is too old.
async fn send_fill(shard: &ReadShard, pending: &PendingFill) -> Result<FillOutcome, ShardError> {
    Ok(match shard.shard.fill(&pending.key, &pending.fill).await? {
        FillReply::Stored => FillOutcome::Stored,
        FillReply::Void => FillOutcome::Void,
        FillReply::Older => FillOutcome::Older,
        FillReply::Below { .. } => {
            if let Err(error) = shard.shard.release(&pending.key, &pending.fill.token, Release::Retry).await {
                tracing::debug!(key = %pending.key, %error, "lease not given back, it expires");
            }
            FillOutcome::Below
        }
    })
}

/// Pauses, for less where the ring shard was not connected and is again.
async fn rest(shard: &ReadShard, pause: Duration) {
    // A connection that breaks as soon as it is made must not be hurried on.
    let at_least = FIRST_PAUSE / 2;
    tokio::time::sleep(at_least.min(pause)).await;
    let connected = async {
        if shard.shard.ready(pause).await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let was_connected = shard.shard.ready(Duration::ZERO).await.is_ok();
    let rest = pause.saturating_sub(at_least);
    if was_connected {
        tokio::time::sleep(rest).await;
    } else {
        let _connected_again = tokio::time::timeout(rest, connected).await;
    }
}
