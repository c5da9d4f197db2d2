//! The matrix: what a schedule is about.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use ringtide_core::key::{KeySpace, Mode, Template};

/// A way of running a key space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cell {
    PlainOne,
    PlainMany,
    Settle,
    VersionedStrong,
    /// Eventual loads; nothing is evicted and nothing restarts.
    VersionedEventual,
    /// Eventual loads with evictions and restarts, which take floors with them: bounded only by the entry's lifetime.
    VersionedEventualLossy,
    /// Refreshes compared by stream positions; loads have no version.
    RefreshPosition,
    RefreshVersioned,
    /// Eventual loads; nothing is evicted and nothing restarts.
    RefreshVersionedEventual,
}

impl Cell {
    pub(crate) const ALL: [Cell; 9] = [
        Cell::PlainOne,
        Cell::PlainMany,
        Cell::Settle,
        Cell::VersionedStrong,
        Cell::VersionedEventual,
        Cell::VersionedEventualLossy,
        Cell::RefreshPosition,
        Cell::RefreshVersioned,
        Cell::RefreshVersionedEventual,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Cell::PlainOne => "plain, one item",
            Cell::PlainMany => "plain, three items",
            Cell::Settle => "settle, eventual",
            Cell::VersionedStrong => "versioned, strong",
            Cell::VersionedEventual => "versioned, eventual, nothing lost",
            Cell::VersionedEventualLossy => "versioned, eventual, evictions",
            Cell::RefreshPosition => "refresh by position, strong",
            Cell::RefreshVersioned => "refresh by version, strong",
            Cell::RefreshVersionedEventual => "refresh by version, eventual",
        }
    }

    /// Whether loads may return an older state.
    pub(crate) fn is_eventual(self) -> bool {
        match self {
            Cell::Settle | Cell::VersionedEventual | Cell::VersionedEventualLossy | Cell::RefreshVersionedEventual => {
                true
            }
            Cell::PlainOne
            | Cell::PlainMany
            | Cell::VersionedStrong
            | Cell::RefreshPosition
            | Cell::RefreshVersioned => false,
        }
    }

    /// Whether items have a version attribute that is compared.
    pub(crate) fn is_versioned(self) -> bool {
        match self {
            Cell::VersionedStrong
            | Cell::VersionedEventual
            | Cell::VersionedEventualLossy
            | Cell::RefreshVersioned
            | Cell::RefreshVersionedEventual => true,
            Cell::PlainOne | Cell::PlainMany | Cell::Settle | Cell::RefreshPosition => false,
        }
    }

    pub(crate) fn is_refresh(self) -> bool {
        matches!(self, Cell::RefreshPosition | Cell::RefreshVersioned | Cell::RefreshVersionedEventual)
    }

    /// Whether keys are evicted and the server comes back empty.
    pub(crate) fn loses_keys(self) -> bool {
        !matches!(self, Cell::VersionedEventual | Cell::RefreshVersionedEventual)
    }

    /// Whether the protocol promises that no entry is left stale.
    pub(crate) fn is_exact(self) -> bool {
        self != Cell::VersionedEventualLossy
    }

    /// The items that feed each key.
    pub(crate) fn feeds(self, across_items: bool, rng: &mut Rng) -> Vec<Vec<usize>> {
        let many = match self {
            Cell::PlainMany => true,
            Cell::Settle => rng.bool(),
            _ => across_items,
        };
        match (many, rng.u8(..3)) {
            (true, _) => vec![vec![0, 1, 2]],
            (false, 0) => vec![vec![0], vec![1]],
            (false, _) => vec![vec![0]],
        }
    }

    /// The key space; `tombstones` where floors outlive entries, as eventual loads need it.
    pub(crate) fn space(self, tombstones: bool, rng: &mut Rng) -> Arc<KeySpace> {
        let mode = match self {
            Cell::PlainOne | Cell::PlainMany | Cell::RefreshPosition => Mode::Plain,
            Cell::Settle => Mode::Settle { after: Duration::from_secs(2) },
            _ => Mode::Versioned {
                attribute: "version".to_owned(),
                tombstone: (self.is_eventual() && tombstones).then_some(LONG),
            },
        };
        Arc::new(KeySpace {
            mode,
            ttl: LONG,
            ttl_jitter: 0.0,
            negative_ttl: LONG,
            stale_while_revalidate: if rng.bool() { KEPT } else { Duration::ZERO },
            stale_if_error: if rng.u8(..3) == 0 { KEPT } else { Duration::ZERO },
            early_refresh: f64::from(rng.u8(..2)),
            ..KeySpace::new("fuzz", Template::parse("fuzz:{pk}").expect("a template"))
        })
    }
}

/// Longer than any schedule takes: nothing expires but by a step of the schedule.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

/// How long values are kept past their time; less than an entry lives, so that it can be told apart.
pub(crate) const KEPT: Duration = Duration::from_secs(1800);
