//! A read-through cache for DynamoDB items on a ring of Valkey servers: one load per key, and no stale fill.
//!
//! ```no_run
//! use ringtide::{Cache, SpaceSettings};
//! # use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize)]
//! struct Product {
//!     name: String,
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let cache = Cache::builder()
//!     .shard("a", "127.0.0.1:6379")
//!     .shard("b", "127.0.0.1:6380")
//!     .space(SpaceSettings::new("product", "product:{pk}"))
//!     .build()
//!     .await?;
//! let products = cache.space::<Product>("product")?;
//! let tea = products
//!     .get_or_load(42, || async { Ok::<_, std::io::Error>(Some(Product { name: "tea".into() })) })
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! A load holds its key's lease, and an invalidation takes the lease away, so that a load which began before a change
//! cannot store what it read. The loads of a key space in plain mode have to be strongly consistent.
//!
//! # Layout
//! ```text
//! key -> lookup -> flight -> lease -> load -> fill
//! ```
//! - `cache`, `builder`: [`Cache`] and its settings
//! - `space`, `key`: typed key spaces, and what keys are made of
//! - `lookup`: the `GET` of a hit, and how a miss gets its answer
//! - `freshness`, `options`: what an entry is good for, and what a caller asks for; pure
//! - `flight`: at most one flight a key in this process, and who may be answered by it
//! - `lease`: taking the lease, holding it, waiting for another's
//! - `inbox`: waiters, woken by messages
//! - `loader`, `load`: what loaders return, and running them
//! - `batch`: many keys at once, and loads that several keys share
//! - `fill`, `codec`: storing what was loaded, and how values become payloads
//! - `topology`, `shard`: the ring; a ring shard's connections and its share of loads
//! - `breaker`, `budget`: when a ring shard is left alone, and how many loads may be repeated; pure
//! - `retry`: fills and invalidations that are sent again
//! - `write`, `stamp`: invalidating after a write, and version numbers for it
//! - `local`, `forgotten`: what this process keeps in its own memory, and since when it has asked for keys to be forgotten
//! - `counters`, `observe`: metrics of a key space; spans and the application's hook
//! - `dynamodb` (feature `dynamodb`): a ready-made loader

mod batch;
mod breaker;
mod budget;
mod builder;
mod cache;
mod circuit;
mod codec;
mod counters;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;
mod error;
mod fill;
mod flight;
mod forgotten;
mod freshness;
mod inbox;
mod key;
mod lease;
mod load;
mod loader;
mod local;
mod lookup;
mod observe;
mod options;
mod retry;
mod shard;
mod space;
mod stamp;
mod topology;
mod write;

pub use batch::{Batch, BatchLoader, LoadedPart, LoadingSpace};
pub use builder::CacheBuilder;
pub use cache::Cache;
pub use error::{BoxError, Error, SharedError};
pub use key::{IntoKey, IntoKeyParts, SpaceKey};
pub use loader::{Consistency, IntoLoaded, Loaded};
pub use observe::{CacheStatus, LoadEnd, Observer, Read, ReadEnd};
pub use options::ReadOptions;
pub use shard::{RingShard, ShardState};
pub use space::{Space, SpaceSettings};
#[cfg(feature = "dynamodb")]
pub use stamp::{NewerOnly, NotAStamp};
pub use stamp::{Stamp, VersionClock};
pub use topology::RingChange;
pub use write::Invalidated;

#[cfg(feature = "dynamodb")]
pub use aws_sdk_dynamodb;
pub use metrics;
#[cfg(feature = "aws")]
pub use ringtide_core::aws::sdk_config;
pub use ringtide_core::config::{self, Config, ConfigError};
pub use ringtide_core::entry::Codec;
pub use ringtide_core::key::{CacheKey, KeyError, KeyPart, KeySpace, LocalTier, Mode, Template, TemplateError};
pub use ringtide_core::ring::{ChangeError, Membership, Placement, ShardName, ShardSpec};
#[cfg(feature = "memory")]
pub use ringtide_core::valkey::MemoryServer;
pub use ringtide_core::valkey::{Applied, ConnectError, Credentials, Login, NoLogin};
pub use ringtide_core::version::Version;
pub use ringtide_core::watch::RingChangeError;
