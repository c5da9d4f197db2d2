//! The lease: asking for it, holding it while the load runs, and waiting for another's.

mod held;

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringtide_core::command::Command;
use ringtide_core::key::{CacheKey, Mode};
use ringtide_core::valkey::{FillReply, LeaseReply, LeaseRequest, ShardError, Token};
use ringtide_core::version::Version;
use tokio::sync::SemaphorePermit;

pub(crate) use held::HeldLease;

use crate::cache::Inner;
use crate::counters::LeaseOutcome;
use crate::error::Error;
use crate::fill::{entry_of, fill, lifetime_of};
use crate::flight::{Flight, Outcome};
use crate::inbox::{Waiter, Wake};
use crate::load;
use crate::loader::{Consistency, Lender, Loader};
use crate::options::ReadOptions;
use crate::shard::ReadShard;
use crate::space::SpaceState;

/// What one flight is to answer.
pub(crate) struct Plan {
    pub(crate) key: CacheKey,
    pub(crate) space: Arc<SpaceState>,
    /// The ring shard that owned the key when the flight began: its lease and its fill belong together.
    pub(crate) shard: Arc<ReadShard>,
    pub(crate) options: ReadOptions,
    pub(crate) loader: Loader,
    /// Entries whose soft expiry is not after this time (unix ms) are loaded again; 0 for none.
    pub(crate) refresh_before_ms: u64,
    /// Whether its next load is on behalf of a second attempt.
    pub(crate) repeats: bool,
    /// An entry that is well formed and yet not read as the type asked for.
    pub(crate) rejected: Option<Bytes>,
}

impl Plan {
    /// Whether every load is strongly consistent, by the key space's mode.
    fn loads_are_strong(&self) -> bool {
        match &self.space.settings.mode {
            Mode::Plain | Mode::Versioned { tombstone: None, .. } => true,
            Mode::Settle { .. } | Mode::Versioned { tombstone: Some(_), .. } => false,
        }
    }

    /// Whether the versions that are served for a key never go back.
    fn compares_versions(&self) -> bool {
        matches!(self.space.settings.mode, Mode::Versioned { .. })
    }

    /// Whether a load is the newest that its loader has to give, as fresh reads want it.
    fn newest_by(&self, consistency: Consistency) -> bool {
        self.loads_are_strong() || !self.loader.told || consistency == Consistency::Strong
    }
}

/// Drives a flight to its end: an entry of another's fill, a load of its own under a lease, or a load without one
/// where the ring shard is `down` or every attempt was in vain.
pub(crate) async fn fly(inner: Arc<Inner>, mut plan: Plan, flight: Flight, down: Option<ShardError>) {
    if let Some(error) = down {
        return past_the_shard(&inner, &plan, &flight, &error).await;
    }
    let shard = Arc::clone(&plan.shard);
    let (began, begun) = (Instant::now(), inner.failures.begun());
    let load_timeout = inner.settings.load_timeout_of(&plan.space.settings);
    let patience = load_timeout.saturating_add(inner.settings.lease_ttl);
    let (mut attempts, mut failed_elsewhere) = (0, false);
    while attempts < inner.settings.max_attempts && began.elapsed() < patience {
        if let Some(error) = inner.owed(&shard, &plan.key) {
            return past_the_shard(&inner, &plan, &flight, &error).await;
        }
        // Leave to load comes before the lease: a lease that is held while its load is put off would put off everybody
        // else's load of the key as well. Whoever is told to wait, or finds the entry, gives it back at once.
        let left = patience.saturating_sub(began.elapsed()).min(load_timeout);
        let permit = match load::leave(&plan, left).await {
            Ok(permit) => permit,
            Err(error) => return flight.settle(Outcome::Failed(error)),
        };
        let mut waiter = shard.waiters.register(&plan.key);
        let token = Token::random();
        let asked = Instant::now();
        let inbox = Some(shard.channel.as_str());
        let request =
            LeaseRequest { token, ttl: inner.settings.lease_ttl, inbox, refresh_before_ms: plan.refresh_before_ms };
        let reply = shard.lease(&plan.key, &request).await;
        plan.space.counters.leases.add(match &reply {
            Ok(LeaseReply::Hit(_)) => LeaseOutcome::Hit,
            Ok(LeaseReply::Granted { .. }) => LeaseOutcome::Granted,
            Ok(LeaseReply::Wait { .. }) => LeaseOutcome::Wait,
            Err(_) => LeaseOutcome::Failed,
        });
        let (remaining, holder) = match reply {
            Ok(LeaseReply::Hit(entry)) if plan.rejected.as_ref() == Some(&entry) => {
                attempts += 1;
                drop(permit);
                if let Err(error) = drop_rejected(&mut plan).await {
                    return past_the_shard(&inner, &plan, &flight, &error).await;
                }
                continue;
            }
            Ok(LeaseReply::Hit(entry)) => {
                flight.early(asked, stored(entry));
                return flight.settle(Outcome::Retry);
            }
            Ok(LeaseReply::Granted { floor, .. }) => {
                drop(waiter);
                let lease = HeldLease::new(&inner, &shard, plan.key.clone(), token, asked);
                return load_and_fill(&inner, &plan, &flight, (lease, permit), floor).await;
            }
            Ok(LeaseReply::Wait { remaining, holder, .. }) => {
                plan.loader.stand_by();
                drop(permit);
                (remaining, holder)
            }
            Err(error) => {
                if matches!(error, ShardError::TimedOut { .. }) {
                    // The lease may have been taken all the same.
                    drop(HeldLease::new(&inner, &shard, plan.key.clone(), token, asked));
                }
                drop(permit);
                return past_the_shard(&inner, &plan, &flight, &error).await;
            }
        };
        let jitter = Duration::from_millis(fastrand::u64(2..=25));
        let time = remaining.saturating_add(jitter).min(patience.saturating_sub(began.elapsed()));
        let (wake, unfilled_at) = wait(&plan, &flight, &mut waiter, (holder, asked), time).await;
        match wake {
            Wake::Filled(of, Some(entry)) if of == holder => {
                plan.space.counters.wake_time.record(asked.elapsed());
                return answer_filled(&plan, &flight, unfilled_at, entry).await;
            }
            // The next lease call is answered with the entry. So is a notice of an earlier lease that arrived late:
            // what it carries may have been invalidated before this flight began.
            Wake::Filled(..) => plan.space.counters.wake_time.record(asked.elapsed()),
            Wake::Voided => attempts += 1,
            // Another process's failure may be its own; one load here tells, unless that took too long already.
            Wake::Failed(reason)
                if failed_elsewhere || began.elapsed() * 2 > load_timeout || !load::may_repeat(&plan) =>
            {
                let error = Error::LoadFailedElsewhere { key: plan.key.clone(), reason };
                inner.failures.failed(&plan.key, &error, begun, Instant::now());
                return flight.settle(Outcome::Failed(error));
            }
            Wake::Failed(_) => {
                failed_elsewhere = true;
                plan.repeats = true;
            }
            Wake::LookAgain => {}
        }
    }
    // It counts as repeated, and is made all the same: this process has not loaded the key yet.
    let _counted = load::may_repeat(&plan);
    plan.repeats = true;
    plan.space.counters.uncached.increment(1);
    answer_unleased(&inner, &plan, &flight, Consistency::Strong, false).await;
}

/// Drives the flight of reads whose every attempt was in vain: a load without a lease, as new as it can be.
pub(crate) async fn fly_past_the_cache(inner: Arc<Inner>, plan: Plan, flight: Flight) {
    answer_unleased(&inner, &plan, &flight, Consistency::Strong, false).await;
}

/// The first pause before a waiter looks whether the lease it waits for is still held; each further one is as long again as
/// all before.
const FIRST_LOOK: Duration = Duration::from_millis(5);

/// Waits for the end of the lease of `holder`: its notice, or a while after the lock's time, for a holder that died.
///
/// Tells besides when at last the lease was known not to be filled yet, which it was not at `asked`. Reads that began until
/// then are answered by what the lease stores, so that is asked for again where others have joined, more and more rarely.
async fn wait(
    plan: &Plan,
    flight: &Flight,
    waiter: &mut Waiter,
    (holder, asked): (Token, Instant),
    time: Duration,
) -> (Wake, Instant) {
    let (mut over, mut woken) = (pin!(tokio::time::sleep(time)), pin!(waiter.woken()));
    let mut unfilled_at = asked;
    let (began, mut pause) = (tokio::time::Instant::now(), FIRST_LOOK);
    loop {
        let look = async {
            tokio::time::sleep_until(began + pause).await;
            if flight.latest() <= Some(unfilled_at) {
                return None;
            }
            let asked = Instant::now();
            let held_by = plan.shard.holder(&plan.key).await;
            held_by.is_ok_and(|held_by| held_by == Some(holder)).then_some(asked)
        };
        tokio::select! {
            biased;
            wake = &mut woken => return (wake, unfilled_at),
            () = &mut over => return (Wake::LookAgain, unfilled_at),
            unfilled = look => {
                unfilled_at = unfilled.unwrap_or(unfilled_at);
                pause *= 2;
            }
        }
    }
}

/// Answers with an entry that travelled in a notice. It was stored after `unfilled_at`; reads that joined later may know of
/// an invalidation since, and so share one more look at the ring shard.
async fn answer_filled(plan: &Plan, flight: &Flight, unfilled_at: Instant, entry: Bytes) {
    let latest = flight.close();
    let answer = stored(entry);
    if latest.is_none_or(|latest| latest <= unfilled_at) {
        return flight.settle(answer);
    }
    flight.early(unfilled_at, answer);
    match plan.shard.get(&plan.key).await {
        Ok(Some(entry)) => flight.settle(stored(entry)),
        Ok(None) | Err(_) => flight.settle(Outcome::Retry),
    }
}

/// The answer with an entry that was stored already.
fn stored(entry: Bytes) -> Outcome {
    Outcome::Answer { entry, loaded: None, newer: false }
}

/// The lease with the leave to load.
type Held<'a> = (HeldLease, Option<SemaphorePermit<'a>>);

async fn load_and_fill(inner: &Inner, plan: &Plan, flight: &Flight, held: Held<'_>, floor: Version) {
    let (mut lease, _permit) = held;
    let strong = plan.loads_are_strong();
    let proven_by_load = |floor| if strong { floor } else { Version::NONE };
    // Who wants what is newer than the read gets the newest there is.
    let (mut consistency, mut proven) = match plan.options.fresh && plan.loader.told {
        true => (Consistency::Strong, floor),
        false => (Consistency::AsUsual, proven_by_load(floor)),
    };
    let (mut known, mut latest) = (floor, None);
    loop {
        let kept = load::run(inner, plan, consistency, pin!(lease.keep())).await;
        let (began, load) = match kept {
            Ok(loaded) => loaded,
            Err(error) => {
                let reason = error.to_string();
                flight.settle(Outcome::Failed(error));
                return lease.release_failed(&reason).await;
            }
        };
        let life = lifetime_of(plan, &load);
        let entry = entry_of(&load, life.soft_expiry_ms);
        // A load that lags behind what is known of is nobody's answer: its readers may have seen what it has not.
        let lags = known > proven.max(load.encoded.version);
        let newest = plan.newest_by(consistency);
        let answer = |newer| Outcome::Answer { entry: entry.clone(), loaded: Some(plan.loader.loads), newer };
        // From here on reads look up for themselves: they may begin after an invalidation that voids this fill.
        latest = latest.max(flight.close());
        if !load.encoded.cached {
            if !lags && may_answer_unstored(plan, &mut lease).await {
                flight.early(began, answer(newest));
            }
            // The lease is given back, and whoever waits for it loads.
            return flight.settle(Outcome::Retry);
        }
        // The fill costs this process's readers nothing; it is on its way before a herd of them takes the processors.
        let mut filling = pin!(fill(inner, plan, &mut lease, &load, (entry.clone(), life.ttl), proven));
        let filled = futures_util::poll!(&mut filling);
        // Where versions are compared, a value whose lease is gone is nobody's answer either: another load, which began before
        // it and returns after it, may hold a lease by now and store what is older.
        let at_once = !lags && !plan.compares_versions();
        if at_once {
            flight.early(began, answer(newest));
        }
        let filled = match filled {
            Poll::Ready(filled) => filled,
            Poll::Pending => filling.await,
        };
        match filled {
            Ok(FillReply::Stored) => {
                // Where it lagged, the floor is gone since.
                if !at_once {
                    flight.early(began, answer(newest));
                }
                return flight.settle(answer(false));
            }
            Ok(FillReply::Below { floor }) if consistency == Consistency::AsUsual => {
                consistency = Consistency::Strong;
                known = known.max(floor);
                proven = if plan.loader.told { floor } else { proven_by_load(floor) };
            }
            Ok(FillReply::Below { .. } | FillReply::Void | FillReply::Older) => return flight.settle(Outcome::Retry),
            Err(error) => {
                if !lags {
                    flight.early(began, answer(newest));
                }
                if latest > Some(began) {
                    return past_the_shard(inner, plan, flight, &error).await;
                }
                return flight.settle(Outcome::Retry);
            }
        }
    }
}

/// Whether what is not stored answers the reads that began before its load: where versions are compared only if its lease has
/// lived until now, as for a fill. A ring shard that does not tell is one that does not answer a fill.
async fn may_answer_unstored(plan: &Plan, lease: &mut HeldLease) -> bool {
    if !plan.compares_versions() {
        return true;
    }
    lease.give_back().await.unwrap_or_else(|error| {
        tracing::debug!(key = %plan.key, %error, "not known whether the lease still lived");
        true
    })
}

/// Takes an entry away that readers of this type cannot use.
async fn drop_rejected(plan: &mut Plan) -> Result<(), ShardError> {
    plan.rejected = None;
    let command = Command::drop_entry(plan.key.clone(), plan.space.settings.clone());
    plan.shard.apply(&[command]).await.map(|_| ())
}

async fn past_the_shard(inner: &Inner, plan: &Plan, flight: &Flight, error: &ShardError) {
    tracing::debug!(key = %plan.key, %error, "answering without the ring shard");
    plan.space.counters.fallbacks.increment(1);
    let consistency = if plan.options.fresh { Consistency::Strong } else { Consistency::AsUsual };
    answer_unleased(inner, plan, flight, consistency, true).await;
}

/// Answers by a load without a lease, which is not stored; reads that joined after it had begun share a second one.
async fn answer_unleased(inner: &Inner, plan: &Plan, flight: &Flight, consistency: Consistency, down: bool) {
    loop {
        let ticket = inner.local.before_load();
        let (began, load) = match load::unleased(inner, plan, consistency).await {
            Ok(loaded) => loaded,
            Err(error) => return flight.settle(Outcome::Failed(error)),
        };
        let (loaded, newer) = (Some(plan.loader.loads), plan.newest_by(consistency));
        let answer = Outcome::Answer { entry: entry_of(&load, 0), loaded, newer };
        if down && load.encoded.cached {
            let entry = || entry_of(&load, lifetime_of(plan, &load).soft_expiry_ms);
            inner.local.after_load(&ticket, &plan.key, &plan.space, entry);
        }
        match flight.close() {
            Some(latest) if latest > began => flight.early(began, answer),
            // Nobody has joined since.
            Some(_) | None => return flight.settle(answer),
        }
    }
}
