//! Key spaces: keys of one template that share a mode and their times to live.

use std::sync::Arc;
use std::time::Duration;

use super::Template;

/// How a key space is kept true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Loads are strongly consistent; an invalidation always drops the entry and voids the lease.
    Plain,
    /// Loads may lag; an invalidation works as in [`Mode::Plain`], and once more `after` that.
    Settle {
        /// How long a load may lag behind.
        after: Duration,
    },
    /// Each key belongs to exactly one item, with an attribute that only rises; versions are compared.
    Versioned {
        /// The attribute that holds the version.
        attribute: String,
        /// How long a floor is kept where nothing is cached; `None` where loads are strongly consistent.
        tombstone: Option<Duration>,
    },
}

impl Mode {
    /// The name in configuration and labels.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Mode::Plain => "plain",
            Mode::Settle { .. } => "settle",
            Mode::Versioned { .. } => "versioned",
        }
    }
}

/// Keys of one template, and how their entries live.
#[derive(Clone, Debug, PartialEq)]
pub struct KeySpace {
    /// The name, as the configuration and metrics have it.
    pub name: Arc<str>,
    /// How its keys are rendered.
    pub template: Template,
    /// How it is kept true.
    pub mode: Mode,
    /// How long an entry lives without an invalidation.
    pub ttl: Duration,
    /// The part of a time to live, 0 to 1, by which it is shortened at random so that entries do not expire together.
    pub ttl_jitter: f64,
    /// How long "the item does not exist" lives.
    pub negative_ttl: Duration,
    /// Whether an invalidation keeps the payload, marked stale, for serving stale.
    pub keep_stale: bool,
}

impl KeySpace {
    /// How long an entry lives where nothing else is said.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);

    /// The part of a time to live by which it is shortened at random where nothing else is said.
    pub const DEFAULT_TTL_JITTER: f64 = 0.1;

    /// How long "the item does not exist" lives where nothing else is said.
    pub const DEFAULT_NEGATIVE_TTL: Duration = Duration::from_secs(60);

    /// A key space in mode plain with the default times to live, which keeps nothing stale.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, template: Template) -> Self {
        Self {
            name: name.into(),
            template,
            mode: Mode::Plain,
            ttl: Self::DEFAULT_TTL,
            ttl_jitter: Self::DEFAULT_TTL_JITTER,
            negative_ttl: Self::DEFAULT_NEGATIVE_TTL,
            keep_stale: false,
        }
    }

    /// The time to live of a new entry; `random` is uniform in 0 to 1.
    #[must_use]
    pub fn jittered_ttl(&self, negative: bool, random: f64) -> Duration {
        let ttl = if negative { self.negative_ttl } else { self.ttl };
        let factor = 1.0 - self.ttl_jitter.clamp(0.0, 1.0) * random.clamp(0.0, 1.0);
        ttl.mul_f64(factor).max(Duration::from_millis(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_only_shortens_and_never_to_nothing() {
        let space = KeySpace {
            ttl: Duration::from_secs(100),
            negative_ttl: Duration::from_millis(1),
            ..KeySpace::new("product", Template::parse("product:{pk}").unwrap())
        };
        assert_eq!(space.jittered_ttl(false, 0.0), Duration::from_secs(100));
        assert_eq!(space.jittered_ttl(false, 1.0), Duration::from_secs(90));
        assert_eq!(space.jittered_ttl(true, 1.0), Duration::from_millis(1));
    }
}
