//! The cache protocol as a finite model, explored to the last state.
//!
//! `docs/model.md` says what is modelled and how to read a counterexample. The interleavings on a real server, which
//! draw from far more cases and exhaust none, are in `tests/interleavings`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod cell;
mod cells;
mod check;
mod database;
mod flaws;
mod guarantees;
mod invalidator;
mod limits;
mod progress;
mod reader;
mod shard;
mod step;
mod world;

use cell::Cell;
use cells::*;
use check::holds;
use database::Item;

#[test]
fn plain_holds() {
    holds(PLAIN);
    holds(PLAIN_KEPT);
    holds(Cell { name: "plain, deleted at the end", item: Item { deleted_by: 3 }, ..PLAIN });
}

#[test]
fn plain_holds_with_gaps_and_overflows() {
    holds(PLAIN_GAPS);
}

#[test]
fn settle_holds() {
    holds(SETTLE);
}

#[test]
fn versioned_holds_with_strong_loads() {
    holds(VERSIONED);
}

#[test]
fn versioned_holds_with_eventual_loads_that_tombstones_outlive() {
    holds(VERSIONED_EVENTUAL);
}

#[test]
fn refresh_holds() {
    holds(REFRESH_VERSION);
    holds(REFRESH_VERSION_POPULATES);
    holds(REFRESH_POSITION);
    holds(REFRESH_POSITION_POPULATES);
}

#[test]
fn nobody_hangs_and_nobody_is_misled_by_a_notice() {
    holds(followed(PLAIN, "plain, followed"));
    holds(followed_twice(PLAIN, "plain, followed twice"));
    holds(followed(VERSIONED, "versioned, followed"));
    holds(followed(REFRESH_VERSION_POPULATES, "refresh by version, populates, followed"));
}

#[test]
#[ignore = "takes minutes: for the release profile"]
fn wider_cells_hold() {
    holds(Cell { name: "plain, gaps, two commands at once", depth: 2, ..PLAIN_GAPS });
    holds(Cell { name: "settle, two commands at once", depth: 2, ..SETTLE });
    holds(Cell { name: "versioned, two commands at once", depth: 2, ..VERSIONED });
    holds(Cell { name: "versioned, values kept as stale", keep_stale: true, ..VERSIONED });
    holds(Cell { name: "versioned, deleted at the end", item: Item { deleted_by: 3 }, ..VERSIONED });
    holds(Cell { name: "versioned, eventual, values kept as stale", keep_stale: true, ..VERSIONED_EVENTUAL });
    holds(Cell { name: "versioned, eventual, deleted at the end", item: Item { deleted_by: 3 }, ..VERSIONED_EVENTUAL });
    holds(REFRESH_EVENTUAL);
    holds(followed_twice(VERSIONED, "versioned, followed twice"));
    holds(followed(SETTLE, "settle, followed"));
    holds(followed(PLAIN_GAPS, "plain, gaps, followed"));
    holds(followed(VERSIONED_EVENTUAL, "versioned, eventual, followed"));
    holds(followed_twice(REFRESH_VERSION_POPULATES, "refresh by version, populates, followed twice"));
}
