//! Where the ring's membership comes from while a process runs: a file, or a name of the DNS.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::clock::unix_ms;
use crate::config::{Config, Violation, environment};
use crate::ring::{ChangeError, Membership, ShardName, ShardSpec};
use crate::valkey::ConnectError;

/// After how many looks a membership that was not taken for a passing reason is offered again.
const OFFERED_AGAIN: u32 = 5;
/// How long the DNS may take to answer.
const DNS_PATIENCE: Duration = Duration::from_secs(5);

/// Where memberships come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The `[ring]` of a configuration file.
    File(PathBuf),
    /// All addresses that `name:port` resolves to.
    Dns(String),
}

/// Looks at a source again and again, and tells what has changed.
#[derive(Debug)]
pub struct Watch {
    source: Source,
    resolver: Resolver,
    seen: Seen,
}

/// Who knows the addresses of a name.
#[derive(Clone)]
pub struct Resolver(Arc<dyn Fn(String) -> Addresses + Send + Sync>);

type Addresses = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// A membership cannot be read from where it comes from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ring's membership cannot be read: {0}")]
pub struct Unread(String);

/// Why a membership was not taken; the one in use goes on.
#[derive(Debug, thiserror::Error)]
pub enum RingChangeError {
    /// It does not follow the one in use, or makes no ring.
    #[error(transparent)]
    Refused(#[from] ChangeError),
    /// A new ring shard can never be reached as it is configured.
    #[error(transparent)]
    Shard(#[from] ConnectError),
    /// The ring is a cluster, which places keys itself.
    #[error("{0}")]
    Cluster(Violation),
    /// The ring shards were given one by one, and nobody knows how others are reached.
    #[error("this ring was not made from a configuration and cannot change")]
    Fixed,
    /// Whoever used the ring has ended.
    #[error("the ring is not used any more; what is built anew begins with the new membership")]
    Closed,
}

impl RingChangeError {
    /// Whether the same membership may be taken later, because what keeps it from being so lies outside of it.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Shard(ConnectError::CaFile { .. } | ConnectError::Tls { .. }) => true,
            Self::Shard(
                ConnectError::Address { .. } | ConnectError::Credentials { .. } | ConnectError::ClusterFeature { .. },
            )
            | Self::Refused(_)
            | Self::Cluster(_)
            | Self::Fixed
            | Self::Closed => false,
        }
    }
}

impl Watch {
    /// Has not looked yet; names are resolved by the system.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self::by(source, Resolver::system())
    }

    /// Has not looked yet; names are resolved by another resolver.
    #[must_use]
    pub fn by(source: Source, resolver: Resolver) -> Self {
        Self { source, resolver, seen: Seen::default() }
    }

    /// Forgets what was seen, so that the next look offers, or tells to be unreadable, what it finds, be it new or not.
    pub fn forget(&mut self) {
        self.seen = Seen::default();
    }

    /// Takes in that the membership that was offered last was not taken: where the reason may pass, it is offered again some
    /// looks later.
    pub fn refused(&mut self, error: &RingChangeError) {
        self.seen.again_in = if error.may_pass() { OFFERED_AGAIN } else { 0 };
    }

    /// Looks once; a membership only where the source has changed since the last look, or what it offered was [refused](Self::refused), and offers one other than `current`
    /// may be. Whether it may follow that one is for [`RingHistory::change`](crate::ring::RingHistory::change) to say.
    ///
    /// # Errors
    /// [`Unread`], which is logged where the look before it did not fail.
    pub async fn look(&mut self, current: &Membership) -> Result<Option<Membership>, Unread> {
        let offered = match &self.source {
            Source::File(path) => self.seen.file(tokio::fs::read_to_string(path).await),
            Source::Dns(name) => self.seen.dns(self.resolver.addresses_of(name).await, current),
        };
        offered.map_err(|error| {
            if !self.seen.failing {
                let source = &self.source;
                tracing::error!(?source, %error, "the ring's membership cannot be read, the one in use goes on");
            }
            self.seen.failing = true;
            Unread(error)
        })
    }
}

/// What was seen last.
#[derive(Debug, Default)]
struct Seen {
    /// The file's text.
    text: Option<String>,
    /// Whether the last look failed.
    failing: bool,
    /// After how many looks the same text counts as another one; 0 for never.
    again_in: u32,
}

impl Seen {
    /// The membership of a file that has changed since it was looked at last.
    fn file(&mut self, read: io::Result<String>) -> Result<Option<Membership>, String> {
        let text = read.map_err(|error| error.to_string())?;
        let again = self.again_in == 1;
        self.again_in = self.again_in.saturating_sub(1);
        if self.text.as_ref() == Some(&text) && !again {
            return Ok(None);
        }
        self.again_in = 0;
        let parsed = Config::parse(&text, environment());
        self.text = Some(text);
        // Another text that cannot be used is another failure.
        self.failing = false;
        parsed.map(|config| Some(config.ring)).map_err(|error| error.to_string())
    }

    /// The membership that follows the one in use, where a name resolves to other addresses than that has.
    fn dns(&mut self, answer: io::Result<Vec<SocketAddr>>, current: &Membership) -> Result<Option<Membership>, String> {
        let addresses = answer.map_err(|error| error.to_string())?;
        self.failing = false;
        Ok(successor(current, &addresses, unix_ms()))
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
#[must_use]
pub fn shards_of(addresses: &[SocketAddr]) -> Vec<ShardSpec> {
    let shard = |address: &SocketAddr| {
        let address = address.to_string();
        ShardSpec { name: ShardName::from(address.as_str()), address, weight: 1 }
    };
    addresses.iter().map(shard).collect()
}

impl Resolver {
    /// The system's.
    #[must_use]
    pub fn system() -> Self {
        Self::new(|name| async move { Ok(tokio::net::lookup_host(name).await?.collect()) })
    }

    /// One that is asked for `name:port`, and answers with the addresses in any order.
    pub fn new<A>(ask: impl Fn(String) -> A + Send + Sync + 'static) -> Self
    where
        A: Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static,
    {
        Self(Arc::new(move |name| Box::pin(ask(name))))
    }

    /// Resolves `name:port` to all of its addresses, sorted.
    ///
    /// # Errors
    /// The name cannot be resolved, within five seconds, or has no address.
    pub async fn addresses_of(&self, name: &str) -> io::Result<Vec<SocketAddr>> {
        let answer = tokio::time::timeout(DNS_PATIENCE, (self.0)(name.to_owned())).await;
        let mut addresses = answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        if addresses.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address"));
        }
        addresses.sort_unstable();
        addresses.dedup();
        Ok(addresses)
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

#[cfg(test)]
mod tests {
    use crate::ring::Ring;

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

    #[tokio::test]
    async fn what_was_forgotten_is_offered_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[ring]\nepoch = 1\nshards = [{ name = \"a\", address = \"h:1\" }]\n").unwrap();
        let mut watch = Watch::new(Source::File(file.path().to_owned()));
        let current = Membership { epoch: 0, changed_at_ms: 0, placement: Default::default(), shards: Vec::new() };
        let offered = watch.look(&current).await.unwrap();
        assert!(offered.is_some());
        assert_eq!(watch.look(&current).await, Ok(None));
        watch.forget();
        assert_eq!(watch.look(&current).await, Ok(offered));
    }

    #[tokio::test]
    async fn what_was_refused_for_a_passing_reason_is_offered_again_after_some_looks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "[ring]\nepoch = 1\nshards = [{ name = \"a\", address = \"h:1\" }]\n").unwrap();
        let mut watch = Watch::new(Source::File(file.path().to_owned()));
        let current = Membership { epoch: 0, changed_at_ms: 0, placement: Default::default(), shards: Vec::new() };
        let offered = watch.look(&current).await.unwrap();
        let passing = || {
            let source = io::ErrorKind::NotFound.into();
            RingChangeError::Shard(ConnectError::CaFile { shard: "a".into(), path: "ca.pem".into(), source })
        };
        for _ in 0..2 {
            watch.refused(&passing());
            for _ in 1..OFFERED_AGAIN {
                assert_eq!(watch.look(&current).await, Ok(None));
            }
            assert_eq!(watch.look(&current).await, Ok(offered.clone()));
        }
        watch.refused(&RingChangeError::Fixed);
        for _ in 0..OFFERED_AGAIN * 2 {
            assert_eq!(watch.look(&current).await, Ok(None));
        }
    }

    #[tokio::test]
    async fn a_host_that_no_certificate_can_hold_is_no_passing_reason() {
        let spec = ShardSpec { name: "a".into(), address: "rediss://cache..internal:6379".into(), weight: 1 };
        let error = crate::valkey::Shard::connect(&spec, &crate::config::Valkey::default()).unwrap_err();
        assert!(error.to_string().contains("cache..internal"), "{error}");
        assert!(!RingChangeError::Shard(error).may_pass());
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
