//! Stream leases: who reads which stream shard, and how far it got.
//!
//! A lease is written only on condition that its counter is the one last read, and every write adds 1 to it, so that of
//! two writers one fails. Whoever does not see the counter change for the fail-over time on its own monotonic clock
//! may take the lease. No wall clock takes part.
//!
//! A worker that has more leases than others is asked for some: the request names the asker as owner and the holder as
//! the one that leaves, without counting, so that the holder's writes go on. The holder delivers what it has read, stores
//! how far it got, and strikes itself out.

pub(crate) mod balance;
mod dynamodb;
pub(crate) mod fleet;
mod item;
pub(crate) mod keeper;
mod key;
mod memory;
mod sight;

#[cfg(test)]
mod contract;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use async_trait::async_trait;
use ringtide_core::record::SequenceNumber;
use tokio_util::sync::CancellationToken;

use crate::stream::ShardId;

/// The owner of leases that an operator paused: no worker ever takes such a lease, it never counts as expired, and while a
/// table has one, no worker starts to read any other stream shard of the table.
pub const PAUSED_OWNER: &str = "ringtide:paused";

pub use dynamodb::DynamoDbLeases;
pub use key::{InvalidLeaseKey, LeaseKey, StreamName};
pub use memory::MemoryLeases;

/// Where stream leases are kept: a DynamoDB table in the Kinesis Client Library's schema, or memory in tests.
///
/// Reads are strongly consistent. A write that fails with [`LeaseError::Unavailable`] may have been carried out.
#[async_trait]
pub trait LeaseStore: Send + Sync + 'static {
    /// Creates the table where it is missing and waits until it can be used.
    ///
    /// # Errors
    /// A table that is not one of leases.
    async fn prepare(&self) -> Result<(), LeaseError>;

    /// Reads all leases of all streams. Rows that are not leases are left out.
    ///
    /// # Errors
    /// Only those of the call; a lease that cannot be read is logged and left out.
    async fn list(&self) -> Result<Vec<Lease>, LeaseError>;

    /// Stores a new lease, for its owner where it names one. `false` where there is one already, which stays as it is.
    ///
    /// # Errors
    /// Those of the call.
    async fn create(&self, lease: &Lease) -> Result<bool, LeaseError>;

    /// Tells under which name a stream's leases stand in the table: rows that are keyed by stream shard alone, as those of
    /// an application for a single stream, are taken for rows of this stream from then on.
    ///
    /// # Errors
    /// Those of the call.
    async fn adopt(&self, stream: &StreamName) -> Result<StreamName, LeaseError> {
        Ok(stream.clone())
    }

    /// Asks the holder of a lease, as it was last read, to hand it over to `owner`. `false` where it has another holder by
    /// now, was asked already, is free, or has ended. The counter stays as it is.
    ///
    /// # Errors
    /// Those of the call.
    async fn ask(&self, lease: &Lease, owner: &OwnerId) -> Result<bool, LeaseError>;

    /// Takes back `owner`'s request for a lease, as it was last read: its holder keeps it, or frees it where it has learned of
    /// the request already. `false` where it was handed over by now, or is asked for by somebody else. The counter stays as
    /// it is.
    ///
    /// # Errors
    /// Those of the call.
    async fn withdraw(&self, lease: &Lease, owner: &OwnerId) -> Result<bool, LeaseError>;

    /// Takes a lease as it was last read, whoever owned it then.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] where it has changed since.
    async fn take(&self, lease: &Lease, owner: &OwnerId) -> Result<HeldLease, LeaseError>;

    /// Shows that the owner lives.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] where another owner took it.
    async fn renew(&self, held: &mut HeldLease) -> Result<(), LeaseError>;

    /// Stores how far the stream shard was delivered, and its children where it ended; renews as well.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] where another owner took it: nothing was stored.
    async fn checkpoint(
        &self,
        held: &mut HeldLease,
        checkpoint: &Checkpoint,
        children: &BTreeSet<ShardId>,
    ) -> Result<(), LeaseError>;

    /// Gives the lease up, so that a successor can take it at once: whoever asked for it, or anybody.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] where another owner took it.
    async fn release(&self, held: HeldLease) -> Result<(), LeaseError>;

    /// Deletes a lease as it was last read.
    ///
    /// # Errors
    /// [`LeaseError::Lost`] where it has changed since.
    async fn delete(&self, lease: &Lease) -> Result<(), LeaseError>;
}

/// Names a worker among those that share a lease table: no two that run at once may have the same.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OwnerId(Arc<str>);

impl OwnerId {
    /// Uses a name that somebody keeps unique. A worker that restarts under it goes on with its leases at once.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(Arc::from(name))
    }

    /// Makes up a name for this process: application, process id and a random part. After a crash its leases have to
    /// expire before another process takes them.
    #[must_use]
    pub fn of_process(application: &str) -> Self {
        Self(Arc::from(format!("{application}:{}:{:016x}", std::process::id(), fastrand::u64(..))))
    }

    /// The owner that stands for a pause, see [`PAUSED_OWNER`].
    #[must_use]
    pub fn paused() -> Self {
        Self::named(PAUSED_OWNER)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// How far a stream shard was delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checkpoint {
    /// Nothing yet: from the oldest record that is kept.
    TrimHorizon,
    /// Nothing yet: from what comes next.
    Latest,
    /// Up to and with this record.
    At(SequenceNumber),
    /// To its end.
    ShardEnd,
}

impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TrimHorizon => f.write_str("TRIM_HORIZON"),
            Self::Latest => f.write_str("LATEST"),
            Self::At(sequence) => sequence.fmt(f),
            Self::ShardEnd => f.write_str("SHARD_END"),
        }
    }
}

/// One lease as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its stream and stream shard.
    pub key: LeaseKey,
    /// Who reads the stream shard, or is to read it once `leaving` has given it up; `None` where it is free.
    pub owner: Option<OwnerId>,
    /// Who still reads the stream shard and was asked to hand it over to the owner.
    pub leaving: Option<OwnerId>,
    /// Changes with every write.
    pub counter: u64,
    /// How far it was delivered.
    pub checkpoint: Checkpoint,
    /// How often the owner changed since the last checkpoint.
    pub switches: u64,
    /// The stream shards that it continues: one or none.
    pub parents: BTreeSet<ShardId>,
    /// The stream shards that continue it, known once it ended.
    pub children: BTreeSet<ShardId>,
}

impl Lease {
    /// A free lease that was never read from.
    #[must_use]
    pub fn new(key: LeaseKey) -> Self {
        Self {
            key,
            owner: None,
            leaving: None,
            counter: 0,
            checkpoint: Checkpoint::TrimHorizon,
            switches: 0,
            parents: BTreeSet::new(),
            children: BTreeSet::new(),
        }
    }

    /// Who reads the stream shard, and is the only one to write its lease.
    #[must_use]
    pub fn holder(&self) -> Option<&OwnerId> {
        self.leaving.as_ref().or(self.owner.as_ref())
    }

    /// Whether an operator paused it.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.owner.as_ref().is_some_and(|owner| owner.as_str() == PAUSED_OWNER)
    }
}

/// The right to read a stream shard and to write its checkpoint, until another owner takes it.
#[derive(Debug)]
pub struct HeldLease {
    /// Its stream and stream shard.
    key: LeaseKey,
    /// The owner that holds it.
    owner: OwnerId,
    /// The counter last read or written.
    counter: u64,
    /// How far it was delivered when it was taken.
    checkpoint: Checkpoint,
    /// What others see of it while it is held.
    trace: Arc<Trace>,
}

/// What the keeping of a lease shows to whoever took it.
#[derive(Debug)]
pub(crate) struct Trace {
    /// Cancelled once a write shows that somebody asked for the lease.
    pub(crate) asked: CancellationToken,
    /// The counter last written, as far as it is known.
    pub(crate) counter: AtomicU64,
    /// The task that writes it broke off.
    pub(crate) broken: AtomicBool,
}

impl HeldLease {
    /// The lease as it is after `owner` has taken it.
    fn taken(lease: &Lease, owner: &OwnerId) -> Self {
        let checkpoint = match lease.checkpoint {
            // Nobody knows since when it has stood there, nor what came meanwhile.
            Checkpoint::Latest => Checkpoint::TrimHorizon,
            Checkpoint::TrimHorizon | Checkpoint::At(_) | Checkpoint::ShardEnd => lease.checkpoint,
        };
        Self {
            key: lease.key.clone(),
            owner: owner.clone(),
            counter: lease.counter.saturating_add(1),
            checkpoint,
            trace: Arc::new(Trace {
                asked: CancellationToken::new(),
                counter: AtomicU64::new(lease.counter.saturating_add(1)),
                broken: AtomicBool::new(false),
            }),
        }
    }

    /// The lease as it stands under its holder's name, where nobody reads by it any more.
    fn standing(lease: &Lease, holder: &OwnerId) -> Self {
        let held = Self { counter: lease.counter, ..Self::taken(lease, holder) };
        if lease.leaving.as_ref() == Some(holder) {
            held.trace.asked.cancel();
        }
        held
    }

    /// Its stream and stream shard.
    #[must_use]
    pub const fn key(&self) -> &LeaseKey {
        &self.key
    }

    /// From where the stream shard is to be read: how far it was delivered when the lease was taken.
    ///
    /// A lease that stands at LATEST was never checkpointed, and is read from the oldest record that is kept.
    #[must_use]
    pub const fn taken_at(&self) -> Checkpoint {
        self.checkpoint
    }

    /// What its keeping shows.
    pub(crate) fn trace(&self) -> Arc<Trace> {
        Arc::clone(&self.trace)
    }

    /// Takes in what a write left behind: somebody may have asked for the lease.
    fn written(&mut self, leaving: Option<&OwnerId>) {
        self.counter = self.counter.saturating_add(1);
        self.trace.counter.store(self.counter, Ordering::Release);
        if leaving == Some(&self.owner) {
            self.trace.asked.cancel();
        }
    }

    /// Whether a lease is what this one's next write leaves behind: an answer may get lost after the write was made.
    fn is_written_as(&self, found: &Lease) -> bool {
        found.holder() == Some(&self.owner) && Some(found.counter) == self.counter.checked_add(1)
    }
}

/// A failed call of the lease store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The lease is not as it was last read: somebody else wrote it.
    #[error("the stream lease {0} is held by somebody else")]
    Lost(LeaseKey),
    /// The store does not answer, or refuses for now.
    #[error("the lease table cannot be used: {0}")]
    Unavailable(String),
    /// The store can never be used like this.
    #[error("the lease table is unfit: {0}")]
    Unfit(String),
}
