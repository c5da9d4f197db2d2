//! A Valkey server of the test's own, an origin that counts and holds its loads, and counters that can be read.

mod origin;
mod recorder;
mod server;

use std::time::Duration;

use ringtide::{Cache, CacheBuilder};

pub(crate) use origin::{Origin, most_loads_at_once};
pub(crate) use recorder::Counters;
pub(crate) use server::{Server, invalidate};

/// Longer than anything in a test may take.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A builder whose commands time out only where a test lets them: on a machine that is busy otherwise, one that did would
/// be a load past the ring shard.
pub(crate) fn builder(server: &Server) -> CacheBuilder {
    Cache::builder().command_timeout(LONG).shard("a", server.address())
}

pub(crate) async fn cache(server: &Server) -> Cache {
    builder(server).build().await.unwrap()
}

/// Waits until a condition holds.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, waiting).await.is_ok(), "{what} did not come about");
}
