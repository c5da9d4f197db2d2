//! What integration tests and benchmarks share: change records made by hand, where they are cached, and times.

#![allow(clippy::print_stdout, reason = "benchmarks report to a person")]

pub mod products;
pub mod raw;
pub mod records;
pub mod rounds;
pub mod spread;
