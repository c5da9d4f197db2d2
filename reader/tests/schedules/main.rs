//! The crate itself under random schedules: caches of several processes on ring shards in memory, whose calls take random
//! times, overtake each other and are lost, while keys change, are invalidated, are evicted, and ring shards go down and come back empty.
//! Time is paused, so that a schedule of seconds takes milliseconds.
//!
//! No read may be answered with less than it has to know, none may hang, no entry may stay stale, and in calm weather no key may be
//! loaded more often than it was taken away. `RINGTIDE_READER_SCHEDULES` says how many schedules, `RINGTIDE_READER_SEED` where they
//! begin; a schedule is told by its seed, and what is left to chance beside it is the order of tasks.
#![cfg(feature = "memory")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod process;
mod truth;
mod world;

use ringtide_servers::number;

use world::{Setting, schedule};

/// How many schedules of each setting a test run takes.
const USUALLY: u64 = 150;

/// Schedules in which one that is guilty is convicted at the latest.
const PATIENCE: u64 = 300;

fn run(setting: Setting) {
    let (seeds, first) =
        (number("RINGTIDE_READER_SCHEDULES").unwrap_or(USUALLY), number("RINGTIDE_READER_SEED").unwrap_or(1));
    let mut sum = world::Done::default();
    for seed in first..first + seeds {
        sum += schedule(seed, setting).unwrap_or_else(|complaint| panic!("{setting:?}, seed {seed}: {complaint}"));
    }
    println!("{setting:?}: {seeds} schedules, {sum:?}");
    assert!(sum.answered > sum.failed * 4, "{sum:?}");
}

#[test]
fn calm_weather_in_mode_plain() {
    run(Setting::CALM);
}

#[test]
fn calm_weather_in_mode_versioned() {
    run(Setting { versioned: true, ..Setting::CALM });
}

#[test]
fn calm_weather_with_copies_in_memory() {
    run(Setting { tracked: true, ..Setting::CALM });
}

#[test]
fn stormy_weather_in_mode_plain() {
    run(Setting { stormy: true, ..Setting::CALM });
}

#[test]
fn stormy_weather_in_mode_versioned() {
    run(Setting { versioned: true, stormy: true, ..Setting::CALM });
}

#[test]
fn stormy_weather_with_copies_in_memory() {
    run(Setting { tracked: true, stormy: true, ..Setting::CALM });
}

/// What is held against schedules of a setting.
fn complaints(setting: Setting) -> Vec<String> {
    (1..=PATIENCE).filter_map(|seed| schedule(seed, setting).err()).collect()
}

#[test]
fn a_cache_that_stores_what_it_has_loaded_without_a_lease_is_convicted() {
    let complaints = complaints(Setting { naive: true, ..Setting::CALM });
    for guilty in ["was known", "for good", "was loaded"] {
        assert!(complaints.iter().any(|complaint| complaint.contains(guilty)), "nobody {guilty}: {complaints:?}");
    }
}
