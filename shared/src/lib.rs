//! What Ringtide's readers and invalidators share: the cache protocol, the ring and the pipeline.
//!
//! ```text
//! record -> decode -> route -> command -> ring -> Valkey -> watermark      (worker, lambda)
//! key    -> lookup -> lease -> load -> fill                                (reader)
//! ```
//!
//! # Layout
//! - [`record`]: the neutral change record, its sequence number and its lazily decoded images
//! - [`version`]: what entries and floors are compared by
//! - [`key`]: cache keys, key templates and key spaces; the only place where a key is rendered
//! - [`route`]: record × routes → commands, pure
//! - [`command`]: the closed set of commands
//! - [`ring`]: key → ring shard, pure
//! - [`entry`]: the entry's header
//! - `payload` (features `messagepack`, `zstd`): forms of payloads that readers and audits share
//! - [`valkey`]: connections to ring shards and every script
//! - [`pipeline`]: decode → route → coalesce → place → deliver
//! - [`park`]: where records are kept that nobody can read
//! - [`watermark`]: the contiguous prefix that has been delivered
//! - [`watch`]: where the ring's membership comes from while a process runs
//! - [`config`]: the file and the environment → a valid configuration, every violation at once
//! - [`clock`]: the wall clock
//! - [`backoff`]: how long to pause after failures in a row
//! - [`metrics`]: names and labels, once
//! - `aws` (feature `aws`): the SDK's configuration, secrets, tokens, parameters, objects and queues

#[cfg(feature = "aws")]
pub mod aws;
pub mod backoff;
pub mod clock;
pub mod command;
pub mod config;
pub mod entry;
pub mod key;
pub mod metrics;
pub mod park;
#[cfg(any(feature = "messagepack", feature = "zstd"))]
pub mod payload;
pub mod pipeline;
pub mod record;
pub mod ring;
pub mod route;
pub mod valkey;
pub mod version;
pub mod watch;
pub mod watermark;
