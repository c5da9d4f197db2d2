//! What one run of the model is about: a way of running a key space, what may go wrong, and a planted defect.

use super::database::{Commit, Item, Version};

/// A configuration of the model; exploring it is one test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    pub(crate) item: Item,
    pub(crate) route: Route,
    /// Loads may return an older state, down to the horizon.
    pub(crate) eventual: bool,
    /// Commands are carried out once more when no load can lag behind them (mode settle).
    pub(crate) settles: bool,
    /// Floors are kept in tombstones (mode versioned where loads may lag).
    pub(crate) tombstones: bool,
    /// Values that are invalidated are kept for serving stale.
    pub(crate) keep_stale: bool,
    /// When an entry may be lost. A lock may always be lost, by expiry as by eviction.
    pub(crate) entries: Entries,
    /// Records may be trimmed before they are read, and queued commands be given up for a flush.
    pub(crate) gaps: bool,
    /// Commands that one invalidator has under way at once, in no order; refreshes go one at a time.
    pub(crate) depth: u32,
    /// What must not be served after something newer.
    pub(crate) order: Order,
    /// How much may happen.
    pub(crate) bounds: Bounds,
    pub(crate) flaw: Flaw,
}

/// What a record asks of the ring shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// An invalidation without a version: modes plain and settle.
    Drop,
    /// An invalidation that compares the version attribute: mode versioned.
    Versioned,
    /// A refresh that compares the version attribute.
    RefreshByVersion { populate: bool },
    /// A refresh that compares stream positions; loads have no version.
    RefreshByPosition { populate: bool },
}

/// When an entry is lost, by its time to live, by eviction, or by an empty restart (which loses the lock too).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entries {
    /// At any moment.
    Evicted,
    /// Only when no load can lag behind what the entry knows.
    OutliveLag,
}

/// What must not be served after something newer (guarantee 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Anything may.
    Free,
    /// Nothing older than a value that was served. That there is no item has no version.
    AfterValues,
    /// Nothing older than a value that was served, or than the absence of one.
    Always,
}

/// How much may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bounds {
    /// Any number of reads, take-overs and losses: runs may go round in circles.
    Endless,
    /// So many reads of each reader and so many take-overs: every run comes to an end.
    Ending { flights: u8, takeovers: u8 },
}

/// What is wrong with the protocol under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// Nothing: the product.
    None,
    /// `SET … NX` for the lock, plain `SET` and `DEL`; the lock is deleted by whoever ends his load.
    Textbook,
    /// A fill does not look whether its lease is still there.
    FillWithoutToken,
    /// An invalidation leaves the lease alone.
    DropWithoutVoiding,
    /// The floor is raised in the entry alone, which may be lost.
    FloorInEntryAlone,
    /// A lease is given out without looking whether there is one (`SET` without `NX`).
    LeaseWithoutNx,
    /// A lock has no time to live.
    LockWithoutExpiry,
    /// A waiter has no timer.
    NoTimer,
    /// A notice is believed whichever lease it is about.
    AnyNoticeBelieved,
    /// A refresh does not look at versions.
    RefreshWithoutComparing,
    /// A refresh has no deadline.
    RefreshWithoutDeadline,
    /// The checkpoint is stored when a record is read.
    CheckpointBeforeDelivery,
    /// After a gap the invalidator goes on without a flush.
    GapIgnored,
    /// The checkpoint does not wait for the flush after a gap.
    GapNotAwaited,
    /// A flush removes entries before locks.
    FlushEntriesFirst,
    /// A load that may lag is said to have seen the floor.
    ProofClaimed,
}

impl Cell {
    /// Mode plain with strong loads; everything else is told by its difference from this.
    pub(crate) const fn plain(name: &'static str) -> Cell {
        Cell {
            name,
            item: Item { deleted_by: 2 },
            route: Route::Drop,
            eventual: false,
            settles: false,
            tombstones: false,
            keep_stale: false,
            entries: Entries::Evicted,
            gaps: false,
            depth: 2,
            order: Order::Free,
            bounds: Bounds::Endless,
            flaw: Flaw::None,
        }
    }

    /// Whether a refresh and not an invalidation is what a record asks for.
    pub(crate) fn is_refresh(&self) -> bool {
        matches!(self.route, Route::RefreshByVersion { .. } | Route::RefreshByPosition { .. })
    }

    /// Whether a command may leave a lease where it is, and raise its floor.
    pub(crate) fn raises_floors(&self) -> bool {
        match self.route {
            Route::Versioned => true,
            Route::RefreshByVersion { populate } | Route::RefreshByPosition { populate } => !populate,
            Route::Drop => false,
        }
    }

    /// The version of a record's command.
    pub(crate) fn command_version(&self, record: Commit) -> Version {
        match self.route {
            Route::Drop => Version::NONE,
            Route::Versioned | Route::RefreshByVersion { .. } => self.item.record_version(record),
            Route::RefreshByPosition { .. } => self.item.position(record),
        }
    }

    /// The version of what a load returns.
    pub(crate) fn loaded_version(&self, commit: Commit) -> Version {
        match self.route {
            Route::Drop | Route::RefreshByPosition { .. } => Version::NONE,
            Route::Versioned | Route::RefreshByVersion { .. } => self.item.loaded_version(commit),
        }
    }
}
