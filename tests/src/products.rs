//! The table that the [records](crate::records) are about, cached on a ring of real servers.

use std::fmt::Write as _;

use ringtide_core::config::Config;
use ringtide_servers::ValkeyServer;

/// The ring shards `s0`, `s1` and so on, as a configuration names them.
#[must_use]
pub fn shards(servers: &[ValkeyServer]) -> String {
    let mut text = String::new();
    for (n, server) in servers.iter().enumerate() {
        // Writing into a text does not fail.
        let _ = writeln!(text, "[[ring.shards]]\nname = \"s{n}\"\naddress = \"{}\"", server.address());
    }
    text
}

/// The servers' ring, the key space `product`, and a route of the table `products` to it.
///
/// # Panics
/// Never: what it writes is valid.
#[must_use]
#[allow(clippy::expect_used, reason = "for tests and benchmarks")]
pub fn config(servers: &[ValkeyServer]) -> Config {
    let space = "[spaces.product]\nkey = \"product:{pk}\"\n[[routes]]\ntable = \"products\"\nspace = \"product\"\n";
    Config::parse(&format!("{}{space}", shards(servers)), []).expect("a valid configuration")
}
