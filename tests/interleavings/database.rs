//! The simulated database: items with their whole history, so that a load may lag.

use fastrand::Rng;
use ringtide_core::version::Version;

/// One state of an item, from its commit up to the next one.
struct Commit {
    at: u64,
    present: bool,
    /// The version attribute; for a deletion the one of the item that it removed.
    number: u128,
}

/// An item; its commits are counted from 0, the state before the schedule begins.
pub(crate) struct Item {
    commits: Vec<Commit>,
    /// The commit with which a new stream begins.
    reopened: usize,
}

impl Item {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let first = Commit { at: 0, present: rng.bool(), number: rng.u128(0..3) };
        Self { commits: vec![first], reopened: rng.usize(1..8) }
    }

    /// Writes the item, or deletes it.
    pub(crate) fn commit(&mut self, at: u64, rng: &mut Rng) {
        let last = &self.commits[self.latest()];
        let present = !last.present || rng.u8(..4) != 0;
        let number = last.number + if present { rng.u128(1..4) } else { 0 };
        self.commits.push(Commit { at, present, number });
    }

    pub(crate) fn latest(&self) -> usize {
        self.commits.len() - 1
    }

    pub(crate) fn committed_at(&self, commit: usize) -> u64 {
        self.commits[commit].at
    }

    pub(crate) fn is_present(&self, commit: usize) -> bool {
        self.commits[commit].present
    }

    /// The commit that a read of the past finds.
    pub(crate) fn as_of(&self, at: u64) -> usize {
        self.commits.iter().rposition(|commit| commit.at <= at).unwrap_or(0)
    }

    /// Whether the item is absent in some state from this commit on.
    pub(crate) fn is_absent_since(&self, commit: usize) -> bool {
        self.commits[commit..].iter().any(|commit| !commit.present)
    }

    /// What a load of this state tells: nothing where there is no item to tell it.
    pub(crate) fn loaded_version(&self, commit: usize) -> Version {
        let commit = &self.commits[commit];
        if commit.present { Version::from_number(commit.number) } else { Version::NONE }
    }

    /// What the record of this commit tells by its version attribute.
    pub(crate) fn record_version(&self, commit: usize) -> Version {
        let Commit { present, number, .. } = self.commits[commit];
        let version = Version::from_number(number);
        if present { version } else { version.just_above() }
    }

    /// What the record of this commit tells by its place; the second stream starts with lower sequence numbers.
    pub(crate) fn record_position(&self, commit: usize) -> Version {
        let (created, digits) = match commit < self.reopened {
            true => (1_000, 900_000_000_000_000_000_000_u128),
            false => (2_000, 99_999_999_999_999_999_990),
        };
        let sequence = (digits + commit as u128).to_string().parse().expect("decimal digits");
        Version::from_sequence(created, &sequence)
    }
}
