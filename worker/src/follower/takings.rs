//! Taking leases, many at a time: each is a call or two, and thousands of stream shards may roll over together.

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use metrics::counter;
use ringtide_core::metrics as names;

use crate::consumer::Shared;
use crate::lease::fleet::{Fleet, Holding};
use crate::lease::{HeldLease, Lease, LeaseError};
use crate::stream::ShardId;

/// So many leases are taken at once.
const AT_ONCE: usize = 16;

/// A stream shard that may be read.
pub(super) struct Wanted {
    pub(super) shard: ShardId,
    /// What it continues.
    pub(super) parent: Option<ShardId>,
    /// Its lease as it was read; `None` where it has none yet.
    pub(super) lease: Option<Lease>,
}

/// A stream shard that is to be read here.
pub(super) struct Taken {
    pub(super) shard: ShardId,
    pub(super) held: HeldLease,
    pub(super) holding: Holding,
}

/// What is wanted, and the calls that are under way for it.
pub(super) struct Takings {
    shared: Arc<Shared>,
    fleet: Arc<Fleet>,
    wanted: VecDeque<Wanted>,
    under_way: FuturesUnordered<BoxFuture<'static, Result<Option<Taken>, LeaseError>>>,
}

impl Takings {
    pub(super) fn new(shared: Arc<Shared>, fleet: Arc<Fleet>, wanted: VecDeque<Wanted>) -> Self {
        Self { shared, fleet, wanted, under_way: FuturesUnordered::new() }
    }

    /// What came of the next one that is through: `Ok(None)` where it belongs to somebody else for now. After an error only
    /// what is under way comes to its end.
    pub(super) async fn next(&mut self) -> Option<Result<Option<Taken>, LeaseError>> {
        while self.under_way.len() < AT_ONCE
            && let Some(wanted) = self.wanted.pop_front()
        {
            self.under_way.push(Box::pin(take(Arc::clone(&self.shared), Arc::clone(&self.fleet), wanted)));
        }
        let taken = self.under_way.next().await;
        if let Some(Err(_)) = &taken {
            self.wanted.clear();
        }
        taken
    }
}

async fn take(shared: Arc<Shared>, fleet: Arc<Fleet>, wanted: Wanted) -> Result<Option<Taken>, LeaseError> {
    let Wanted { shard, parent, lease } = wanted;
    let lease = match lease {
        Some(lease) => lease,
        None => {
            let lease = Lease { parents: parent.into_iter().collect(), ..Lease::new(shared.name.lease(&shard)) };
            if !shared.leases.create(&lease).await? {
                return Ok(None);
            }
            counter!(names::LEASE_CHANGES, names::OUTCOME => "created").increment(1);
            fleet.created();
            lease
        }
    };
    if !fleet.may_take(&lease) {
        return Ok(None);
    }
    match fleet.take(&lease).await {
        Ok((held, holding)) => Ok(Some(Taken { shard, held, holding })),
        Err(LeaseError::Lost(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
