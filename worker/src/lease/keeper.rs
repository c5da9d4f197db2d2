//! The one task that writes a held lease: it renews, and stores checkpoints as the consumer advances.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::counter;
use ringtide_core::backoff::Backoff;
use ringtide_core::clock::unix_ms;
use ringtide_core::metrics as names;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::AbortOnDropHandle;

use super::{Checkpoint, HeldLease, LeaseError, LeaseStore, Trace};
use crate::stream::ShardId;

/// How often a lease is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cadence {
    /// Between two checkpoints, while there is progress.
    pub(crate) checkpoint: Duration,
    /// Not renewed for this long, others take the lease.
    pub(crate) timeout: Duration,
}

/// Keeps one lease on behalf of its consumer. Dropping it ends the keeping without another write.
#[derive(Debug)]
pub(crate) struct LeaseKeeper {
    common: Arc<Common>,
    /// The last thing that it is told.
    order: Option<oneshot::Sender<Order>>,
    lost: CancellationToken,
    _task: AbortOnDropHandle<()>,
}

/// What a keeper and its consumer tell each other while all goes well.
#[derive(Debug)]
struct Common {
    /// How far everything is delivered.
    reached: Mutex<Checkpoint>,
    /// Tells that it moved on.
    advanced: Notify,
    /// Until when nobody else takes the lease, in unix ms.
    tenure: AtomicU64,
}

impl Common {
    fn reached(&self) -> MutexGuard<'_, Checkpoint> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts from the end of a renewal, and so takes a quarter less: the answer may have been long under way.
    fn renewed(&self, timeout: Duration) {
        let time = u64::try_from((timeout * 3 / 4).as_millis()).unwrap_or(u64::MAX);
        self.tenure.store(unix_ms().saturating_add(time).max(1), Ordering::Release);
    }
}

/// Until when nobody else takes a lease, as it was last renewed.
///
/// It is what refreshes are bounded by: an image that a worker sends after it was stopped and replaced must not be stored
/// over what its successor has delivered.
#[derive(Clone, Debug)]
pub(crate) struct Tenure(Arc<Common>);

impl Tenure {
    /// Tells its end in unix ms.
    pub(crate) fn ends_ms(&self) -> u64 {
        self.0.tenure.load(Ordering::Acquire)
    }
}

/// The lease is not ours any more, or cannot be shown to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost;

#[derive(Debug)]
enum Order {
    /// The stream shard ended: store it with its children, then give the lease up.
    End(BTreeSet<ShardId>, oneshot::Sender<()>),
    /// Store how far it got, then give the lease up.
    Release(oneshot::Sender<()>),
}

/// Tells that the task broke off, where it did.
struct Broken(Arc<Trace>);

impl Drop for Broken {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.broken.store(true, Ordering::Release);
        }
    }
}

struct Keeping {
    store: Arc<dyn LeaseStore>,
    held: HeldLease,
    stored: Checkpoint,
    renewed: Instant,
    common: Arc<Common>,
    cadence: Cadence,
    table: Arc<str>,
}

impl LeaseKeeper {
    /// Begins to keep a lease.
    pub(crate) fn start(store: Arc<dyn LeaseStore>, held: HeldLease, cadence: Cadence, table: Arc<str>) -> Self {
        let stored = held.taken_at();
        let common =
            Arc::new(Common { reached: Mutex::new(stored), advanced: Notify::new(), tenure: AtomicU64::new(0) });
        common.renewed(cadence.timeout);
        let (order, taken) = oneshot::channel();
        let lost = CancellationToken::new();
        let renewed = Instant::now();
        let mut keeping = Keeping { store, held, stored, renewed, common: Arc::clone(&common), cadence, table };
        let to_tell = lost.clone();
        let task = tokio::spawn(async move {
            // However the task ends, the consumer stops.
            let _lost = to_tell.drop_guard();
            let _broken = Broken(keeping.held.trace());
            if let Some(order) = keeping.keep(taken).await {
                // Boxed, as it is done once: what every write touches stays small.
                Box::pin(keeping.carry_out(order)).await;
            }
        });
        Self { common, order: Some(order), lost, _task: AbortOnDropHandle::new(task) }
    }

    /// Tells how far everything is delivered; it is stored at the next checkpoint.
    pub(crate) fn advance(&self, to: Checkpoint) {
        *self.common.reached() = to;
        self.common.advanced.notify_one();
    }

    /// Resolves once the lease is lost.
    pub(crate) fn lost(&self) -> WaitForCancellationFutureOwned {
        self.lost.clone().cancelled_owned()
    }

    /// Until when nobody else takes the lease; it moves on with every renewal.
    pub(crate) fn tenure(&self) -> Tenure {
        Tenure(Arc::clone(&self.common))
    }

    /// Stores that the stream shard ended, and gives the lease up.
    pub(crate) async fn end(&mut self, children: BTreeSet<ShardId>) -> Result<(), Lost> {
        let (done, stored) = oneshot::channel();
        self.order(Order::End(children, done), stored).await
    }

    /// Stores how far it got, and gives the lease up.
    pub(crate) async fn release(&mut self) -> Result<(), Lost> {
        let (done, stored) = oneshot::channel();
        self.order(Order::Release(done), stored).await
    }

    async fn order(&mut self, order: Order, stored: oneshot::Receiver<()>) -> Result<(), Lost> {
        self.order.take().ok_or(Lost)?.send(order).map_err(|_| Lost)?;
        stored.await.map_err(|_| Lost)
    }
}

impl Keeping {
    /// Renews and stores checkpoints until there is an order; `None` where there is nothing to keep any more.
    ///
    /// It sleeps for as long as there is nothing to write: of thousands of leases most are idle.
    async fn keep(&mut self, mut order: oneshot::Receiver<Order>) -> Option<Order> {
        let renewal = self.cadence.timeout / 3;
        let pause = self.cadence.checkpoint.min(renewal).max(Duration::from_millis(1));
        let mut write = std::pin::pin!(tokio::time::sleep_until(self.renewed + renewal));
        let mut advanced = false;
        loop {
            tokio::select! {
                biased;
                order = &mut order => return order.ok(),
                // What is delivered from now on is stored with this step.
                () = self.common.advanced.notified(), if !advanced => {
                    advanced = true;
                    let soon = Instant::now() + pause;
                    if soon < write.deadline() {
                        write.as_mut().reset(soon);
                    }
                }
                () = &mut write => {
                    let reached = *self.common.reached();
                    advanced = false;
                    let mut next = self.renewed + renewal;
                    if reached != self.stored || Instant::now() >= next {
                        let written = if reached == self.stored {
                            self.store.renew(&mut self.held).await
                        } else {
                            self.checkpoint(reached, &BTreeSet::new()).await
                        };
                        next = match &written {
                            Ok(()) => Instant::now() + renewal,
                            Err(_) => Instant::now() + pause,
                        };
                        if self.judge(written).is_err() {
                            return None;
                        }
                    }
                    write.as_mut().reset(next);
                }
            }
        }
    }

    async fn checkpoint(&mut self, to: Checkpoint, children: &BTreeSet<ShardId>) -> Result<(), LeaseError> {
        let written = self.store.checkpoint(&mut self.held, &to, children).await;
        let outcome = match &written {
            Ok(()) => "written",
            Err(LeaseError::Lost(_)) => "lost",
            Err(LeaseError::Unavailable(_) | LeaseError::Unfit(_)) => "failed",
        };
        counter!(names::CHECKPOINTS, names::TABLE => self.table.to_string(), names::OUTCOME => outcome).increment(1);
        if written.is_ok() {
            self.stored = to;
        }
        written
    }

    /// Whether the lease is still ours. Where its store fails it is ours only until others may take it.
    fn judge(&mut self, written: Result<(), LeaseError>) -> Result<(), Lost> {
        let key = self.held.key();
        let outcome = match written {
            Ok(()) => {
                self.renewed = Instant::now();
                // Whoever asked for the lease takes it by force some day: by then no image may be on its way any more.
                if !self.held.trace.asked.is_cancelled() {
                    self.common.renewed(self.cadence.timeout);
                }
                return Ok(());
            }
            Err(LeaseError::Lost(_)) => "lost",
            Err(error) if self.renewed.elapsed() < self.cadence.timeout => {
                tracing::warn!(lease = %key, %error, "stream lease not renewed, trying again");
                return Ok(());
            }
            Err(_) => "expired",
        };
        tracing::warn!(lease = %key, outcome, "stream lease lost, its stream shard is no longer read here");
        counter!(names::LEASE_CHANGES, names::OUTCOME => outcome).increment(1);
        Err(Lost)
    }

    async fn carry_out(self, order: Order) {
        let (given_up, done) = match order {
            Order::End(children, done) => (self.give_up(Checkpoint::ShardEnd, &children).await, done),
            Order::Release(done) => {
                let reached = *self.common.reached();
                (self.give_up(reached, &BTreeSet::new()).await, done)
            }
        };
        if given_up.is_ok() {
            let _unheard = done.send(());
        }
    }

    /// Stores the last checkpoint and releases, for as long as the lease is ours.
    async fn give_up(mut self, last: Checkpoint, children: &BTreeSet<ShardId>) -> Result<(), Lost> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        while self.stored != last {
            let written = self.checkpoint(last, children).await;
            let failed = written.is_err();
            self.judge(written)?;
            if failed {
                tokio::time::sleep(backoff.next_pause()).await;
            }
        }
        let key = self.held.key().clone();
        match self.store.release(self.held).await {
            Ok(()) => counter!(names::LEASE_CHANGES, names::OUTCOME => "released").increment(1),
            // What counts is stored; a lease that is not released expires.
            Err(error) => tracing::warn!(lease = %key, %error, "stream lease not released"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{Lease, LeaseKey, MemoryLeases, OwnerId};

    const CADENCE: Cadence = Cadence { checkpoint: Duration::from_secs(1), timeout: Duration::from_secs(9) };

    fn at(digits: &str) -> Checkpoint {
        Checkpoint::At(digits.parse().unwrap())
    }

    async fn held() -> (Arc<MemoryLeases>, LeaseKeeper) {
        let store = Arc::new(MemoryLeases::new());
        let lease = Lease::new(LeaseKey::parse("1:r$1$t$l:1:s").unwrap());
        store.create(&lease).await.unwrap();
        let held = store.take(&lease, &OwnerId::named("me")).await.unwrap();
        let keeper = LeaseKeeper::start(store.clone(), held, CADENCE, Arc::from("t"));
        (store, keeper)
    }

    async fn read(store: &MemoryLeases) -> Lease {
        store.list().await.unwrap().remove(0)
    }

    #[tokio::test(start_paused = true)]
    async fn it_renews_while_idle_and_checkpoints_what_advanced() {
        let (store, mut keeper) = held().await;
        tokio::time::sleep(Duration::from_millis(9500)).await;
        assert_eq!(read(&store).await.counter, 4, "taken, and renewed every three seconds");
        keeper.advance(at("5"));
        keeper.advance(at("7"));
        tokio::time::sleep(CADENCE.checkpoint + Duration::from_millis(1)).await;
        assert_eq!(read(&store).await.checkpoint, at("7"));
        keeper.advance(at("8"));
        keeper.release().await.unwrap();
        let lease = read(&store).await;
        assert_eq!((lease.checkpoint, lease.owner), (at("8"), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_taken_is_not_checkpointed_any_more() {
        let (store, mut keeper) = held().await;
        let theirs = store.take(&read(&store).await, &OwnerId::named("other")).await.unwrap();
        keeper.advance(at("5"));
        tokio::time::timeout(Duration::from_secs(60), keeper.lost()).await.expect("the loss is told");
        assert_eq!(read(&store).await.checkpoint, Checkpoint::TrimHorizon);
        assert_eq!(keeper.release().await, Err(Lost));
        store.release(theirs).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_asked_for_is_kept_but_its_tenure_ends() {
        let (store, mut keeper) = held().await;
        let asked = store.ask(&read(&store).await, &OwnerId::named("other")).await.unwrap();
        assert!(asked);
        // The wall clock stands still in this test: what is renewed shows as a later write of the same time.
        let tenure = keeper.tenure();
        tokio::time::sleep(Duration::from_secs(4)).await;
        tenure.0.tenure.store(1, Ordering::Release);
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(tenure.ends_ms(), 1, "it was asked for, and is renewed without more time");
        let lease = read(&store).await;
        assert_eq!((lease.holder(), lease.counter > 8), (Some(&OwnerId::named("me")), true), "{lease:?}");
        keeper.advance(at("5"));
        keeper.release().await.unwrap();
        let lease = read(&store).await;
        assert_eq!((lease.checkpoint, lease.owner, lease.leaving), (at("5"), Some(OwnerId::named("other")), None));
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_is_stored_with_the_children() {
        let (store, mut keeper) = held().await;
        keeper.end(BTreeSet::from(["x".into()])).await.unwrap();
        let lease = read(&store).await;
        assert_eq!((lease.checkpoint, lease.children), (Checkpoint::ShardEnd, BTreeSet::from(["x".into()])));
    }
}
