//! What is not guaranteed: each limit is shown by a way to it, so that it is noticed when it moves.

use super::cell::{Cell, Entries, Order};
use super::cells::*;
use super::check::breaks;
use super::guarantees::{NEVER_BACK, NOTHING_STALE};

#[test]
fn an_evicted_tombstone_lets_a_load_that_lags_store_what_is_below_its_floor() {
    let cell = Cell { name: "versioned, eventual, evictions", entries: Entries::Evicted, ..VERSIONED_EVENTUAL };
    breaks(cell, NOTHING_STALE);
}

#[test]
fn a_load_that_lags_may_be_served_after_the_absence_of_its_item() {
    let cell = Cell { name: "versioned, eventual, absence counts", order: Order::Always, ..VERSIONED_EVENTUAL };
    breaks(cell, NEVER_BACK);
}

#[test]
fn a_replayed_refresh_may_go_back_behind_an_absence_that_was_loaded() {
    let cell = Cell { name: "refresh by version, absence counts", order: Order::Always, ..REFRESH_VERSION };
    breaks(cell, NEVER_BACK);
}

#[test]
fn a_replayed_refresh_may_go_back_where_it_populates_or_loads_have_no_version() {
    for cell in [REFRESH_VERSION_POPULATES, REFRESH_POSITION, REFRESH_POSITION_POPULATES] {
        breaks(Cell { order: Order::AfterValues, ..cell }, NEVER_BACK);
    }
}
