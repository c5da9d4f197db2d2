//! Pausing a table: its stream leases are taken under an owner that no worker is, and given back later.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::lease::{Checkpoint, HeldLease, Lease, LeaseError, LeaseStore, OwnerId, PAUSED_OWNER, StreamName};
use crate::lineage;
use crate::stream::{Listing, ShardId};

/// Rounds in which leases that others write meanwhile are tried for.
const ROUNDS: usize = 60;
/// Between two rounds: a worker writes a lease about once a second.
const BETWEEN: Duration = Duration::from_millis(50);
/// Between two looks while holders hand over.
const WHILE_ASKED: Duration = Duration::from_millis(250);

/// Why a stream could not be paused or resumed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PauseError {
    /// The lease table failed.
    #[error(transparent)]
    Leases(#[from] LeaseError),
    /// Somebody writes a lease all the time.
    #[error("{left} stream leases of {stream} change too often to be taken; try again")]
    Contended {
        /// The stream.
        stream: StreamName,
        /// Leases that were not taken.
        left: usize,
    },
}

/// The leases of one stream, all of them held under the pause.
#[derive(Debug)]
pub(crate) struct Paused {
    /// The leases as they were taken.
    pub(crate) leases: BTreeMap<ShardId, Lease>,
    /// The right to write each of them.
    pub(crate) held: BTreeMap<ShardId, HeldLease>,
    /// Whether the stream had been paused before.
    pub(crate) already: bool,
    /// Leases whose holders did not hand over, and may act under them until `worker.lease_timeout` is over.
    pub(crate) forced: usize,
}

/// The leases of one stream.
pub(crate) async fn leases_of(
    store: &dyn LeaseStore,
    stream: &StreamName,
) -> Result<BTreeMap<ShardId, Lease>, LeaseError> {
    let all = store.list().await?;
    let of_stream = all.into_iter().filter(|lease| lease.key.stream == *stream);
    Ok(of_stream.map(|lease| (lease.key.shard.clone(), lease)).collect())
}

/// Takes every lease of a stream, and creates those of stream shards that could be started otherwise.
///
/// Holders are asked first, and have `patience` to deliver what they have read and to store how far they got. Whoever has not
/// handed over then finds out by its next write that it lost its lease, and stores nothing any more; what it has delivered since
/// its last checkpoint is delivered again after the pause. `told` is called with the number of leases that are waited for.
pub(crate) async fn pause(
    store: &dyn LeaseStore,
    stream: &StreamName,
    listing: &Listing,
    patience: Duration,
    told: &mut (dyn FnMut(usize) + Send),
) -> Result<Paused, PauseError> {
    let first = leases_of(store, stream).await?;
    let already = !first.is_empty() && first.values().all(is_held_by_pause);
    let forced = ask(store, stream, patience, told).await?;
    let owner = OwnerId::paused();
    let mut held: BTreeMap<ShardId, HeldLease> = BTreeMap::new();
    let mut left = 0;
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(BETWEEN).await;
        }
        let leases = leases_of(store, stream).await?;
        let plan = lineage::plan(listing, &leases);
        left = 0;
        for (shard, parent) in plan.start.into_iter().filter(|(shard, _)| !leases.contains_key(shard)) {
            let parents = parent.into_iter().collect();
            store.create(&Lease { parents, owner: Some(owner.clone()), ..Lease::new(stream.lease(&shard)) }).await?;
            left += 1;
        }
        for (shard, lease) in &leases {
            if held.contains_key(shard) && is_held_by_pause(lease) {
                continue;
            }
            match store.take(lease, &owner).await {
                Ok(taken) => {
                    held.insert(shard.clone(), taken);
                }
                Err(LeaseError::Lost(_)) => left += 1,
                Err(error) => return Err(error.into()),
            }
        }
        // A consumer that was ending its stream shard may have created its child's lease: one round has to find nothing.
        let found = leases_of(store, stream).await?;
        let all = found.values().all(is_held_by_pause) && found.keys().all(|shard| held.contains_key(shard));
        if left == 0 && all {
            return Ok(Paused { leases: found, held, already, forced });
        }
    }
    Err(PauseError::Contended { stream: stream.clone(), left: left.max(1) })
}

/// Asks the holders to hand over to the pause, and waits for that; returns how many have not done it in time.
async fn ask(
    store: &dyn LeaseStore,
    stream: &StreamName,
    patience: Duration,
    told: &mut (dyn FnMut(usize) + Send),
) -> Result<usize, PauseError> {
    let began = Instant::now();
    loop {
        let leases = leases_of(store, stream).await?;
        let is_open = |lease: &&Lease| {
            let held = lease.holder().is_some_and(|holder| holder.as_str() != PAUSED_OWNER);
            held && lease.checkpoint != Checkpoint::ShardEnd
        };
        let open: Vec<&Lease> = leases.values().filter(is_open).collect();
        if open.is_empty() || began.elapsed() >= patience {
            return Ok(open.len());
        }
        told(open.len());
        for lease in open {
            // Whoever was asked for it by another worker hands over to that one first.
            store.ask(lease, &OwnerId::paused()).await?;
        }
        tokio::time::sleep(WHILE_ASKED).await;
    }
}

/// Whether a lease is the pause's, and nobody is still about to hand it over.
fn is_held_by_pause(lease: &Lease) -> bool {
    lease.is_paused() && lease.leaving.is_none()
}

/// Gives every lease of a stream back that the pause holds; returns how many there were.
///
/// Workers start once none is paused any more.
pub(crate) async fn resume(store: &dyn LeaseStore, stream: &StreamName) -> Result<usize, PauseError> {
    let mut resumed = 0;
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(BETWEEN).await;
        }
        let leases = leases_of(store, stream).await?;
        let paused: Vec<&Lease> = leases.values().filter(|lease| lease.is_paused()).collect();
        if paused.is_empty() {
            return Ok(resumed);
        }
        for lease in paused {
            if give_back(store, lease, &OwnerId::paused()).await? {
                resumed += 1;
            }
        }
    }
    Err(PauseError::Contended { stream: stream.clone(), left: 1 })
}

/// Makes a lease free as it was last read; `false` where somebody has written it meanwhile.
pub(crate) async fn give_back(store: &dyn LeaseStore, lease: &Lease, by: &OwnerId) -> Result<bool, LeaseError> {
    let given = match store.take(lease, by).await {
        Ok(held) => store.release(held).await,
        Err(error) => Err(error),
    };
    match given {
        Ok(()) => Ok(true),
        Err(LeaseError::Lost(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::MemoryLeases;
    use crate::stream::StreamShard;

    fn stream() -> StreamName {
        StreamName::of(&crate::scripted::stream()).unwrap()
    }

    fn listing(shards: &[(&str, Option<&str>)]) -> Listing {
        let shard = |(id, parent): &(&str, Option<&str>)| StreamShard {
            id: (*id).into(),
            parent: parent.map(ShardId::from),
            starting: None,
        };
        Listing { shards: shards.iter().map(shard).collect(), ..Listing::default() }
    }

    async fn paused(store: &MemoryLeases, listing: &Listing, patience: u64) -> Paused {
        pause(store, &stream(), listing, Duration::from_secs(patience), &mut |_| {}).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn every_lease_is_taken_and_the_owner_can_write_nothing_more() {
        let (store, name) = (MemoryLeases::new(), stream());
        let lease = Lease::new(name.lease(&"a".into()));
        store.create(&lease).await.unwrap();
        let mut theirs = store.take(&lease, &OwnerId::named("worker")).await.unwrap();
        let listing = listing(&[("a", None), ("b", None), ("c", Some("b"))]);
        let first = paused(&store, &listing, 0).await;
        assert_eq!((first.already, first.forced), (false, 1));
        let shards: Vec<&str> = first.held.keys().map(ShardId::as_str).collect();
        assert_eq!(shards, ["a", "b"], "c waits for b anyway");
        assert!(matches!(store.renew(&mut theirs).await, Err(LeaseError::Lost(_))));
        assert!(paused(&store, &Listing::default(), 0).await.already);

        assert_eq!(resume(&store, &name).await.unwrap(), 2);
        assert!(store.list().await.unwrap().iter().all(|lease| lease.owner.is_none()));
        assert_eq!(resume(&store, &name).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_is_asked_first_and_stores_how_far_it_got() {
        let (store, name) = (MemoryLeases::new(), stream());
        let lease = Lease::new(name.lease(&"a".into()));
        store.create(&lease).await.unwrap();
        let mut theirs = store.take(&lease, &OwnerId::named("worker")).await.unwrap();
        let listing = listing(&[("a", None)]);
        let pausing = paused(&store, &listing, 60);
        let handing_over = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            let at = Checkpoint::At("7".parse().unwrap());
            store.checkpoint(&mut theirs, &at, &std::collections::BTreeSet::new()).await.unwrap();
            store.release(theirs).await.unwrap();
            at
        };
        let (paused, at) = tokio::join!(pausing, handing_over);
        assert_eq!((paused.forced, paused.leases.values().next().unwrap().checkpoint), (0, at));
    }

    #[tokio::test(start_paused = true)]
    async fn leases_of_other_streams_are_left_alone() {
        let store = MemoryLeases::new();
        let arn = crate::scripted::ARN.replace("products", "orders");
        let other = StreamName::of(&ringtide_core::record::stream_of_arn(&arn).unwrap()).unwrap();
        store.create(&Lease::new(other.lease(&"a".into()))).await.unwrap();
        paused(&store, &listing(&[("a", None)]), 1).await;
        let leases = store.list().await.unwrap();
        assert_eq!(leases.iter().filter(|lease| lease.is_paused()).count(), 1);
    }
}
