//! What a caller asks of its reads beyond its key space's settings.

use std::time::Duration;

use ringtide_core::config::Reader;
use ringtide_core::key::{Chosen, KeySpace};

/// Settings for some reads, in place of those of their key space; see [`crate::Space::with`].
///
/// Windows of serving stale reach only as far as the entry was kept when it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[must_use]
pub struct ReadOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) negative_ttl: Option<Duration>,
    pub(crate) ttl_jitter: Option<f64>,
    pub(crate) stale_while_revalidate: Option<Duration>,
    pub(crate) stale_if_error: Option<Duration>,
    pub(crate) early_refresh: Option<f64>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) soft_timeout: Option<Duration>,
    pub(crate) fresh: bool,
    pub(crate) skips_memory: bool,
}

/// How far a value may be from fresh, in ms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tolerance {
    pub(crate) revalidate_ms: u64,
    pub(crate) error_ms: u64,
    pub(crate) early_refresh: f64,
    /// Whether this process's clock counts; see [`ReadOptions::uses_clock`].
    pub(crate) by_clock: bool,
}

impl ReadOptions {
    /// Begins with the key space's settings.
    pub const fn new() -> Self {
        Self {
            ttl: None,
            negative_ttl: None,
            ttl_jitter: None,
            stale_while_revalidate: None,
            stale_if_error: None,
            early_refresh: None,
            timeout: None,
            soft_timeout: None,
            fresh: false,
            skips_memory: false,
        }
    }

    /// Chooses how long an entry lives that these reads store, less the jitter; cut to the key space's own times to live. It
    /// shortens the life of "does not exist" too, and never lengthens that.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// Chooses how long "does not exist" lives that these reads store, less the jitter; cut to the key space's own times to
    /// live.
    pub const fn negative_ttl(mut self, ttl: Duration) -> Self {
        self.negative_ttl = Some(ttl);
        self
    }

    /// Chooses by which share, at most, the life of an entry that these reads store is shortened at random, 0 to 1; what is no
    /// number counts as 0.
    pub const fn ttl_jitter(mut self, share: f64) -> Self {
        self.ttl_jitter = Some(share);
        self
    }

    /// Chooses how long after its time to live a value is served while it is loaded again; zero for never.
    pub const fn stale_while_revalidate(mut self, window: Duration) -> Self {
        self.stale_while_revalidate = Some(window);
        self
    }

    /// Chooses how long after its time to live a value is served where its load fails; zero for never. A value that was
    /// invalidated is served for the key space's whole window, if for any: its entry does not say since when.
    pub const fn stale_if_error(mut self, window: Duration) -> Self {
        self.stale_if_error = Some(window);
        self
    }

    /// Chooses how eagerly values are loaded again before their time to live is over; never for 0, for what is below it and
    /// for what is no number.
    pub const fn early_refresh(mut self, beta: f64) -> Self {
        self.early_refresh = Some(beta);
        self
    }

    /// Chooses how long a read may take altogether; then it ends with a stale value, where there is one that may be
    /// served, or with [`crate::Error::DeadlineExceeded`]. The load goes on for others. So long an invalidation takes at most,
    /// too, which goes on as well. [`Duration::MAX`] is no limit, also where `[reader] timeout` is one.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Chooses how long a read waits for a load where a stale value may be served instead: within `stale_if_error`, without
    /// which it changes nothing. In a read of many keys it counts from its beginning.
    pub const fn soft_timeout(mut self, timeout: Duration) -> Self {
        self.soft_timeout = Some(timeout);
        self
    }

    /// Loads in any case, and stores what was loaded: the answer is of a load that began after the read, whatever is cached,
    /// and that is strongly consistent where the loader can choose ([`crate::Space::get_or_load_with`]). It is not stored
    /// where its ring shard fails, or where the key changes all the time. An error that a load of the key has ended with a
    /// moment ago is shared as with every read.
    pub const fn fresh(mut self) -> Self {
        self.fresh = true;
        self
    }

    /// Asks the ring also where the key space has values in this process's memory that answer first
    /// ([`LocalTier::Bounded`](crate::LocalTier::Bounded), [`LocalTier::Tracked`](crate::LocalTier::Tracked)); what it answers
    /// is kept there for others.
    pub const fn skip_memory(mut self) -> Self {
        self.skips_memory = true;
        self
    }

    /// Whether entries are judged by this process's clock; where nothing is kept past its time and nothing is loaded
    /// early, only the server's own clock counts.
    #[inline]
    pub(crate) fn uses_clock(&self, space: &KeySpace) -> bool {
        space.serves_stale() || self.early_refresh_or(space) > 0.0
    }

    #[inline]
    fn early_refresh_or(&self, space: &KeySpace) -> f64 {
        self.early_refresh.unwrap_or(space.early_refresh)
    }

    pub(crate) fn tolerance(&self, space: &KeySpace) -> Tolerance {
        let ms = |own: Option<Duration>, usual: Duration| {
            u64::try_from(own.unwrap_or(usual).as_millis()).unwrap_or(u64::MAX)
        };
        Tolerance {
            revalidate_ms: ms(self.stale_while_revalidate, space.stale_while_revalidate),
            error_ms: ms(self.stale_if_error, space.stale_if_error),
            early_refresh: self.early_refresh_or(space),
            by_clock: self.uses_clock(space),
        }
    }

    /// How long an entry of these reads lives, beyond what a loader chooses.
    pub(crate) fn lifetime(&self, space: &KeySpace, negative: bool) -> Chosen {
        let shorter = self.ttl.filter(|ttl| *ttl < space.negative_ttl);
        let ttl = if negative { self.negative_ttl.or(shorter) } else { self.ttl };
        Chosen { exactly: None, ttl, jitter: self.ttl_jitter }
    }

    #[inline]
    pub(crate) fn timeout_or(&self, settings: &Reader) -> Option<Duration> {
        self.timeout.or(settings.timeout)
    }

    pub(crate) fn soft_timeout_or(&self, settings: &Reader) -> Option<Duration> {
        self.soft_timeout.or(settings.soft_timeout)
    }
}
