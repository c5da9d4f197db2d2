//! Faults of real processes under a load of readers: processes, ring shards and connections that are killed, stopped,
//! cut, delayed and swallowed, while an invalidator delivers changes and an application invalidates its own. Keys are read one
//! by one, many at once, and from a memory that the servers keep true.
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

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn connections_that_are_cut_delayed_held_swallowed_and_half_closed() {
    campaign(1, &[Fault::Cut, Fault::Delay, Fault::Hold, Fault::BlackHole, Fault::HalfClose, Fault::Refuse]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ring_shards_that_are_killed_stopped_and_restarted() {
    campaign(2, &[Fault::KillShard, Fault::StopShard]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_that_are_killed_and_stopped() {
    campaign(3, &[Fault::KillReader, Fault::StopReader]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn everything_at_once() {
    campaign(4, &Fault::ALL).await;
}
