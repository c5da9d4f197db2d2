//! The fleet as one worker sees it: one listing of all leases for all of its streams, and the requests for a fair share.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use metrics::{counter, gauge};
use ringtide_core::metrics as names;
use tokio::time::Instant;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::balance::{self, Share};
use super::sight::Sight;
use super::{HeldLease, Lease, LeaseError, LeaseKey, LeaseStore, OwnerId, StreamName, Trace};

/// The shortest and the longest pause between two listings while others have leases.
const PACE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(1));
/// What a lease adds to the pause: a listing reads them all, and costs by their number.
const PACE_PER_LEASE: Duration = Duration::from_millis(10);

/// How old leases may be that another follower has read, where nothing happened but time.
const SHARED_FOR: Duration = Duration::from_millis(200);

/// What the followers of one worker share.
pub(crate) struct Fleet {
    store: Arc<dyn LeaseStore>,
    owner: OwnerId,
    timeout: Duration,
    listing: tokio::sync::Mutex<Option<Listed>>,
    sight: Mutex<Sight>,
    /// Nothing is asked for any more.
    closed: AtomicBool,
}

#[derive(Clone)]
struct Listed {
    at: Instant,
    leases: Arc<[Lease]>,
}

/// When to look at the leases again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NextLook {
    pub(crate) at: Instant,
    /// How old what another follower has read by then may be.
    pub(crate) since: Instant,
}

impl NextLook {
    /// Looks at a time when nothing is known to happen: what another follower has just read will do.
    pub(crate) fn at(at: Instant) -> Self {
        Self { at, since: at.checked_sub(SHARED_FOR).unwrap_or(at) }
    }
}

/// A lease that this worker holds, as far as its fleet knows: dropping it says that it does not any more.
pub(crate) struct Holding {
    fleet: Arc<Fleet>,
    key: LeaseKey,
    trace: Arc<Trace>,
}

impl Holding {
    /// Resolves once somebody has asked for the lease.
    pub(crate) fn asked(&self) -> WaitForCancellationFutureOwned {
        self.trace.asked.clone().cancelled_owned()
    }

    /// Whether the task that writes the lease broke off.
    pub(crate) fn is_broken(&self) -> bool {
        self.trace.broken.load(Ordering::Acquire)
    }
}

impl Fleet {
    pub(crate) fn new(store: Arc<dyn LeaseStore>, owner: OwnerId, timeout: Duration) -> Self {
        let sight = Mutex::new(Sight::new(owner.clone(), timeout));
        Self { store, owner, timeout, listing: tokio::sync::Mutex::new(None), sight, closed: AtomicBool::new(false) }
    }

    /// The leases of this stream are for this worker, too.
    pub(crate) fn follow(&self, stream: &StreamName) {
        self.sight().follow(stream.clone());
    }

    /// The stream is followed no more.
    pub(crate) fn leave(&self, stream: &StreamName) {
        self.sight().leave(stream);
    }

    /// All leases, as they were read after `since` by whichever follower came first; whoever reads them also asks the
    /// others for what this worker lacks, where `settled` says that nothing keeps it from reading more.
    pub(crate) async fn leases(&self, since: Instant, settled: bool) -> Result<Arc<[Lease]>, LeaseError> {
        let mut listing = self.listing.lock().await;
        if let Some(listed) = listing.as_ref().filter(|listed| listed.at >= since) {
            return Ok(Arc::clone(&listed.leases));
        }
        let at = Instant::now();
        let leases: Arc<[Lease]> = self.store.list().await?.into();
        let (twins, wanted) = {
            let mut sight = self.sight();
            let twins = sight.observe(&leases, Instant::now()).twins;
            tell(sight.share());
            let wanted = balance::to_ask_for(sight.in_play(), &self.owner, &mut fastrand::Rng::new());
            (twins, if settled && !self.closed.load(Ordering::Acquire) { wanted } else { Vec::new() })
        };
        for key in twins {
            counter!(names::LEASE_CHANGES, names::OUTCOME => "twin").increment(1);
            tracing::error!(
                lease = %key, owner = %self.owner,
                "another worker runs under this worker's name and has taken its stream lease; start each with an --owner of its own"
            );
        }
        for lease in leases.iter() {
            self.hand_over_if_left(lease).await?;
        }
        for lease in leases.iter().filter(|lease| wanted.contains(&lease.key)) {
            // Whatever becomes of the call: the request may be made.
            self.sight().asks(&lease.key);
            if self.store.ask(lease, &self.owner).await? {
                counter!(names::LEASE_CHANGES, names::OUTCOME => "asked").increment(1);
                tracing::info!(
                    lease = %lease.key, holder = lease.holder().map(OwnerId::as_str),
                    "stream lease asked for, to even out the workers' shares"
                );
            }
        }
        *listing = Some(Listed { at, leases: Arc::clone(&leases) });
        Ok(leases)
    }

    /// Gives up a lease that was asked for and that nobody reads by here: since a restart, or since it was claimed. Tells
    /// whether it is not as it was read any more, so that it may be this worker's again.
    pub(crate) async fn hand_over_if_left(&self, lease: &Lease) -> Result<bool, LeaseError> {
        if !self.sight().is_left_behind(lease) {
            return Ok(false);
        }
        match self.store.release(HeldLease::standing(lease, &self.owner)).await {
            Ok(()) => {
                counter!(names::LEASE_CHANGES, names::OUTCOME => "released").increment(1);
                tracing::info!(
                    lease = %lease.key, asker = lease.owner.as_ref().map(OwnerId::as_str),
                    "stream lease handed over that was asked for and not read here"
                );
                Ok(false)
            }
            // The asker has waited it out, takes it by force, or has taken back that it asked.
            Err(LeaseError::Lost(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Whether this worker may take a lease that it does not hold.
    pub(crate) fn may_take(&self, lease: &Lease) -> bool {
        self.sight().may_take(lease, Instant::now())
    }

    /// Asks for no more leases, and waits until no follower does so.
    pub(crate) async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        drop(self.listing.lock().await);
    }

    /// Whether a lease that stands under this worker's name is known to be no other process's.
    pub(crate) fn is_ours(&self, lease: &Lease) -> bool {
        self.sight().is_ours(lease)
    }

    /// Whether another process works under this worker's name.
    pub(crate) fn has_twin(&self) -> bool {
        self.sight().has_twin()
    }

    /// This worker created a lease that nobody holds.
    pub(crate) fn created(&self) {
        self.sight().created();
    }

    /// Takes a lease as it was read.
    pub(crate) async fn take(self: &Arc<Self>, lease: &Lease) -> Result<(HeldLease, Holding), LeaseError> {
        // An answer that gets lost leaves a lease that is this worker's.
        self.sight().gives_up(&lease.key, lease.counter.saturating_add(1));
        let taken = self.store.take(lease, &self.owner).await;
        if let Err(LeaseError::Lost(_)) = &taken {
            self.sight().loses(&lease.key);
        }
        let held = taken?;
        let outcome = match lease.holder() {
            Some(holder) if *holder != self.owner => "stolen",
            Some(_) | None => "taken",
        };
        counter!(names::LEASE_CHANGES, names::OUTCOME => outcome).increment(1);
        self.sight().takes(&lease.key);
        let holding = Holding { fleet: Arc::clone(self), key: lease.key.clone(), trace: held.trace() };
        Ok((held, holding))
    }

    /// When to look at the leases again; `None` where no other worker is to be seen, and nothing is waited for: whoever
    /// comes shows itself by asking, which the holder's next write tells.
    pub(crate) fn next_look(&self, others: bool) -> Option<NextLook> {
        let now = Instant::now();
        let sight = self.sight();
        if !others && sight.is_alone() {
            return None;
        }
        let pace = (PACE_PER_LEASE * u32::try_from(sight.share().leases).unwrap_or(u32::MAX)).clamp(PACE.0, PACE.1);
        let pace = pace.min(self.timeout / 4).max(Duration::from_millis(50));
        let pace = if sight.waits() { pace / 4 } else { pace };
        // Workers that were started together do not look together for ever.
        let look = NextLook::at(now + pace.mul_f64(0.7 + 0.3 * fastrand::f64()));
        match sight.next_expiry(now).map(|expiry| expiry + Duration::from_millis(1)) {
            Some(expired) if expired < look.at => Some(NextLook { at: expired, since: expired }),
            Some(_) | None => Some(look),
        }
    }

    fn sight(&self) -> MutexGuard<'_, Sight> {
        self.sight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.fleet.sight().gives_up(&self.key, self.trace.counter.load(Ordering::Acquire));
    }
}

fn tell(share: Share) {
    gauge!(names::LEASES_IN_PLAY).set(share.leases as f64);
    gauge!(names::LEASES_HELD).set(share.mine as f64);
    gauge!(names::WORKERS).set(share.workers as f64);
}
