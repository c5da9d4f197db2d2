//! The shards that a ring is made of.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Names a ring shard for good, while its address may change; cheap to clone, ordered by its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub struct ShardName(Arc<str>);

impl ShardName {
    /// Longest name in bytes.
    pub const MAX_LEN: usize = 128;

    /// Makes a name without checking it; [`Ring::new`](super::Ring::new) refuses ill-formed ones.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// The name's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn is_well_formed(&self) -> bool {
        (1..=Self::MAX_LEN).contains(&self.0.len()) && self.0.bytes().all(|b| b.is_ascii_graphic())
    }
}

impl From<String> for ShardName {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl From<&str> for ShardName {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

impl From<ShardName> for String {
    fn from(name: ShardName) -> Self {
        name.as_str().to_owned()
    }
}

impl Borrow<str> for ShardName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ShardName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ShardName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Describes one ring shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardSpec {
    /// The name that keys are placed by; 1 to [`ShardName::MAX_LEN`] printable ASCII characters without spaces.
    pub name: ShardName,
    /// Where the server listens, as the connection understands it; not empty, no spaces.
    pub address: String,
    /// Share of the keys in relation to the other shards' weights; 1 to [`Ring::MAX_WEIGHT`](super::Ring::MAX_WEIGHT), 1 if absent.
    #[serde(default = "one")]
    pub weight: u32,
}

fn one() -> u32 {
    1
}

/// Decides how keys are placed on shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Placement {
    /// 16,384 slots given out by weighted rendezvous hashing of the shards' names.
    #[default]
    Ringtide,
    /// As skipper's Valkey ring: 10,000 slots in equal runs over the sorted addresses; hash tags mean nothing.
    ///
    /// A run has ⌈10,000 ÷ shards⌉ slots, so with some counts above 100 the last addresses own nothing.
    Skipper,
    /// As go-redis's `Ring` with all shards up: rendezvous hashing of the key with the shards' names.
    GoRedis,
}

impl Placement {
    const ALL: [Self; 3] = [Self::Ringtide, Self::Skipper, Self::GoRedis];

    /// The name that stands in configuration files.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ringtide => "ringtide",
            Self::Skipper => "skipper",
            Self::GoRedis => "go-redis",
        }
    }

    /// Whether shards may have weights other than 1.
    #[must_use]
    pub const fn has_weights(self) -> bool {
        matches!(self, Self::Ringtide)
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Reports a text that names no [`Placement`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown placement {0:?}; use ringtide, skipper or go-redis")]
pub struct ParsePlacementError(pub String);

impl FromStr for Placement {
    type Err = ParsePlacementError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|placement| placement.as_str() == text);
        found.ok_or_else(|| ParsePlacementError(text.to_owned()))
    }
}

/// Lists the shards of a ring from one change to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Membership {
    /// Counts the changes, from 1; the higher epoch is the newer membership.
    pub epoch: u64,
    /// When this membership came into force, in unix milliseconds.
    pub changed_at_ms: u64,
    /// How keys are placed.
    #[serde(default)]
    pub placement: Placement,
    /// The shards, in any order.
    pub shards: Vec<ShardSpec>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shard(name: &str, address: &str, weight: u32) -> ShardSpec {
        ShardSpec { name: name.into(), address: address.to_owned(), weight }
    }

    #[test]
    fn placement_names_are_the_same_in_text_and_in_files() {
        for placement in Placement::ALL {
            assert_eq!(placement.to_string().parse(), Ok(placement));
            assert_eq!(serde_json::to_string(&placement).unwrap(), format!("\"{placement}\""));
        }
        assert!("redis".parse::<Placement>().is_err());
    }

    #[test]
    fn a_membership_reads_what_it_writes() {
        let text = r#"{"epoch":1,"changed_at_ms":2,"shards":[{"name":"a","address":"h:1"}]}"#;
        let read: Membership = serde_json::from_str(text).unwrap();
        assert_eq!(read.placement, Placement::Ringtide);
        assert_eq!(read.shards, [shard("a", "h:1", 1)]);
        let again: Membership = serde_json::from_str(&serde_json::to_string(&read).unwrap()).unwrap();
        assert_eq!(again, read);
    }
}
