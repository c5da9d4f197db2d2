//! decode → route → coalesce → place → deliver: the one pipeline behind the worker and the Lambda.
//!
//! The edges differ in where records come from and in where the watermark is kept, and in nothing else.

mod backoff;
mod connect;
mod delivery;
mod limits;
mod parking;
mod plan;
mod queue;
mod ring_change;
mod shard;
mod status;
mod tasks;
mod ticket;

pub use connect::{Connected, Services, connect_ring, ring_of};
pub use delivery::{Delivered, Pipeline};
pub use limits::{Limits, Redelivery, Replicas};
pub use plan::{Batch, Parked, Plan, plan, plan_overtaken};
pub use ring_change::RingChange;
pub use shard::RingShard;
pub use status::{LastFlush, ParkingStatus, RingShardStatus};
pub use ticket::{Abandoned, Ticket};
