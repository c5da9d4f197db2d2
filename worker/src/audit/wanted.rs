//! What an audit is asked for.

use std::collections::BTreeSet;
use std::time::Duration;

/// How many of the listed entries are looked at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Sample {
    /// All of them.
    All,
    /// So many, chosen at random.
    Count(usize),
    /// This part of them, 0 to 1, chosen at random.
    Part(f64),
}

/// What an audit is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Wanted {
    /// Key spaces by name; empty for all.
    pub(crate) spaces: BTreeSet<String>,
    /// The table that feeds them; `None` for any.
    pub(crate) table: Option<String>,
    pub(crate) sample: Sample,
    /// How long after it was found an entry that seems stale is looked at again.
    pub(crate) lag: Duration,
    /// Between two pages of names on one ring shard.
    pub(crate) pause: Duration,
    /// Fields that are not compared.
    pub(crate) ignored: BTreeSet<String>,
    /// Whether what is wrong is invalidated.
    pub(crate) repair: Repair,
}

/// Whether what is wrong is invalidated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repair {
    /// It is left as it is.
    No,
    /// It is left as it is, and counted.
    DryRun,
    /// It is invalidated.
    Yes,
}
