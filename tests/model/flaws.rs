//! Designs that are known to be wrong: each has to break the guarantee that it is wrong about.

use super::cell::{Cell, Flaw};
use super::cells::*;
use super::check::breaks;
use super::guarantees::{
    CHECKPOINT, NEVER_BACK, NO_SILENT_GAP, NO_STALE_NOTICE, NOBODY_HANGS, NOTHING_STALE, ONE_LOAD,
};

fn with(flaw: Flaw, cell: Cell) -> Cell {
    Cell { flaw, ..cell }
}

#[test]
fn the_textbook_cache_is_found_guilty() {
    breaks(with(Flaw::Textbook, PLAIN), NOTHING_STALE);
    breaks(with(Flaw::Textbook, PLAIN), ONE_LOAD);
}

#[test]
fn a_fill_that_does_not_look_at_its_token_leaves_a_stale_entry() {
    breaks(with(Flaw::FillWithoutToken, PLAIN), NOTHING_STALE);
    breaks(with(Flaw::FillWithoutToken, VERSIONED), NEVER_BACK);
}

#[test]
fn an_invalidation_that_leaves_the_lease_leaves_a_stale_entry() {
    breaks(with(Flaw::DropWithoutVoiding, PLAIN), NOTHING_STALE);
}

#[test]
fn a_floor_in_the_entry_alone_is_lost_with_it() {
    breaks(with(Flaw::FloorInEntryAlone, VERSIONED), NOTHING_STALE);
}

#[test]
fn a_lease_that_does_not_look_for_another_runs_two_loads() {
    breaks(with(Flaw::LeaseWithoutNx, PLAIN), ONE_LOAD);
}

#[test]
fn a_lock_without_an_end_hangs_those_who_wait_for_a_dead_holder() {
    breaks(with(Flaw::LockWithoutExpiry, followed(PLAIN, "plain, followed")), NOBODY_HANGS);
}

#[test]
fn a_waiter_without_a_timer_hangs_when_its_holder_dies() {
    breaks(with(Flaw::NoTimer, followed(PLAIN, "plain, followed")), NOBODY_HANGS);
}

#[test]
fn a_late_notice_that_is_believed_misleads_a_later_read() {
    let cell = followed_twice(PLAIN, "plain, followed twice");
    breaks(with(Flaw::AnyNoticeBelieved, cell), NO_STALE_NOTICE);
}

#[test]
fn a_refresh_that_does_not_compare_goes_back_in_a_replay() {
    breaks(with(Flaw::RefreshWithoutComparing, REFRESH_VERSION), NEVER_BACK);
}

#[test]
fn a_zombie_whose_refresh_has_no_deadline_stores_an_old_image() {
    for cell in [REFRESH_VERSION, REFRESH_VERSION_POPULATES, REFRESH_POSITION, REFRESH_POSITION_POPULATES] {
        breaks(with(Flaw::RefreshWithoutDeadline, cell), NOTHING_STALE);
    }
}

#[test]
fn a_checkpoint_before_delivery_passes_what_is_not_delivered() {
    breaks(with(Flaw::CheckpointBeforeDelivery, PLAIN), CHECKPOINT);
}

#[test]
fn a_gap_that_is_skipped_or_not_awaited_is_passed_in_silence() {
    breaks(with(Flaw::GapIgnored, PLAIN_GAPS), NO_SILENT_GAP);
    breaks(with(Flaw::GapNotAwaited, PLAIN_GAPS), NO_SILENT_GAP);
}

#[test]
fn a_flush_that_begins_with_the_entries_leaves_one_behind() {
    breaks(with(Flaw::FlushEntriesFirst, PLAIN_GAPS), NOTHING_STALE);
}

#[test]
fn a_load_that_lags_is_not_outlived_by_one_delivery() {
    breaks(Cell { name: "settle, once", settles: false, ..SETTLE }, NOTHING_STALE);
}

#[test]
fn a_load_that_lags_needs_tombstones() {
    let cell = Cell { name: "versioned, eventual, no tombstones", tombstones: false, ..VERSIONED_EVENTUAL };
    breaks(cell, NOTHING_STALE);
}

#[test]
fn a_load_that_lags_proves_no_floor() {
    breaks(with(Flaw::ProofClaimed, VERSIONED_EVENTUAL), NOTHING_STALE);
}
