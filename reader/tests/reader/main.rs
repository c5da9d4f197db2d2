//! The reader on real Valkey servers, each started by the test that needs it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod answers;
mod asking;
mod batch;
mod breaker;
mod codecs;
mod deadlines;
mod failures;
mod herd;
mod invalidation;
mod left_out;
mod limits;
mod local;
mod memory;
mod observed;
mod outage;
mod past_the_cache;
mod permissions;
mod retries;
mod ring_changes;
mod settings;
mod stale;
mod support;
mod table;
mod writes;
