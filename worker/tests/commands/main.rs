//! The commands as an operator runs them: the built binary, real Valkey servers, and the embedded emulator.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod check;
mod explain;
mod park;
mod poison;
mod ring;
mod world;
