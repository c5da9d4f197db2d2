//! Real servers on loopback ports, for the demo and the tests. Each ends with its handle.

mod certificates;
mod cluster;
mod dynamodb;
mod ministack;
mod process;
mod proxy;
mod valkey;

pub use certificates::Certificates;
pub use cluster::ValkeyCluster;
pub use dynamodb::Emulator;
pub use ministack::Ministack;
pub use process::{ServerError, free_port};
pub use proxy::{Direction, Flow, Proxy};
pub use valkey::ValkeyServer;
