//! A ring shard as the pipeline sees it.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::command::Command;
use crate::valkey::{Applied, Servers, Shard, ShardError};

/// A ring shard as the pipeline sees it.
///
/// Commands may be carried out more than once, and after an error any part of them may have been.
pub trait RingShard: Send + Sync + 'static {
    /// Carries out a batch; resolves when the shard has acknowledged all of it.
    ///
    /// Refreshes are not stored past `deadline_ms` of the server's clock (unix ms; 0 for no deadline).
    fn apply<'a>(&'a self, commands: &'a [Command], deadline_ms: u64) -> BoxFuture<'a, Result<Applied, ShardError>>;

    /// Removes every entry and lock whose key begins with `prefix`, and returns how many names were removed.
    fn flush<'a>(&'a self, prefix: &'a str, pause: Duration) -> BoxFuture<'a, Result<u64, ShardError>>;

    /// Resolves as soon as the shard can be reached, or after `within`.
    fn reachable(&self, within: Duration) -> BoxFuture<'_, ()>;

    /// Tells which servers stand behind the shard now; `None` where nobody can tell, so that what others in their place may
    /// have lost stays unknown.
    fn servers(&self) -> BoxFuture<'_, Result<Option<Servers>, ShardError>> {
        Box::pin(async { Ok(None) })
    }

    /// A number that changes when a connection is made, behind which other servers may stand than before.
    fn connects(&self) -> u64 {
        0
    }

    /// Takes the gauges of the shard's name, or leaves them to another handle of the name, which leads to another address.
    fn show(&self, _shown: bool) {}

    /// Leaves the gauges without a value, where they are this handle's: its name stands for nothing any more.
    fn leave(&self) {}

    /// Resolves when `count` replicas have everything that was acknowledged before, or fails after `within`.
    fn replicated(&self, _count: u32, _within: Duration) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(async { Ok(()) })
    }
}

impl RingShard for Shard {
    fn apply<'a>(&'a self, commands: &'a [Command], deadline_ms: u64) -> BoxFuture<'a, Result<Applied, ShardError>> {
        Box::pin(Shard::apply(self, commands, deadline_ms))
    }

    fn flush<'a>(&'a self, prefix: &'a str, pause: Duration) -> BoxFuture<'a, Result<u64, ShardError>> {
        Box::pin(Shard::flush(self, prefix, pause))
    }

    fn reachable(&self, within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let until = Instant::now() + within;
            // An early error is a refusal that only somebody's change can end: tried again at the usual pace.
            if self.ready(within).await.is_err() {
                tokio::time::sleep_until(until).await;
            }
        })
    }

    fn servers(&self) -> BoxFuture<'_, Result<Option<Servers>, ShardError>> {
        Box::pin(Shard::servers(self))
    }

    fn connects(&self) -> u64 {
        Shard::connects(self)
    }

    fn show(&self, shown: bool) {
        Shard::show(self, shown);
    }

    fn leave(&self) {
        Shard::leave(self);
    }

    fn replicated(&self, count: u32, within: Duration) -> BoxFuture<'_, Result<(), ShardError>> {
        Box::pin(Shard::replicated(self, count, within))
    }
}
