//! One stream: its shards, their leases, and a consumer for each that may be read here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use metrics::counter;
use ringtide_core::metrics as names;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::consumer::{Consumer, Exit, Shared};
use crate::discovery::Lister;
use crate::health::{Health, Part};
use crate::lease::{Expiry, Lease, LeaseError};
use crate::lineage::{self, Plan};
use crate::stream::{Listing, ShardId, StreamStatus};

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
}

/// Follows one stream.
pub(crate) struct Follower {
    shared: Shared,
    health: Health,
    expiry: Expiry,
    /// Cancelled once the table has another stream.
    superseded: CancellationToken,
    /// One task for each stream shard that is read here.
    consumers: JoinSet<(ShardId, Exit)>,
    running: BTreeSet<ShardId>,
    childless_since: BTreeMap<ShardId, Instant>,
}

/// When leases and listing are looked at again, unless something happens before.
struct Next {
    at: Instant,
    list: bool,
    drained: bool,
}

impl Follower {
    pub(crate) fn new(shared: Shared, health: Health, superseded: CancellationToken) -> Self {
        let expiry = Expiry::new(shared.settings.cadence.timeout);
        Self {
            shared,
            health,
            expiry,
            superseded,
            consumers: JoinSet::new(),
            running: BTreeSet::new(),
            childless_since: BTreeMap::new(),
        }
    }

    /// Follows until `stop`, and then waits for its consumers; its owner aborts it at the drain's deadline.
    pub(crate) async fn run(mut self, lister: Lister, stop: CancellationToken) -> Followed {
        let mut listing = JoinSet::new();
        listing.spawn(lister.run());
        let mut discovery = self.shared.discovery.clone();
        loop {
            let next = self.look(&stop).await;
            if next.drained && self.retire().await {
                return Followed::Drained;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(exit) = self.consumers.join_next(), if !self.consumers.is_empty() => {
                    if self.ended(exit) == Some(Exit::Abandoned) {
                        return Followed::Abandoned;
                    }
                }
                () = discovery.changed() => {}
                () = tokio::time::sleep_until(next.at) => if next.list { discovery.want() },
                () = self.superseded.cancelled(), if !self.superseded.is_cancelled() => {}
            }
        }
        while let Some(exit) = self.consumers.join_next().await {
            self.ended(exit);
        }
        Followed::Stopped
    }

    fn ended(&mut self, exit: Result<(ShardId, Exit), tokio::task::JoinError>) -> Option<Exit> {
        match exit {
            Ok((shard, exit)) => {
                self.running.remove(&shard);
                tracing::debug!(table = %self.shared.table, stream_shard = %shard, ?exit, "stream shard closed");
                Some(exit)
            }
            Err(error) => {
                // Nobody knows whose it was: every lease without a task is looked at again.
                tracing::error!(table = %self.shared.table, %error, "the reading of a stream shard broke off");
                self.running.clear();
                None
            }
        }
    }

    /// Starts whatever may start now.
    async fn look(&mut self, stop: &CancellationToken) -> Next {
        let soon = self.shared.settings.cadence.timeout / 4;
        let soon = soon.clamp(Duration::from_millis(50), Duration::from_secs(1));
        let mut next = Next { at: Instant::now() + Duration::from_secs(60), list: false, drained: false };
        let Some(listing) = self.shared.discovery.newest() else { return next };
        match self.start_what_may(&listing, stop).await {
            Ok((plan, others)) => {
                self.health.table_problem(&self.shared.table, Part::Leases, None);
                let looking = self.childless(&listing, &plan);
                if others || looking {
                    next.at = Instant::now() + soon;
                    next.list = looking;
                }
                next.drained = self.superseded.is_cancelled()
                    && self.running.is_empty()
                    && plan.start.is_empty()
                    && plan.waiting.is_empty();
            }
            Err(error) => {
                tracing::warn!(table = %self.shared.table, %error, "stream leases not looked at, trying again");
                self.health.table_problem(&self.shared.table, Part::Leases, Some(error.to_string()));
                next.at = Instant::now() + soon;
            }
        }
        next
    }

    /// Returns the plan, and whether a lease of it belongs to somebody else for now.
    async fn start_what_may(
        &mut self,
        listing: &Listing,
        stop: &CancellationToken,
    ) -> Result<(Plan, bool), LeaseError> {
        let shared = self.shared.clone();
        let all = shared.leases.list().await?;
        let paused = all.iter().any(|lease| lease.is_paused() && lease.key.stream.same_table(&shared.name));
        let of_stream = all.into_iter().filter(|lease| lease.key.stream == shared.name);
        let leases: BTreeMap<ShardId, Lease> = of_stream.map(|lease| (lease.key.shard.clone(), lease)).collect();
        self.expiry.retain(|key| leases.contains_key(&key.shard));
        let plan = lineage::plan(listing, &leases);
        if paused {
            return Ok((plan, true));
        }
        let mut others = false;
        for (shard, parent) in &plan.start {
            if self.running.contains(shard) {
                continue;
            }
            let lease = match leases.get(shard) {
                Some(lease) => lease.clone(),
                None => {
                    let parents = parent.iter().cloned().collect();
                    let lease = Lease { parents, ..Lease::new(shared.name.lease(shard)) };
                    if !shared.leases.create(&lease).await? {
                        others = true;
                        continue;
                    }
                    counter!(names::LEASE_CHANGES, names::OUTCOME => "created").increment(1);
                    lease
                }
            };
            if !self.expiry.may_take(&lease, &shared.owner, Instant::now()) {
                others = true;
                continue;
            }
            match shared.leases.take(&lease, &shared.owner).await {
                Ok(held) => {
                    counter!(names::LEASE_CHANGES, names::OUTCOME => "taken").increment(1);
                    let line = self.health.shard(&shared.table, shard);
                    let (consumer, from) = Consumer::new(shared.clone(), held, line);
                    let (shard, stop) = (shard.clone(), stop.clone());
                    self.running.insert(shard.clone());
                    self.consumers.spawn(async move { (shard, consumer.run(from, stop).await) });
                }
                Err(LeaseError::Lost(_)) => others = true,
                Err(error) => return Err(error),
            }
        }
        for lease in plan.served.iter().filter_map(|shard| leases.get(shard)) {
            match shared.leases.delete(lease).await {
                Ok(()) => tracing::debug!(lease = %lease.key, "stream lease has served"),
                Err(LeaseError::Lost(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok((plan, others))
    }

    /// Reports closed stream shards without a child; tells whether one is fresh enough to look for it quickly.
    fn childless(&mut self, listing: &Listing, plan: &Plan) -> bool {
        let on = match listing.status {
            StreamStatus::Enabling | StreamStatus::Enabled => true,
            StreamStatus::Disabling | StreamStatus::Disabled => false,
        };
        let childless = if on && !self.superseded.is_cancelled() { plan.childless.clone() } else { BTreeSet::new() };
        self.health.discovered(&self.shared.table, &childless);
        let now = Instant::now();
        self.childless_since.retain(|shard, _| childless.contains(shard));
        for shard in childless {
            self.childless_since.entry(shard).or_insert(now);
        }
        self.childless_since.values().any(|since| now.duration_since(*since) < CHILD_HASTE)
    }

    /// Deletes the leases of a stream that was replaced and is read to its end, once its successor has some.
    async fn retire(&self) -> bool {
        let retired = async {
            let all = self.shared.leases.list().await?;
            let (own, others): (Vec<Lease>, Vec<Lease>) =
                all.into_iter().partition(|lease| lease.key.stream == self.shared.name);
            if !others.iter().any(|lease| lease.key.stream.same_table(&self.shared.name)) {
                return Ok(false);
            }
            for lease in own {
                self.shared.leases.delete(&lease).await?;
            }
            Ok::<_, LeaseError>(true)
        };
        match retired.await {
            Ok(true) => {
                tracing::info!(stream = self.shared.stream.arn, "replaced stream read to its end");
                true
            }
            Ok(false) => false,
            Err(error) => {
                tracing::warn!(%error, "leases of a replaced stream not deleted, trying again");
                false
            }
        }
    }
}
