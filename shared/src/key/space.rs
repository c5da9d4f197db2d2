//! Key spaces: keys of one template that share a mode and their times to live.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::Template;
use crate::clock::CENTURY;
use crate::config::Violation;
use crate::entry::Codec;

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

/// What a process keeps of a key space in its own memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LocalTier {
    /// Nothing.
    Off,
    /// Values that answer only while a ring shard fails, for at most this long after they were read.
    Fallback(Duration),
    /// Values that answer first, for at most this long after they were read: so stale they can be.
    Bounded(Duration),
    /// Values that answer first, and that the server tells to forget when their entries change (`CLIENT TRACKING`); for
    /// at most this long all the same.
    Tracked(Duration),
}

impl LocalTier {
    /// How long a value is kept where nothing else is said.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(1);

    /// How long a tracked value is kept where nothing else is said.
    pub const TRACKED_TTL: Duration = Duration::from_secs(60);
}

/// How long an entry that is written now lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// How long the server keeps it.
    pub ttl: Duration,
    /// Until when it is fresh, in unix ms.
    pub soft_expiry_ms: u64,
}

/// What is chosen of an entry's life in place of its key space's settings.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Chosen {
    /// How long it is fresh, without any jitter.
    pub exactly: Option<Duration>,
    /// How long it is fresh, less the jitter.
    pub ttl: Option<Duration>,
    /// The jitter: the share, 0 to 1, by which its time is shortened at most; what is no number counts as 0.
    pub jitter: Option<f64>,
}

/// The largest [`KeySpace::compress_above`].
const MAX_COMPRESS_ABOVE: usize = 1 << 20;

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
    /// The part of a time to live, 0 to 0.9, by which it is shortened at random so that entries do not expire together.
    pub ttl_jitter: f64,
    /// How long "the item does not exist" lives.
    pub negative_ttl: Duration,
    /// How long after its time to live a value is still served, while it is loaded again in the background.
    pub stale_while_revalidate: Duration,
    /// How long after its time to live, or its invalidation, a value is kept to be served where its load fails.
    pub stale_if_error: Duration,
    /// How eagerly values are loaded again before their time to live is over: XFetch's β (Vattani, Chierichetti and
    /// Lowenstein, 2015), 0 for never.
    pub early_refresh: f64,
    /// How readers encode values; what they read says itself how it was encoded.
    pub codec: Codec,
    /// The length in bytes above which readers compress payloads; `None` for never.
    pub compress_above: Option<usize>,
    /// How long a load of a reader may take, in place of the reader's own setting.
    pub load_timeout: Option<Duration>,
    /// What readers keep in their own memory.
    pub local: LocalTier,
}

impl KeySpace {
    /// How long an entry lives where nothing else is said.
    pub const DEFAULT_TTL: Duration = Duration::from_secs(3600);

    /// The part of a time to live by which it is shortened at random where nothing else is said.
    pub const DEFAULT_TTL_JITTER: f64 = 0.1;

    /// How long "the item does not exist" lives where nothing else is said.
    pub const DEFAULT_NEGATIVE_TTL: Duration = Duration::from_secs(60);

    /// What readers keep in their own memory where nothing else is said.
    pub const DEFAULT_LOCAL: LocalTier = LocalTier::Fallback(LocalTier::DEFAULT_TTL);

    /// A key space in mode plain with the default times to live, which serves nothing stale.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, template: Template) -> Self {
        Self {
            name: name.into(),
            template,
            mode: Mode::Plain,
            ttl: Self::DEFAULT_TTL,
            ttl_jitter: Self::DEFAULT_TTL_JITTER,
            negative_ttl: Self::DEFAULT_NEGATIVE_TTL,
            stale_while_revalidate: Duration::ZERO,
            stale_if_error: Duration::ZERO,
            early_refresh: 0.0,
            codec: Codec::Json,
            compress_above: None,
            load_timeout: None,
            local: Self::DEFAULT_LOCAL,
        }
    }

    /// Finds every setting that no reader can work with.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        let short = |ttl: Duration| (ttl < Duration::from_millis(1)).then(|| format!("{ttl:?} is too short"));
        let outside = |number: f64, range: RangeInclusive<f64>| {
            (!range.contains(&number)).then(|| format!("{number} is out of range"))
        };
        let local = match self.local {
            LocalTier::Off => None,
            LocalTier::Fallback(ttl) | LocalTier::Bounded(ttl) | LocalTier::Tracked(ttl) => short(ttl),
        };
        // What is kept stale carries the floor for as long as a tombstone would.
        let outlived = match self.mode {
            Mode::Versioned { tombstone: Some(ttl), .. } if self.keeps_stale() && self.stale_if_error < ttl => {
                Some(format!("{:?} is shorter than the tombstone's {ttl:?}", self.stale_if_error))
            }
            Mode::Plain | Mode::Settle { .. } | Mode::Versioned { .. } => None,
        };
        let (after, floor, attribute) = match &self.mode {
            Mode::Plain => (None, None, None),
            Mode::Settle { after } => (short(*after), None, None),
            Mode::Versioned { attribute, tombstone } => {
                let nameless = "mode versioned needs the attribute that holds the version";
                (None, tombstone.and_then(short), attribute.is_empty().then(|| nameless.to_owned()))
            }
        };
        let compressed = self.compress_above.filter(|bytes| !(1..=MAX_COMPRESS_ABOVE).contains(bytes));
        let part = "use a part of the time to live, 0 to 0.9";
        let rules = [
            ("settle", after, "use at least 1ms"),
            ("version_attribute", attribute, "name it, for example \"version\""),
            ("tombstone", floor, "use at least 1ms"),
            ("compress_above", compressed.map(|bytes| format!("{bytes} is out of range")), "use 1 to 1048576"),
            ("ttl_jitter", outside(self.ttl_jitter, 0.0..=0.9), part),
            ("ttl", short(self.ttl), "use at least 1ms"),
            ("negative_ttl", short(self.negative_ttl), "use at least 1ms"),
            ("early_refresh", outside(self.early_refresh, 0.0..=100.0), "use 1, or 0 for never"),
            ("load_timeout", self.load_timeout.and_then(short), "use 1s or more"),
            ("local_ttl", local, "use at least 1ms"),
            ("stale_if_error", outlived, "make it at least as long as the tombstone"),
        ];
        let violation = |(field, problem, remedy): (&str, Option<String>, &str)| {
            Some(Violation::new(format!("spaces.{}.{field}", self.name), problem?, remedy))
        };
        rules.into_iter().filter_map(violation).collect()
    }

    /// Whether an invalidation keeps the payload, marked stale.
    #[must_use]
    pub fn keeps_stale(&self) -> bool {
        !self.stale_if_error.is_zero()
    }

    /// Whether values are kept past their time to live.
    #[must_use]
    pub fn serves_stale(&self) -> bool {
        self.keeps_stale() || !self.stale_while_revalidate.is_zero()
    }

    /// The longest that an entry can live, whatever is chosen for it.
    #[must_use]
    pub fn longest_life(&self) -> Duration {
        self.longest_fresh().saturating_add(self.kept_stale())
    }

    /// The longest time to live that can be chosen.
    fn longest_fresh(&self) -> Duration {
        self.ttl.max(self.negative_ttl)
    }

    /// How long a value is kept after its time to live.
    fn kept_stale(&self) -> Duration {
        self.stale_while_revalidate.max(self.stale_if_error)
    }

    /// How long an entry lives that is written at `now_ms` (unix ms): the key space's time to live, or what was chosen for
    /// it, shortened by `random`, uniform in 0 to 1.
    ///
    /// What is chosen is cut to the key space's own time: for so long are an entry's earlier owners remembered when the
    /// ring changes.
    #[must_use]
    pub fn lifetime(&self, chosen: Chosen, negative: bool, now_ms: u64, random: f64) -> Lifetime {
        let longest = self.longest_fresh().min(CENTURY);
        let jittered = || {
            let ttl = chosen.ttl.unwrap_or(if negative { self.negative_ttl } else { self.ttl }).min(longest);
            let jitter = chosen.jitter.unwrap_or(self.ttl_jitter);
            let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
            ttl.mul_f64(1.0 - jitter * random.clamp(0.0, 1.0))
        };
        let fresh = chosen.exactly.unwrap_or_else(jittered).min(longest).max(Duration::from_millis(1));
        let fresh_ms = u64::try_from(fresh.as_millis()).unwrap_or(u64::MAX);
        // "Does not exist" costs little to ask for again, and is never served past its time.
        let kept = if negative { Duration::ZERO } else { self.kept_stale() };
        Lifetime { ttl: fresh.saturating_add(kept), soft_expiry_ms: now_ms.saturating_add(fresh_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_lives_longer_than_the_longest_life() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        for (ttl, negative_ttl) in [(1, 60), (60, 1)] {
            let space = KeySpace {
                ttl: minutes(ttl),
                negative_ttl: minutes(negative_ttl),
                stale_while_revalidate: minutes(90),
                ..KeySpace::new("product", Template::parse("product:{pk}").unwrap())
            };
            for chosen in [None, Some(minutes(7)), Some(minutes(1000))] {
                for exactly in [None, Some(minutes(60)), Some(Duration::MAX)] {
                    let chosen = Chosen { ttl: chosen, exactly, ..Chosen::default() };
                    for negative in [false, true] {
                        let life = space.lifetime(chosen, negative, 0, 0.0).ttl;
                        assert!(life <= space.longest_life(), "{chosen:?} lives for {life:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn jitter_only_shortens_and_never_to_nothing() {
        let space = KeySpace {
            ttl: Duration::from_secs(100),
            negative_ttl: Duration::from_millis(1),
            ..KeySpace::new("product", Template::parse("product:{pk}").unwrap())
        };
        let of = |ttl| Lifetime { ttl, soft_expiry_ms: 7 + u64::try_from(ttl.as_millis()).unwrap() };
        let of_space = Chosen::default();
        assert_eq!(space.lifetime(of_space, false, 7, 0.0), of(Duration::from_secs(100)));
        assert_eq!(space.lifetime(of_space, false, 7, 1.0), of(Duration::from_secs(90)));
        assert_eq!(space.lifetime(of_space, true, 7, 1.0), of(Duration::from_millis(1)));
        let exactly = Chosen { exactly: Some(Duration::from_secs(5)), ..of_space };
        assert_eq!(space.lifetime(exactly, false, 7, 1.0), of(Duration::from_secs(5)));
        let about = Chosen { ttl: Some(Duration::from_secs(10)), ..of_space };
        assert_eq!(space.lifetime(about, false, 7, 1.0), of(Duration::from_secs(9)));
        let half = Chosen { jitter: Some(0.5), ..about };
        assert_eq!(space.lifetime(half, false, 7, 1.0), of(Duration::from_secs(5)));
        for jitter in [f64::NAN, -1.0] {
            let none = Chosen { jitter: Some(jitter), ..about };
            assert_eq!(space.lifetime(none, false, 7, 1.0), of(Duration::from_secs(10)), "{jitter} is none");
        }
        let long = Chosen { ttl: Some(Duration::MAX), ..of_space };
        assert_eq!(space.lifetime(long, false, 7, 0.0), of(Duration::from_secs(100)));
        let endless = KeySpace { ttl: Duration::MAX, stale_if_error: Duration::MAX, ..space };
        assert_eq!(endless.lifetime(of_space, false, 7, 0.0).soft_expiry_ms, of(CENTURY).soft_expiry_ms);
    }

    #[test]
    fn a_value_outlives_its_freshness_by_the_longer_window_and_an_absence_does_not() {
        let space = KeySpace {
            ttl_jitter: 0.0,
            stale_while_revalidate: Duration::from_secs(5),
            stale_if_error: Duration::from_secs(60),
            ..KeySpace::new("product", Template::parse("product:{pk}").unwrap())
        };
        let value = space.lifetime(Chosen::default(), false, 0, 0.5);
        assert_eq!(value, Lifetime { ttl: Duration::from_secs(3660), soft_expiry_ms: 3_600_000 });
        assert_eq!(space.lifetime(Chosen::default(), true, 0, 0.5).ttl, Duration::from_secs(60));
    }
}
