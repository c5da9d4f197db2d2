//! A lease that is held: extended while the load runs, and given back whatever happens.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringtide_core::key::CacheKey;
use ringtide_core::valkey::{Fill, FillReply, Release, ShardError, Token};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use crate::cache::Inner;
use crate::shard::ReadShard;

/// The right to fill one entry. Dropping it gives it back, so that waiters need not wait for its time to pass.
pub(crate) struct HeldLease {
    shard: Arc<ReadShard>,
    key: CacheKey,
    token: Token,
    tasks: TaskTracker,
    asked: Instant,
    ttl: Duration,
    /// When it was last extended, in ms after it was asked for.
    extended_ms: AtomicU64,
    ended: bool,
}

impl HeldLease {
    /// Takes over a lease that was asked for at `asked`.
    pub(crate) fn new(inner: &Inner, shard: &Arc<ReadShard>, key: CacheKey, token: Token, asked: Instant) -> Self {
        let (tasks, ttl) = (inner.work.clone(), inner.settings.lease_ttl);
        let extended_ms = AtomicU64::new(0);
        Self { shard: Arc::clone(shard), key, token, tasks, asked, ttl, extended_ms, ended: false }
    }

    /// Leaves the lease to a fill that is sent again, and tells until when it lives at least.
    pub(crate) fn leave(&mut self) -> Instant {
        self.ended = true;
        self.asked + Duration::from_millis(self.extended_ms.load(Ordering::Relaxed)) + self.ttl
    }

    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// Extends the lease for as long as this is polled, until it is found to be gone.
    pub(crate) async fn keep(&self) -> Infallible {
        loop {
            tokio::time::sleep(self.ttl / 3).await;
            let asked_ms = u64::try_from(self.asked.elapsed().as_millis()).unwrap_or(u64::MAX);
            match self.shard.extend(&self.key, &self.token, self.ttl).await {
                Ok(true) => self.extended_ms.store(asked_ms, Ordering::Relaxed),
                Err(_) => {}
                // The load goes on: its caller began before whatever took the lease.
                Ok(false) => std::future::pending().await,
            }
        }
    }

    /// Sends the fill; every answer but [`FillReply::Below`] ends the lease.
    pub(crate) async fn fill(&mut self, fill: &Fill) -> Result<FillReply, ShardError> {
        let reply = self.shard.fill(&self.key, fill).await?;
        self.ended = match reply {
            FillReply::Stored | FillReply::Void | FillReply::Older => true,
            FillReply::Below { .. } => false,
        };
        Ok(reply)
    }

    /// Gives the lease back and has its waiters load for themselves; tells whether it has lived until then.
    pub(crate) async fn give_back(&mut self) -> Result<bool, ShardError> {
        let lived = self.shard.release(&self.key, &self.token, Release::Retry).await?;
        self.ended = true;
        Ok(lived)
    }

    /// Gives the lease back and tells its waiters that the load failed.
    pub(crate) async fn release_failed(mut self, reason: &str) {
        if self.shard.release(&self.key, &self.token, Release::Failed(reason)).await.is_ok() {
            self.ended = true;
        }
    }
}

impl Drop for HeldLease {
    fn drop(&mut self) {
        // Without a runtime there is nobody to send it; the lock's own time ends the lease then.
        let (false, Ok(runtime)) = (self.ended, Handle::try_current()) else { return };
        let (shard, key, token) = (self.shard.clone(), self.key.clone(), self.token);
        let release = async move {
            if let Err(error) = shard.release(&key, &token, Release::Retry).await {
                tracing::debug!(key = %key, %error, "lease not given back, it expires");
            }
        };
        self.tasks.spawn_on(release, &runtime);
    }
}
