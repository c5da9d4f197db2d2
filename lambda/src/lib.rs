//! The Lambda edge of the pipeline: a DynamoDB Streams event in, batch item failures out.
//!
//! # Layout
//! - [`event`]: the event, record by record, so that an unreadable one harms no other
//! - [`handler`]: one event through the pipeline
//! - [`settings`]: where the configuration comes from

pub mod event;
pub mod handler;
pub mod settings;

pub use handler::Handler;
