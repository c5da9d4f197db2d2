//! Faults of real processes under a load of readers: processes, ring shards and connections that are killed, stopped,
//! cut, delayed and swallowed, while an invalidator delivers changes and an application invalidates its own. Keys are read one
//! by one, many at once, and from a memory that the servers keep true; in mode plain, in mode versioned with refreshes, and past a short
//! time to live, while they are loaded again.
//!
//! No caller may be kept beyond its deadline, none may hang, none may be given an error that the origin could have
//! answered or a value that is older than what it has to know, and no stale entry may be left.
//! `RINGTIDE_FAULT_SECONDS` makes the campaigns longer, `RINGTIDE_FAULT_SEED` chooses their faults.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod campaign;
mod holders;
mod process;
mod readers;
mod stalls;
mod truth;
mod world;

use campaign::{Fault, campaign};
use world::Style;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_are_cut_delayed_held_swallowed_and_half_closed() {
    campaign(
        1,
        Style::Plain,
        &[Fault::Cut, Fault::Delay, Fault::Hold, Fault::BlackHole, Fault::HalfClose, Fault::Refuse],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ring_shards_that_are_killed_stopped_and_restarted() {
    campaign(2, Style::Plain, &[Fault::KillShard, Fault::StopShard]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_that_are_killed_and_stopped() {
    campaign(3, Style::Plain, &[Fault::KillReader, Fault::StopReader]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once() {
    campaign(4, Style::Plain, &Fault::ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once_where_versions_are_compared_and_images_are_stored() {
    campaign(5, Style::Versioned, &Fault::ALL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once_past_a_short_time_to_live() {
    campaign(6, Style::ShortLived, &Fault::ALL).await;
}
