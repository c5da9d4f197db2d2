//! The whole system on real servers: worker, Lambda and reader, Valkey, and two DynamoDB endpoints.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

mod batch;
mod crashes;
mod edges;
mod flow;
mod refusals;
mod shards;
mod world;
