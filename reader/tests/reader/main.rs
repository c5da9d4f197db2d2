//! The reader on real Valkey servers, each started by the test that needs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod failures;
mod herd;
mod invalidation;
mod outage;
mod settings;
mod stale;
mod support;
