//! The ways of running a key space, with everything that may go wrong in each.

use super::cell::{Bounds, Cell, Entries, Order, Route};

pub(crate) const PLAIN: Cell = Cell::plain("plain");

pub(crate) const PLAIN_KEPT: Cell = Cell { keep_stale: true, ..Cell::plain("plain, values kept as stale") };

pub(crate) const PLAIN_GAPS: Cell = Cell { gaps: true, depth: 1, ..Cell::plain("plain, gaps and overflows") };

/// Loads may lag, and commands are carried out twice.
pub(crate) const SETTLE: Cell = Cell { eventual: true, settles: true, depth: 1, ..Cell::plain("settle") };

pub(crate) const VERSIONED: Cell =
    Cell { route: Route::Versioned, order: Order::Always, depth: 1, ..Cell::plain("versioned, strong loads") };

/// Loads may lag; entries and tombstones live for longer than they do.
pub(crate) const VERSIONED_EVENTUAL: Cell = Cell {
    name: "versioned, eventual loads",
    eventual: true,
    tombstones: true,
    entries: Entries::OutliveLag,
    order: Order::AfterValues,
    ..VERSIONED
};

pub(crate) const REFRESH_VERSION: Cell = Cell {
    route: Route::RefreshByVersion { populate: false },
    order: Order::AfterValues,
    ..Cell::plain("refresh by version")
};

pub(crate) const REFRESH_VERSION_POPULATES: Cell =
    Cell { route: Route::RefreshByVersion { populate: true }, ..Cell::plain("refresh by version, populates") };

pub(crate) const REFRESH_POSITION: Cell =
    Cell { route: Route::RefreshByPosition { populate: false }, ..Cell::plain("refresh by position") };

pub(crate) const REFRESH_POSITION_POPULATES: Cell =
    Cell { route: Route::RefreshByPosition { populate: true }, ..Cell::plain("refresh by position, populates") };

pub(crate) const REFRESH_EVENTUAL: Cell = Cell {
    name: "refresh by version, eventual loads",
    eventual: true,
    tombstones: true,
    entries: Entries::OutliveLag,
    ..REFRESH_VERSION
};

/// One read of each reader and a take-over, every wait followed to its end.
pub(crate) const fn followed(cell: Cell, name: &'static str) -> Cell {
    Cell { name, bounds: Bounds::Ending { flights: 1, takeovers: 1 }, order: Order::Free, depth: 1, ..cell }
}

/// Two reads of each reader, so that a notice may be about an earlier one.
pub(crate) const fn followed_twice(cell: Cell, name: &'static str) -> Cell {
    Cell { bounds: Bounds::Ending { flights: 2, takeovers: 0 }, ..followed(cell, name) }
}
