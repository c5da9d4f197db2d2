//! Replay: setting the checkpoints of a stream back, so that its records are delivered again.
//!
//! DynamoDB Streams opens no iterator at a time, so that the place is found by reading: [`find`]. What is written into the
//! lease table follows from that by a pure decision: [`rewind`].

pub(crate) mod find;
pub(crate) mod rewind;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringtide_core::record::SequenceNumber;

use crate::lease::{Checkpoint, Lease, LeaseStore, OwnerId, StreamName};
use crate::pausing::{self, PauseError};
use crate::stream::{Listing, ShardId};

use rewind::Write;

/// From where on records are delivered again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    /// From this second on (unix): a stream's timestamps have whole seconds.
    Second(u64),
    /// From this sequence number on, included.
    Sequence(SequenceNumber),
}

/// Sets checkpoints back as planned from these targets, while the stream is paused; returns what was written.
///
/// Workers that read it have `patience` to hand over. A stream that had been paused before stays paused. Where this fails in the middle, the stream stays paused, too: what was
/// not written can be written by the same call, and workers go on after a resume.
pub(crate) async fn write(
    store: &dyn LeaseStore,
    stream: &StreamName,
    listing: &Listing,
    targets: &BTreeMap<ShardId, Checkpoint>,
    patience: Duration,
) -> Result<Vec<Write>, PauseError> {
    let mut paused = pausing::pause(store, stream, listing, patience, &mut |_| {}).await?;
    let writes = rewind::rewind(listing, &paused.leases, targets);
    for write in &writes {
        match paused.held.get_mut(&write.shard) {
            Some(held) => store.checkpoint(held, &write.to, &BTreeSet::new()).await?,
            None => {
                let lease = Lease {
                    owner: Some(OwnerId::paused()),
                    checkpoint: write.to,
                    parents: write.parent.iter().cloned().collect(),
                    ..Lease::new(stream.lease(&write.shard))
                };
                store.create(&lease).await?;
            }
        }
    }
    if !paused.already {
        pausing::resume(store, stream).await?;
    }
    Ok(writes)
}
