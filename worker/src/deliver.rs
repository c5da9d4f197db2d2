//! The seam to the pipeline: where pages go.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use ringtide_core::pipeline::{Abandoned, ParkingStatus, Pipeline, RingShardStatus};
use ringtide_core::record::{ChangeRecord, UnreadableRecord};
use ringtide_core::ring::Ring;
use tokio::time::Instant;

/// Resolves when everything of a page, or a flush, was acknowledged by its ring shards; an error where that will never be.
/// Dropping it gives the page up.
pub type Delivery = Pin<Box<dyn Future<Output = Result<(), Abandoned>> + Send>>;

/// Takes pages and makes the ring follow them: core's pipeline, or a recorder in tests.
#[async_trait]
pub trait Deliver: Send + Sync + 'static {
    /// Takes one page in stream order; waits where too much is queued. Its refreshes are not stored past `deadline_ms` of
    /// the ring shard's clock (unix ms).
    async fn submit(&self, page: Vec<Result<ChangeRecord, UnreadableRecord>>, deadline_ms: u64) -> Delivery;

    /// Flushes everything that comes from a table, on every ring shard.
    async fn flush_table(&self, table: &str) -> Delivery;

    /// Tells that this process goes on where another one delivered before, see [`Pipeline::took_over`].
    fn took_over(&self) {}

    /// Resolves when nothing can be delivered any more.
    async fn broken(&self) {
        std::future::pending().await
    }

    /// Names the ring shards that cannot be delivered to now.
    fn unhealthy(&self) -> Vec<String>;

    /// Whether records that cannot be used cannot be parked now.
    fn parking_fails(&self) -> bool;

    /// Whether pages stay undelivered for a reason that must not hold up the others, and there is memory for more.
    fn held_up(&self) -> bool;

    /// Whether pages stay undelivered for as long as something else lasts, be there memory for more or not.
    fn stands_still(&self) -> bool {
        self.held_up()
    }

    /// The ring that keys are placed by now; `None` where that is not known.
    fn ring(&self) -> Option<Arc<Ring>> {
        None
    }

    /// Has the place looked at now where the ring's membership comes from; `false` where none is followed.
    fn look_at_ring(&self) -> bool {
        false
    }

    /// How each ring shard's queue fares; nothing where that is not known.
    fn ring_shards(&self) -> Vec<RingShardStatus> {
        Vec::new()
    }

    /// What became of records that cannot be used.
    fn parking(&self) -> ParkingStatus {
        ParkingStatus { failing: self.parking_fails(), ..ParkingStatus::default() }
    }

    /// Delivers what is queued, until the deadline, and ends. Returns how many commands are left undelivered.
    async fn close(&self, deadline: Instant) -> usize;
}

#[async_trait]
impl Deliver for Pipeline {
    async fn submit(&self, page: Vec<Result<ChangeRecord, UnreadableRecord>>, deadline_ms: u64) -> Delivery {
        Box::pin(Pipeline::submit(self, page, deadline_ms).await)
    }

    async fn flush_table(&self, table: &str) -> Delivery {
        Box::pin(Pipeline::flush_table(self, table).await)
    }

    fn took_over(&self) {
        Pipeline::took_over(self);
    }

    async fn broken(&self) {
        Pipeline::broken(self).await;
    }

    fn unhealthy(&self) -> Vec<String> {
        Pipeline::unhealthy(self).iter().map(ToString::to_string).collect()
    }

    fn parking_fails(&self) -> bool {
        Pipeline::parking_fails(self)
    }

    fn held_up(&self) -> bool {
        Pipeline::held_up(self)
    }

    fn stands_still(&self) -> bool {
        Pipeline::stands_still(self)
    }

    fn ring(&self) -> Option<Arc<Ring>> {
        Some(Pipeline::current_ring(self))
    }

    fn look_at_ring(&self) -> bool {
        self.look_now()
    }

    fn ring_shards(&self) -> Vec<RingShardStatus> {
        Pipeline::ring_shards(self)
    }

    fn parking(&self) -> ParkingStatus {
        Pipeline::parking(self)
    }

    async fn close(&self, deadline: Instant) -> usize {
        self.shutdown(deadline).await
    }
}
