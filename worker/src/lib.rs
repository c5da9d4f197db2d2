//! The long-running consumer of DynamoDB Streams that keeps a Valkey ring true.
//!
//! ```text
//! supervisor -> table -> follower (one stream) -> consumer (one stream shard) -> core's pipeline
//!                            |                        |
//!                        discovery, lineage       stream lease, watermark, checkpoint
//! ```
//!
//! # Layout
//! - [`worker`]: the worker as a value: start, health, stop
//! - [`stream`]: the seam to DynamoDB Streams, and the one place that decides what follows from a failure
//! - [`lineage`]: the graph of stream shards: what may start; pure
//! - [`lease`]: the seam to stream leases, in the Kinesis Client Library's schema
//! - [`deliver`]: the seam to the pipeline
//! - `consumer`, `pace`: one stream shard from its checkpoint to its end
//! - `discovery`, `follower`, `supervisor`: listings, one stream, all tables
//! - `overview`, `pausing`, `replay`: what operators' commands do with streams and their leases
//! - `audit`, `warm`: what they do with entries; `table`, `item`, `ring_shards`, `ceiling` are what both work with
//! - [`health`], `http`: progress, and the pages that show it
//! - [`metrics`], `otlp`: all metrics as one text, and for an OpenTelemetry collector
//! - `probe`: the lag as it is measured, from a write to an entry that is gone
//! - [`shutdown`], [`cli`], [`aws`]: signals, the command line, the SDK's clients

mod attribute;
mod audit;
pub mod aws;
#[cfg(test)]
mod broken_tests;
mod ceiling;
pub mod cli;
mod consumer;
pub mod deliver;
#[cfg(feature = "demo")]
mod demo;
mod discovery;
mod follower;
pub mod health;
mod http;
mod item;
pub mod lease;
pub mod lineage;
pub mod metrics;
mod otlp;
mod overview;
mod pace;
#[cfg(test)]
mod parking_tests;
mod pausing;
mod probe;
mod replay;
mod ring_shards;
#[cfg(test)]
mod scripted;
pub mod shutdown;
#[cfg(test)]
mod simulated;
pub mod stream;
mod supervisor;
mod table;
mod warm;
pub mod worker;

pub use supervisor::StartError;
pub use worker::{RunError, RunningWorker, Stopped, Worker};
