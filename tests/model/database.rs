//! The database: one item, written a few times, with its whole history so that a load may lag.

/// A write, counted from 1; 0 is the state before the first one.
pub(crate) type Commit = u8;

/// How often the item is written.
pub(crate) const WRITES: Commit = 3;

/// The item's history, as far as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Database {
    /// The last write.
    pub(crate) latest: Commit,
    /// What every load that begins from now on has seen, however much it lags. Time is not modelled but through this:
    /// what is said to come later than the longest lag comes when the horizon has risen.
    pub(crate) horizon: Commit,
}

/// What states of the item are compared by: `shared/src/version.rs` with small numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Version(u8);

impl Version {
    /// No version, lower than every other.
    pub(crate) const NONE: Version = Version(0);

    pub(crate) fn is_higher_than(self, other: Version) -> bool {
        self > other
    }
}

/// The item as it is written in one run of the model.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Item {
    /// The write that deletes it; the next one creates it again.
    pub(crate) deleted_by: Commit,
}

impl Item {
    /// Whether the item exists after a write.
    pub(crate) fn is_present(self, commit: Commit) -> bool {
        commit != self.deleted_by
    }

    /// The version attribute that a load finds: nothing where there is no item.
    pub(crate) fn loaded_version(self, commit: Commit) -> Version {
        if self.is_present(commit) { Version(2 * commit + 2) } else { Version::NONE }
    }

    /// The version that a record tells: a deletion counts as just above the version that it removed.
    pub(crate) fn record_version(self, commit: Commit) -> Version {
        if self.is_present(commit) { Version(2 * commit + 2) } else { Version(2 * commit + 1) }
    }

    /// A record's place in the stream, where there is no version attribute.
    pub(crate) fn position(self, commit: Commit) -> Version {
        Version(commit)
    }
}
