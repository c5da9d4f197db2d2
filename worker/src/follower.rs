//! One stream: its shards, their leases, and a consumer for each that may be read here.

mod reading;
mod takings;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::consumer::{Consumer, Exit, Shared};
use crate::discovery::Lister;
use crate::health::{Health, LeasesSeen, Part};
use crate::lease::fleet::{Fleet, NextLook};
use crate::lease::{Checkpoint, Lease, LeaseError, Trace};
use crate::lineage::{self, Plan, Strays};
use crate::stream::{Listing, ShardId, StreamStatus};

use reading::{Closed, to_stop};
use takings::{Taken, Takings, Wanted};

/// How often a worker that stops looks whether it was handed over what it had asked for.
const HAND_OVER_CHECK: Duration = Duration::from_millis(100);
/// How long a stop waits for a look at the leases that is under way.
const STOP_PATIENCE: Duration = Duration::from_millis(500);
/// How long a closed stream shard's child is looked for at a quick pace.
const CHILD_HASTE: Duration = Duration::from_secs(60);

/// Why a follower ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Followed {
    /// It was told to stop.
    Stopped,
    /// The stream was replaced by another one and is read to its end.
    Drained,
    /// The pipeline is gone.
    Abandoned,
    /// A task broke off.
    BrokenOff,
}

/// The stream that takes a stream's place, as far as its followers have to know of each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct Successor {
    /// Cancelled once there is one.
    pub(crate) there: CancellationToken,
    /// Cancelled once every root of it was begun. Until then the leases of the replaced stream tell that the table was read
    /// before, so that every record of the roots counts.
    pub(crate) begun: CancellationToken,
}

/// Follows one stream.
pub(crate) struct Follower {
    shared: Arc<Shared>,
    health: Health,
    fleet: Arc<Fleet>,
    /// Cancelled once every root of the stream was begun.
    begun: CancellationToken,
    successor: Successor,
    /// One task for each stream shard that is read here.
    consumers: JoinSet<(ShardId, Closed)>,
    running: BTreeMap<ShardId, Running>,
    childless_since: BTreeMap<ShardId, Instant>,
    strays: Strays,
}

/// A stream shard that is being read here.
struct Running {
    stop: CancellationToken,
    trace: Arc<Trace>,
}

/// When leases and listing are looked at again, unless something happens before.
struct Next {
    look: NextLook,
    list: bool,
    drained: bool,
}

impl Follower {
    /// `begun` is cancelled once every root of the stream was begun.
    pub(crate) fn new(
        shared: Shared,
        fleet: Arc<Fleet>,
        health: Health,
        begun: CancellationToken,
        successor: Successor,
    ) -> Self {
        fleet.follow(&shared.name);
        Self {
            shared: Arc::new(shared),
            health,
            fleet,
            begun,
            successor,
            consumers: JoinSet::new(),
            running: BTreeMap::new(),
            childless_since: BTreeMap::new(),
            strays: Strays::default(),
        }
    }

    /// Follows until `stop`, and then waits for its consumers; its owner aborts it at the drain's deadline.
    pub(crate) async fn run(mut self, lister: Lister, stop: CancellationToken) -> Followed {
        let mut listing = JoinSet::new();
        listing.spawn(lister.run());
        let mut discovery = self.shared.discovery.clone();
        let mut since = Instant::now();
        let followed = loop {
            let next = tokio::select! {
                biased;
                next = self.look(since, &stop) => next,
                // A lease that is just being taken is better released in order; a table that does not answer is not waited for.
                () = async { stop.cancelled().await; tokio::time::sleep(STOP_PATIENCE).await } => break Followed::Stopped,
            };
            let may_retire = next.drained && self.successor.begun.is_cancelled();
            if may_retire && self.retire().await {
                self.begun.cancel();
                break Followed::Drained;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break Followed::Stopped,
                Some(closed) = self.consumers.join_next(), if !self.consumers.is_empty() => {
                    if let Some(followed) = self.all_closed(closed) {
                        break followed;
                    }
                }
                // It lists for as long as it is polled.
                Some(_) = listing.join_next() => break Followed::BrokenOff,
                () = discovery.changed() => {}
                () = tokio::time::sleep_until(next.look.at) => {
                    if next.list {
                        discovery.want();
                    }
                    since = since.max(next.look.since);
                    continue;
                }
                () = self.successor.there.cancelled(), if !self.successor.there.is_cancelled() => {}
                () = self.successor.begun.cancelled(), if !self.successor.begun.is_cancelled() => {}
            }
            since = Instant::now();
        };
        if followed == Followed::Stopped {
            while let Some(closed) = self.consumers.join_next().await {
                self.closed(closed);
            }
            if let Err(error) = self.free_claimed().await {
                tracing::warn!(table = %self.shared.table, %error, "stream leases that are not read not freed, they have to expire");
            }
        }
        self.fleet.leave(&self.shared.name);
        followed
    }

    /// Frees leases that are this worker's and not read here, so that a successor need not wait: children that were claimed,
    /// and what another worker was asked for and is still to hand over. What is not handed over in time is asked for no more.
    async fn free_claimed(&self) -> Result<(), LeaseError> {
        let shared = &self.shared;
        let until = Instant::now() + shared.settings.cadence.timeout / 2;
        self.fleet.close().await;
        loop {
            // What has changed since it was read may have come back: an asker that stops, too, withdraws what it asked for.
            let (mut again, late) = (false, Instant::now() >= until);
            for lease in shared.leases.list().await? {
                let unended = lease.key.stream == shared.name && lease.checkpoint != Checkpoint::ShardEnd;
                if unended {
                    again |= self.fleet.hand_over_if_left(&lease).await?;
                }
                if !unended || lease.owner.as_ref() != Some(&shared.owner) {
                    continue;
                }
                if lease.leaving.is_some() {
                    // One that is handed over at this moment is looked at once more.
                    again |= !(late && shared.leases.withdraw(&lease, &shared.owner).await?);
                } else if self.fleet.is_ours(&lease) {
                    match shared.leases.take(&lease, &shared.owner).await {
                        Ok(held) => shared.leases.release(held).await?,
                        Err(LeaseError::Lost(_)) => again = true,
                        Err(error) => return Err(error),
                    }
                }
            }
            if !again {
                return Ok(());
            }
            tokio::time::sleep(HAND_OVER_CHECK).await;
        }
    }

    /// Takes note of a consumer's end, and of all others' that have ended by now: one look at the leases serves them all.
    /// Tells whether the follower ends with one of them.
    fn all_closed(&mut self, first: Result<(ShardId, Closed), JoinError>) -> Option<Followed> {
        let mut next = Some(first);
        while let Some(closed) = next {
            match self.closed(closed) {
                Some(Closed::By(Exit::Abandoned)) => return Some(Followed::Abandoned),
                Some(Closed::By(Exit::Ended | Exit::Stopped | Exit::LeaseLost)) => {}
                Some(Closed::BrokenOff) | None => return Some(Followed::BrokenOff),
            }
            next = self.consumers.try_join_next();
        }
        None
    }

    /// Takes note of a consumer's end; `None` for one that broke off.
    fn closed(&mut self, closed: Result<(ShardId, Closed), JoinError>) -> Option<Closed> {
        match closed {
            Ok((shard, closed)) => {
                self.running.remove(&shard);
                tracing::debug!(table = %self.shared.table, stream_shard = %shard, ?closed, "stream shard closed");
                Some(closed)
            }
            Err(error) => {
                tracing::error!(table = %self.shared.table, %error, "the reading of a stream shard broke off");
                None
            }
        }
    }

    /// Starts whatever may start now, by leases that were read after `since`.
    async fn look(&mut self, since: Instant, stop: &CancellationToken) -> Next {
        let soon = self.shared.settings.cadence.timeout / 4;
        let soon = soon.clamp(Duration::from_millis(50), Duration::from_secs(1));
        let later = NextLook::at(Instant::now() + Duration::from_secs(60));
        let mut next = Next { look: later, list: false, drained: false };
        let Some((listing, listed)) = self.shared.discovery.newest() else { return next };
        match self.start_what_may((&listing, listed), since, stop).await {
            Ok((plan, others)) => {
                let problem = self.fleet.has_twin().then(|| {
                    format!(
                        "another worker runs under the name {}: start each with an --owner of its own",
                        self.shared.owner
                    )
                });
                self.health.table_problem(&self.shared.table, Part::Leases, problem);
                let looking = self.childless(&listing, &plan);
                if let Some(look) = self.fleet.next_look(others) {
                    next.look = look;
                }
                if looking {
                    let soon = NextLook::at(Instant::now() + soon);
                    next.look = if soon.at < next.look.at { soon } else { next.look };
                    next.list = true;
                }
                next.drained = self.successor.there.is_cancelled()
                    && self.running.is_empty()
                    && plan.start.is_empty()
                    && plan.waiting.is_empty();
            }
            Err(error) => {
                tracing::warn!(table = %self.shared.table, %error, "stream leases not looked at, trying again");
                self.health.table_problem(&self.shared.table, Part::Leases, Some(error.to_string()));
                next.look = NextLook::at(Instant::now() + soon);
            }
        }
        next
    }

    /// Returns the plan, and whether a lease of it belongs to somebody else for now.
    ///
    /// The listing comes with when it was begun: by the time the leases are read there may be a newer one, and what this one
    /// leaves out must not be judged by the other's age.
    async fn start_what_may(
        &mut self,
        (listing, listed): (&Listing, Instant),
        since: Instant,
        stop: &CancellationToken,
    ) -> Result<(Plan, bool), LeaseError> {
        let shared = Arc::clone(&self.shared);
        let settled = shared.deliver.unhealthy().is_empty();
        let all = self.fleet.leases(since, settled).await?;
        let paused = all.iter().any(|lease| lease.is_paused() && lease.key.stream.same_table(&shared.name));
        let read_before = |lease: &Lease| lease.key.stream != shared.name && lease.key.stream.same_table(&shared.name);
        let table_read_before = all.iter().any(read_before);
        let of_stream = all.iter().filter(|lease| lease.key.stream == shared.name);
        let leases: BTreeMap<ShardId, Lease> =
            of_stream.map(|lease| (lease.key.shard.clone(), lease.clone())).collect();
        self.stop_what_is_stolen(&leases);
        let replaced = |lease: &Lease| lease.key.stream.is_newer_than(&shared.name);
        let mut plan = if leases.is_empty() && all.iter().any(replaced) {
            // Read to its end, and retired by another worker: it would be read once more by each.
            Plan::default()
        } else {
            lineage::plan(listing, &leases)
        };
        if !leases.is_empty() && !plan.begins_a_stream() {
            self.begun.cancel();
        }
        if table_read_before {
            // Where an earlier stream of the table was read, every record of this one counts.
            plan.fresh.clear();
        }
        self.health.leases(
            &shared.table,
            &LeasesSeen {
                stream: &shared.stream.arn,
                owner: &shared.owner,
                timeout: shared.settings.cadence.timeout,
                paused,
                plan: &plan,
                leases: &leases,
            },
        );
        if paused {
            return Ok((plan, true));
        }
        let (held, list) = self.strays.hold(&plan, listed, Instant::now());
        if list {
            shared.discovery.want();
        }
        let wanted =
            plan.start.iter().filter(|(shard, _)| !self.running.contains_key(*shard) && !held.contains(*shard));
        let wanted = wanted.map(|(shard, parent)| Wanted {
            shard: shard.clone(),
            parent: parent.clone(),
            lease: leases.get(shard).cloned(),
        });
        let all_taken = self.take(wanted.collect(), &plan, stop).await?;
        let others = !held.is_empty() || !all_taken;
        for lease in plan.served.iter().filter_map(|shard| leases.get(shard)) {
            match shared.leases.delete(lease).await {
                Ok(()) => tracing::debug!(lease = %lease.key, "stream lease has served"),
                Err(LeaseError::Lost(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((plan, others))
    }

    /// Takes what is wanted and starts to read it; tells whether that was all of it.
    async fn take(
        &mut self,
        wanted: VecDeque<Wanted>,
        plan: &Plan,
        stop: &CancellationToken,
    ) -> Result<bool, LeaseError> {
        let (mut all, mut failed) = (true, None);
        let mut takings = Takings::new(Arc::clone(&self.shared), Arc::clone(&self.fleet), wanted);
        while let Some(taken) = takings.next().await {
            match taken {
                Ok(Some(taken)) => self.read(taken, plan, stop),
                Ok(None) => all = false,
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(all), Err)
    }

    /// Starts to read a stream shard.
    fn read(&mut self, taken: Taken, plan: &Plan, stop: &CancellationToken) {
        let Taken { shard, held, holding } = taken;
        let line = self.health.shard(&self.shared.table, &shard);
        let trace = held.trace();
        let consumer = Consumer::new(Arc::clone(&self.shared), held, line);
        let consumer = consumer.coming_from(plan.origin(&shard));
        let stop = stop.child_token();
        self.running.insert(shard.clone(), Running { stop: stop.clone(), trace });
        let to_stop = Box::pin(to_stop(stop, holding.asked(), Arc::clone(&self.shared.deliver)));
        self.consumers.spawn(async move {
            let exit = consumer.run(to_stop).await;
            (shard, Closed::of(exit, &holding))
        });
    }

    /// Stops reading what others have taken, sooner than the next renewal would tell.
    fn stop_what_is_stolen(&self, leases: &BTreeMap<ShardId, Lease>) {
        for (shard, running) in &self.running {
            let Some(lease) = leases.get(shard) else { continue };
            // A listing may be older than this worker's own last write.
            let newer = lease.counter > running.trace.counter.load(Ordering::Acquire);
            if newer && lease.holder() != Some(&self.shared.owner) && !running.stop.is_cancelled() {
                tracing::warn!(lease = %lease.key, "stream lease was taken by somebody else, its stream shard is no longer read here");
                running.stop.cancel();
            }
        }
    }

    /// Reports closed stream shards without a child; tells whether one is fresh enough to look for it quickly.
    fn childless(&mut self, listing: &Listing, plan: &Plan) -> bool {
        let on = match listing.status {
            StreamStatus::Enabling | StreamStatus::Enabled => true,
            StreamStatus::Disabling | StreamStatus::Disabled => false,
        };
        let childless =
            if on && !self.successor.there.is_cancelled() { plan.childless.clone() } else { BTreeSet::new() };
        self.health.discovered(&self.shared.table, &childless);
        let now = Instant::now();
        self.childless_since.retain(|shard, _| childless.contains(shard));
        for shard in childless {
            self.childless_since.entry(shard).or_insert(now);
        }
        self.childless_since.values().any(|since| now.duration_since(*since) < CHILD_HASTE)
    }

    /// Deletes the leases of a stream that was replaced and is read to its end.
    async fn retire(&self) -> bool {
        let retired = async {
            let all = self.shared.leases.list().await?;
            for lease in all.iter().filter(|lease| lease.key.stream == self.shared.name) {
                self.shared.leases.delete(lease).await?;
            }
            Ok::<_, LeaseError>(())
        };
        match retired.await {
            Ok(()) => {
                tracing::info!(stream = self.shared.stream.arn, "replaced stream read to its end");
                true
            }
            Err(error) => {
                tracing::warn!(%error, "leases of a replaced stream not deleted, trying again");
                false
            }
        }
    }
}
