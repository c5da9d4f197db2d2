//! decode → route → coalesce → place → deliver: the one pipeline behind the worker and the Lambda.
//!
//! The edges differ in where records come from and in where the watermark is kept, and in nothing else.

mod backoff;
mod connect;
mod delivery;
mod parking;
mod plan;
mod queue;
mod ticket;

pub use connect::{Connected, Services};
pub use delivery::{Delivered, Limits, Pipeline};
pub use plan::{Batch, Parked, Plan, plan, plan_overtaken};
pub use queue::RingShard;
pub use ticket::{Abandoned, Ticket};
