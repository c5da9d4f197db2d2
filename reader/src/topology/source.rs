//! Where the ring's membership comes from while the cache is read: a file, or a name of the DNS.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ringtide_core::clock::unix_ms;
use ringtide_core::config::{Config, environment};
use ringtide_core::ring::{Membership, ShardName, ShardSpec};

use crate::cache::Inner;

/// How long the DNS may take to answer.
const DNS_PATIENCE: Duration = Duration::from_secs(5);

/// Where memberships come from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// The `[ring]` of a configuration file.
    File(PathBuf),
    /// All addresses that `name:port` resolves to.
    Dns(String),
}

/// Looks at the source again and again, and takes what it says.
pub(crate) async fn watch(inner: Arc<Inner>, source: Source) {
    let mut seen = Seen::default();
    loop {
        tokio::time::sleep(inner.settings.watch).await;
        let offered = match &source {
            Source::File(path) => seen.file(tokio::fs::read_to_string(path).await),
            Source::Dns(name) => seen.dns(addresses_of(name).await, &inner),
        };
        match offered {
            Ok(None) => {}
            // Told by the call itself.
            Ok(Some(membership)) => drop(inner.change_ring(membership).await),
            Err(error) => {
                inner.changes.unread();
                if !seen.failing {
                    tracing::error!(?source, %error, "the ring's membership cannot be read, the one in use goes on");
                }
                seen.failing = true;
            }
        }
    }
}

/// What was seen last.
#[derive(Default)]
struct Seen {
    /// The file's text.
    text: Option<String>,
    /// Whether the last look failed.
    failing: bool,
}

impl Seen {
    /// The membership of a file that has changed since it was looked at last.
    fn file(&mut self, read: io::Result<String>) -> Result<Option<Membership>, String> {
        let text = read.map_err(|error| error.to_string())?;
        if self.text.as_ref() == Some(&text) {
            return Ok(None);
        }
        let parsed = Config::parse(&text, environment());
        self.text = Some(text);
        // Another text that cannot be used is another failure.
        self.failing = false;
        parsed.map(|config| Some(config.ring)).map_err(|error| error.to_string())
    }

    /// The membership that follows the one in use, where a name resolves to other addresses than that has.
    fn dns(&mut self, answer: io::Result<Vec<SocketAddr>>, inner: &Inner) -> Result<Option<Membership>, String> {
        let addresses = answer.map_err(|error| error.to_string())?;
        self.failing = false;
        Ok(successor(inner.topology.load().ring.membership(), &addresses, unix_ms()))
    }
}

/// Makes the membership of other addresses that follows one.
fn successor(current: &Membership, addresses: &[SocketAddr], now_ms: u64) -> Option<Membership> {
    let shards = shards_of(addresses);
    let names = |shards: &[ShardSpec]| {
        let mut names: Vec<_> = shards.iter().map(|shard| shard.name.clone()).collect();
        names.sort_unstable();
        names
    };
    (names(&shards) != names(&current.shards)).then(|| Membership {
        epoch: current.epoch.saturating_add(1),
        changed_at_ms: now_ms,
        placement: current.placement,
        shards,
    })
}

/// The shards that addresses stand for, each named by its own.
pub(crate) fn shards_of(addresses: &[SocketAddr]) -> Vec<ShardSpec> {
    let shard = |address: &SocketAddr| {
        let address = address.to_string();
        ShardSpec { name: ShardName::from(address.as_str()), address, weight: 1 }
    };
    addresses.iter().map(shard).collect()
}

/// Resolves `name:port` to all of its addresses, sorted; none is an error.
pub(crate) async fn addresses_of(name: &str) -> io::Result<Vec<SocketAddr>> {
    let answer = tokio::time::timeout(DNS_PATIENCE, tokio::net::lookup_host(name)).await;
    let mut addresses: Vec<_> = answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address"));
    }
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use ringtide_core::ring::Ring;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn other_addresses_make_the_next_membership_and_the_same_ones_none() {
        let (two, three) = (["10.0.0.1:6379", "10.0.0.2:6379"], ["10.0.0.1:6379", "10.0.0.2:6379", "[fd00::1]:6379"]);
        let shards = shards_of(&addresses(&two));
        let current = Membership { epoch: 7, changed_at_ms: 1, placement: Default::default(), shards };
        assert_eq!(successor(&current, &addresses(&two), 9), None);
        let next = successor(&current, &addresses(&three), 9).unwrap();
        assert_eq!((next.epoch, next.changed_at_ms, next.shards.len()), (8, 9, 3));
        assert_eq!(next.shards[2].name.as_str(), "[fd00::1]:6379");
        assert!(Ring::new(next).is_ok());
    }

    #[test]
    fn a_file_is_offered_once_for_each_text_and_a_bad_one_fails_once() {
        let mut seen = Seen::default();
        let text = |epoch: u64| format!("[ring]\nepoch = {epoch}\nshards = [{{ name = \"a\", address = \"h:1\" }}]\n");
        assert_eq!(seen.file(Ok(text(1))).unwrap().unwrap().epoch, 1);
        assert_eq!(seen.file(Ok(text(1))).unwrap(), None);
        assert!(seen.file(Err(io::ErrorKind::NotFound.into())).is_err());
        assert!(seen.file(Ok("[ring".to_owned())).is_err());
        assert_eq!(seen.file(Ok("[ring".to_owned())).unwrap(), None);
        assert_eq!(seen.file(Ok(text(2))).unwrap().unwrap().epoch, 2);
    }
}
