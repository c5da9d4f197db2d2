//! Pausing a table: its stream leases are taken under an owner that no worker is, and given back later.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::lease::{HeldLease, Lease, LeaseError, LeaseStore, OwnerId, StreamName};
use crate::lineage;
use crate::stream::{Listing, ShardId};

/// Rounds in which leases that others write meanwhile are tried for.
const ROUNDS: usize = 60;
/// Between two rounds: a worker writes a lease about once a second.
const BETWEEN: Duration = Duration::from_millis(50);

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
/// A worker that reads under a lease finds out by its next write, and stores nothing any more. What it has delivered since its
/// last checkpoint is delivered again after the pause.
pub(crate) async fn pause(
    store: &dyn LeaseStore,
    stream: &StreamName,
    listing: &Listing,
) -> Result<Paused, PauseError> {
    let owner = OwnerId::paused();
    let mut held: BTreeMap<ShardId, HeldLease> = BTreeMap::new();
    let mut already = None;
    let mut left = 0;
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(BETWEEN).await;
        }
        let leases = leases_of(store, stream).await?;
        let before = *already.get_or_insert_with(|| !leases.is_empty() && leases.values().all(Lease::is_paused));
        let unleased =
            lineage::plan(listing, &leases).start.into_iter().filter(|(shard, _)| !leases.contains_key(shard));
        left = 0;
        for (shard, parent) in unleased {
            let parents = parent.into_iter().collect();
            store.create(&Lease { parents, owner: Some(owner.clone()), ..Lease::new(stream.lease(&shard)) }).await?;
            left += 1;
        }
        for (shard, lease) in &leases {
            if held.contains_key(shard) && lease.is_paused() {
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
        if left == 0 && found.values().all(Lease::is_paused) && found.keys().all(|shard| held.contains_key(shard)) {
            return Ok(Paused { leases: found, held, already: before });
        }
    }
    Err(PauseError::Contended { stream: stream.clone(), left: left.max(1) })
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
        let shard =
            |(id, parent): &(&str, Option<&str>)| StreamShard { id: (*id).into(), parent: parent.map(ShardId::from) };
        Listing { shards: shards.iter().map(shard).collect(), ..Listing::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn every_lease_is_taken_and_the_owner_can_write_nothing_more() {
        let (store, name) = (MemoryLeases::new(), stream());
        let lease = Lease::new(name.lease(&"a".into()));
        store.create(&lease).await.unwrap();
        let mut theirs = store.take(&lease, &OwnerId::named("worker")).await.unwrap();
        let paused = pause(&store, &name, &listing(&[("a", None), ("b", None), ("c", Some("b"))])).await.unwrap();
        assert!(!paused.already);
        let shards: Vec<&str> = paused.held.keys().map(ShardId::as_str).collect();
        assert_eq!(shards, ["a", "b"], "c waits for b anyway");
        assert!(matches!(store.renew(&mut theirs).await, Err(LeaseError::Lost(_))));
        let again = pause(&store, &name, &Listing::default()).await.unwrap();
        assert!(again.already);

        assert_eq!(resume(&store, &name).await.unwrap(), 2);
        assert!(store.list().await.unwrap().iter().all(|lease| lease.owner.is_none()));
        assert_eq!(resume(&store, &name).await.unwrap(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn leases_of_other_streams_are_left_alone() {
        let (store, name) = (MemoryLeases::new(), stream());
        let arn = crate::scripted::ARN.replace("products", "orders");
        let other = StreamName::of(&ringtide_core::record::stream_of_arn(&arn).unwrap()).unwrap();
        store.create(&Lease::new(other.lease(&"a".into()))).await.unwrap();
        pause(&store, &name, &listing(&[("a", None)])).await.unwrap();
        let leases = store.list().await.unwrap();
        assert_eq!(leases.iter().filter(|lease| lease.is_paused()).count(), 1);
    }
}
