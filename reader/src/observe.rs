//! What a cache tells of itself: metrics to a recorder of the application's choice, spans, and a hook for those who bring
//! their own.
//!
//! A read is a span `ringtide.read` at level debug, with the fields `cache_space`, `cache_key`, `cache_status` and, where an
//! entry answered, `cache_ttl_remaining_ms`; loads are its children. A read of many keys is a span `ringtide.read_many` with
//! `cache_space`, `cache_keys`, how many were asked for, and `cache_status`, how many were answered in which way:
//! `hit=3 miss=1`. Where nobody listens, a read makes none of it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use metrics::Recorder;
use ringtide_core::clock::unix_ms;
use ringtide_core::key::CacheKey;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::error::Error;
use crate::lookup::Found;

/// What a read was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CacheStatus {
    /// An entry of a ring shard.
    Hit,
    /// An entry of this process's memory.
    LocalHit,
    /// A value past its time.
    Stale,
    /// A load, of this process or of another one that was waited for; nothing, where there was none to wait for
    /// ([`crate::Space::peek`]).
    Miss,
}

/// What a read was answered with, and where that came from.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Read<T> {
    /// The value; `None` for an item that does not exist.
    pub value: Option<T>,
    /// Where it came from; [`CacheStatus::Stale`] where it is past its time, or was invalidated and its load has failed.
    pub status: CacheStatus,
    /// How long the entry that answered is still fresh, by this process's clock; `None` where none did or it does not say.
    pub fresh_for: Option<Duration>,
}

impl<T> From<Found<T>> for Read<T> {
    fn from(found: Found<T>) -> Self {
        Self { status: found.status, fresh_for: found.answered().fresh_for(), value: found.value }
    }
}

impl CacheStatus {
    /// The name in spans and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::LocalHit => "local_hit",
            Self::Stale => "stale",
            Self::Miss => "miss",
        }
    }
}

/// A read that has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct ReadEnd<'a> {
    /// The key space; `raw` for keys that were given whole.
    pub space: &'a str,
    /// The key.
    pub key: &'a CacheKey,
    /// What answered it, or why nothing did.
    pub result: Result<CacheStatus, &'a Error>,
    /// Whether the item exists; `false` for an error too.
    pub exists: bool,
    /// How long the entry that answered is still fresh; `None` where none did or it does not say.
    pub fresh_for: Option<Duration>,
    /// How long the read took.
    pub took: Duration,
}

/// A load that has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct LoadEnd<'a> {
    /// The key space; `raw` for keys that were given whole.
    pub space: &'a str,
    /// The key.
    pub key: &'a CacheKey,
    /// Why it failed.
    pub error: Option<&'a Error>,
    /// How long it took.
    pub took: Duration,
}

/// A hook that is called as reads and loads end, by the task they end in: it must not block, and what it panics with ends
/// that read or load.
///
/// ```
/// use ringtide::{CacheStatus, Observer, ReadEnd};
///
/// struct SlowReads;
///
/// impl Observer for SlowReads {
///     fn read(&self, read: &ReadEnd<'_>) {
///         if read.took.as_millis() > 100 && read.result.is_ok_and(|status| status != CacheStatus::Miss) {
///             eprintln!("{} took {:?}", read.key, read.took);
///         }
///     }
/// }
/// ```
pub trait Observer: Send + Sync + 'static {
    /// A read has ended.
    fn read(&self, read: &ReadEnd<'_>) {
        let _ = read;
    }

    /// A load has ended.
    fn load(&self, load: &LoadEnd<'_>) {
        let _ = load;
    }
}

/// The application's hook, if there is one.
#[derive(Clone, Default)]
pub(crate) struct Watcher(pub(crate) Option<Arc<dyn Observer>>);

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watcher").field(&self.0.is_some()).finish()
    }
}

/// Where a cache's metrics go: to a recorder of the application's own, or to the one that is installed for the process.
#[derive(Clone, Default)]
pub(crate) struct Meter(pub(crate) Option<Arc<dyn Recorder + Send + Sync>>);

impl Meter {
    /// Lets metrics be looked up in the right place.
    pub(crate) fn within<R>(&self, work: impl FnOnce() -> R) -> R {
        match &self.0 {
            Some(recorder) => metrics::with_local_recorder(&**recorder, work),
            None => work(),
        }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Meter").field(&self.0.is_some()).finish()
    }
}

/// A read that somebody watches.
pub(crate) struct Watched<'a> {
    watcher: &'a Watcher,
    space: &'a str,
    key: CacheKey,
    began: Instant,
    span: Span,
}

/// What a read that ended well tells.
#[derive(Clone, Copy)]
pub(crate) struct Answered {
    pub(crate) status: CacheStatus,
    pub(crate) exists: bool,
    /// 0 where it is not known.
    pub(crate) soft_expiry_ms: u64,
}

impl Answered {
    /// Nothing is cached, and nothing was loaded.
    pub(crate) const NOTHING: Self = Self { status: CacheStatus::Miss, exists: false, soft_expiry_ms: 0 };

    /// How long the entry that answered is still fresh.
    fn fresh_for(self) -> Option<Duration> {
        (self.soft_expiry_ms > 0).then(|| Duration::from_millis(self.soft_expiry_ms.saturating_sub(unix_ms())))
    }
}

impl Watcher {
    /// Begins to watch a read, where anybody wants to know.
    #[inline]
    pub(crate) fn begin<'a>(&'a self, space: &'a str, key: &CacheKey) -> Option<Watched<'a>> {
        if self.0.is_none() && !tracing::enabled!(tracing::Level::DEBUG) {
            return None;
        }
        let span = tracing::debug_span!(
            "ringtide.read",
            cache_space = space,
            cache_key = %key,
            cache_status = Empty,
            cache_ttl_remaining_ms = Empty
        );
        Some(Watched { watcher: self, space, key: key.clone(), began: Instant::now(), span })
    }

    /// Tells of a read that has ended.
    fn read(&self, space: &str, key: &CacheKey, result: Result<Answered, &Error>, began: Instant) {
        if let Some(observer) = &self.0 {
            observer.read(&ReadEnd {
                space,
                key,
                result: result.map(|answered| answered.status),
                exists: result.is_ok_and(|answered| answered.exists),
                fresh_for: result.ok().and_then(Answered::fresh_for),
                took: began.elapsed(),
            });
        }
    }

    /// Tells of a load that has ended.
    pub(crate) fn loaded(&self, space: &str, key: &CacheKey, error: Option<&Error>, took: Duration) {
        if let Some(observer) = &self.0 {
            observer.load(&LoadEnd { space, key, error, took });
        }
    }
}

/// How many keys of one read were answered in which way; the hook is told of each.
pub(crate) struct Tally<'a> {
    keys: [usize; STATUSES.len()],
    hook: Option<Hook<'a>>,
}

struct Hook<'a> {
    watcher: &'a Watcher,
    space: &'a str,
    began: Instant,
}

/// What a key may be answered with, in the order in which it is told; the last is for errors.
const STATUSES: [&str; 5] =
    [CacheStatus::Hit.name(), CacheStatus::LocalHit.name(), CacheStatus::Stale.name(), CacheStatus::Miss.name(), ERROR];

/// The status of a read that failed.
const ERROR: &str = "error";

impl<'a> Tally<'a> {
    /// Begins with nothing, as the read begins.
    pub(crate) fn new(watcher: &'a Watcher, space: &'a str) -> Self {
        let hook = watcher.0.is_some().then(|| Hook { watcher, space, began: Instant::now() });
        Self { keys: [0; STATUSES.len()], hook }
    }

    /// Counts a key's answer, and tells the hook of it; `key` is only made where there is one.
    #[inline]
    pub(crate) fn count(&mut self, key: impl FnOnce() -> Option<CacheKey>, result: Result<Answered, &Error>) {
        let at = match result.map(|answered| answered.status) {
            Ok(CacheStatus::Hit) => 0,
            Ok(CacheStatus::LocalHit) => 1,
            Ok(CacheStatus::Stale) => 2,
            Ok(CacheStatus::Miss) => 3,
            Err(_) => 4,
        };
        self.keys[at] += 1;
        if let Some(hook) = &self.hook
            && let Some(key) = key()
        {
            hook.watcher.read(hook.space, &key, result, hook.began);
        }
    }
}

impl fmt::Display for Tally<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let told = STATUSES.iter().zip(self.keys).filter(|(_, keys)| *keys > 0);
        for (at, (status, keys)) in told.enumerate() {
            write!(f, "{}{status}={keys}", if at == 0 { "" } else { " " })?;
        }
        Ok(())
    }
}

/// Begins the span of a read of many keys, where anybody listens; its `cache_status` is recorded at the end.
#[inline]
pub(crate) fn begin_many(space: &str, keys: usize) -> Option<Span> {
    tracing::enabled!(tracing::Level::DEBUG).then(|| {
        tracing::debug_span!("ringtide.read_many", cache_space = space, cache_keys = keys, cache_status = Empty)
    })
}

impl Watched<'_> {
    /// Runs a read within its span, and tells how it ended.
    pub(crate) async fn over<T>(self, read: impl Future<Output = Result<Found<T>, Error>>) -> Result<Found<T>, Error> {
        self.over_any(read, Found::answered).await
    }

    /// As [`Watched::over`], for a read that ends with something else.
    pub(crate) async fn over_any<R>(
        self,
        read: impl Future<Output = Result<R, Error>>,
        answered: impl FnOnce(&R) -> Answered,
    ) -> Result<R, Error> {
        let result = read.instrument(self.span.clone()).await;
        self.end(result.as_ref().map(answered));
        result
    }

    /// Tells how the read ended.
    fn end(self, result: Result<Answered, &Error>) {
        match &result {
            Ok(answered) => self.span.record("cache_status", answered.status.name()),
            Err(_) => self.span.record("cache_status", ERROR),
        };
        if let Some(left) = result.ok().and_then(Answered::fresh_for) {
            self.span.record("cache_ttl_remaining_ms", u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        }
        self.watcher.read(self.space, &self.key, result, self.began);
    }
}
