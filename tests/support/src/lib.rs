//! Real servers on loopback ports, for the demo and the tests. Each ends with its handle.

mod certificates;
mod cluster;
mod dynamodb;
mod given;
mod ministack;
mod process;
mod program;
mod proxy;
#[cfg(feature = "tables")]
mod tables;
mod valkey;
mod wire;

pub use certificates::Certificates;
pub use cluster::ValkeyCluster;
pub use dynamodb::Emulator;
pub use given::number;
pub use ministack::Ministack;
pub use process::{ServerError, free_port};
pub use program::{Program, eventually};
pub use proxy::{Direction, Flow, Proxy};
#[cfg(feature = "tables")]
pub use tables::create_table;
pub use valkey::ValkeyServer;
