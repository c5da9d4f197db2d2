//! The Lambda edge of the pipeline: a DynamoDB Streams event in, batch item failures out.
//!
//! # Layout
//! - [`event`]: the event, record by record, so that an unreadable one harms no other; and what Lambda gives up
//! - [`handler`]: one event through the pipeline
//! - [`streams`]: which streams a sandbox has seen, and what it can know of gaps
//! - [`settings`]: where the configuration comes from
//! - [`startup`], [`ending`]: what happens before the first event, and after the last
//! - [`function`]: an invocation around the handler: ids, panics, metrics
//! - [`logs`], [`emf`]: log lines and metrics as CloudWatch reads them

pub mod emf;
pub mod ending;
pub mod event;
pub mod function;
pub mod handler;
pub mod logs;
pub mod settings;
pub mod startup;
pub mod streams;

pub use handler::Handler;
