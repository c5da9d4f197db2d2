//! What integration tests and benchmarks share: change records made by hand, and times of alternating rounds.

#![allow(clippy::print_stdout, reason = "benchmarks report to a person")]

pub mod raw;
pub mod records;
pub mod rounds;
