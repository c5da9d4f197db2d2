//! The one task that writes a held lease: it renews, and stores checkpoints as the consumer advances.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use metrics::counter;
use ringtide_core::backoff::Backoff;
use ringtide_core::clock::unix_ms;
use ringtide_core::metrics as names;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

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
    reached: watch::Sender<Checkpoint>,
    /// The last thing that it is told.
    order: Option<oneshot::Sender<Order>>,
    lost: CancellationToken,
    tenure: Tenure,
    task: JoinHandle<()>,
}

/// Until when nobody else takes a lease, as it was last renewed.
///
/// It is what refreshes are bounded by: an image that a worker sends after it was stopped and replaced must not be stored
/// over what its successor has delivered.
#[derive(Clone, Debug)]
pub(crate) struct Tenure(Arc<AtomicU64>);

impl Tenure {
    fn new(timeout: Duration) -> Self {
        let tenure = Self(Arc::default());
        tenure.renewed(timeout);
        tenure
    }

    /// Counts from the end of a renewal, and so takes a quarter less: the answer may have been long under way.
    fn renewed(&self, timeout: Duration) {
        let time = u64::try_from((timeout * 3 / 4).as_millis()).unwrap_or(u64::MAX);
        self.0.store(unix_ms().saturating_add(time).max(1), Ordering::Release);
    }

    /// Tells its end in unix ms.
    pub(crate) fn ends_ms(&self) -> u64 {
        self.0.load(Ordering::Acquire)
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
    tenure: Tenure,
    cadence: Cadence,
    table: Arc<str>,
}

impl LeaseKeeper {
    /// Begins to keep a lease.
    pub(crate) fn start(store: Arc<dyn LeaseStore>, held: HeldLease, cadence: Cadence, table: Arc<str>) -> Self {
        let (reached, watched) = watch::channel(held.taken_at());
        let (order, taken) = oneshot::channel();
        let lost = CancellationToken::new();
        let stored = held.taken_at();
        let tenure = Tenure::new(cadence.timeout);
        let keeping = Keeping { store, held, stored, renewed: Instant::now(), tenure: tenure.clone(), cadence, table };
        let task = tokio::spawn(keeping.run(watched, taken, lost.clone()));
        Self { reached, order: Some(order), lost, tenure, task }
    }

    /// Tells how far everything is delivered; it is stored at the next checkpoint.
    pub(crate) fn advance(&self, to: Checkpoint) {
        self.reached.send_replace(to);
    }

    /// Resolves once the lease is lost.
    pub(crate) fn lost(&self) -> tokio_util::sync::WaitForCancellationFutureOwned {
        self.lost.clone().cancelled_owned()
    }

    /// Until when nobody else takes the lease; it moves on with every renewal.
    pub(crate) fn tenure(&self) -> Tenure {
        self.tenure.clone()
    }

    /// Stores that the stream shard ended, and gives the lease up.
    pub(crate) async fn end(self, children: BTreeSet<ShardId>) -> Result<(), Lost> {
        let (done, stored) = oneshot::channel();
        self.order(Order::End(children, done), stored).await
    }

    /// Stores how far it got, and gives the lease up.
    pub(crate) async fn release(self) -> Result<(), Lost> {
        let (done, stored) = oneshot::channel();
        self.order(Order::Release(done), stored).await
    }

    async fn order(mut self, order: Order, stored: oneshot::Receiver<()>) -> Result<(), Lost> {
        self.order.take().ok_or(Lost)?.send(order).map_err(|_| Lost)?;
        stored.await.map_err(|_| Lost)
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Keeping {
    async fn run(
        mut self,
        reached: watch::Receiver<Checkpoint>,
        mut order: oneshot::Receiver<Order>,
        lost: CancellationToken,
    ) {
        // However the task ends, the consumer stops.
        let _lost = lost.drop_guard();
        let _broken = Broken(self.held.trace());
        let renewal = self.cadence.timeout / 3;
        let mut tick = tokio::time::interval(self.cadence.checkpoint.min(renewal).max(Duration::from_millis(1)));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        loop {
            tokio::select! {
                biased;
                order = &mut order => {
                    let reached = *reached.borrow();
                    let (given_up, done) = match order {
                        Ok(Order::End(children, done)) => (self.give_up(Checkpoint::ShardEnd, &children).await, done),
                        Ok(Order::Release(done)) => (self.give_up(reached, &BTreeSet::new()).await, done),
                        Err(_) => return,
                    };
                    if given_up.is_ok() {
                        let _unheard = done.send(());
                    }
                    return;
                }
                _ = tick.tick() => {
                    let reached = *reached.borrow();
                    let written = if reached != self.stored {
                        self.checkpoint(reached, &BTreeSet::new()).await
                    } else if self.renewed.elapsed() >= renewal {
                        self.store.renew(&mut self.held).await
                    } else {
                        continue;
                    };
                    if self.judge(written).is_err() {
                        return;
                    }
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
                    self.tenure.renewed(self.cadence.timeout);
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
        let (store, keeper) = held().await;
        tokio::time::sleep(Duration::from_millis(9500)).await;
        assert_eq!(read(&store).await.counter, 4, "taken, and renewed every three seconds");
        keeper.advance(at("5"));
        keeper.advance(at("7"));
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(read(&store).await.checkpoint, at("7"));
        keeper.advance(at("8"));
        keeper.release().await.unwrap();
        let lease = read(&store).await;
        assert_eq!((lease.checkpoint, lease.owner), (at("8"), None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_was_taken_is_not_checkpointed_any_more() {
        let (store, keeper) = held().await;
        let theirs = store.take(&read(&store).await, &OwnerId::named("other")).await.unwrap();
        keeper.advance(at("5"));
        tokio::time::timeout(Duration::from_secs(60), keeper.lost()).await.expect("the loss is told");
        assert_eq!(read(&store).await.checkpoint, Checkpoint::TrimHorizon);
        assert_eq!(keeper.release().await, Err(Lost));
        store.release(theirs).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_asked_for_is_kept_but_its_tenure_ends() {
        let (store, keeper) = held().await;
        let asked = store.ask(&read(&store).await, &OwnerId::named("other")).await.unwrap();
        assert!(asked);
        // The wall clock stands still in this test: what is renewed shows as a later write of the same time.
        let tenure = keeper.tenure();
        tokio::time::sleep(Duration::from_secs(4)).await;
        tenure.0.store(1, Ordering::Release);
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
        let (store, keeper) = held().await;
        keeper.end(BTreeSet::from(["x".into()])).await.unwrap();
        let lease = read(&store).await;
        assert_eq!((lease.checkpoint, lease.children), (Checkpoint::ShardEnd, BTreeSet::from(["x".into()])));
    }
}
