//! Operators' commands: the built binary on a real `valkey-server` and the embedded emulator, beside a running worker.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod audit;
mod fleet;
mod warm;
mod world;
