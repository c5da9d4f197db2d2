//! Looking up: a hit is one plain `GET`; whatever is no usable entry is a miss that joins the key's flight.

use std::any::TypeId;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringtide_core::clock::unix_ms;
use ringtide_core::config;
use ringtide_core::entry::{Codec, Compression, HEADER_LEN, Header, NotAnEntry, State};
use ringtide_core::key::CacheKey;
use ringtide_core::valkey::ShardError;
use serde::de::DeserializeOwned;
use tracing::Instrument;

use crate::cache::Inner;
use crate::codec;
use crate::counters::{MissReason, StaleReason};
use crate::error::{BoxError, Error};
use crate::fill::entry_of;
use crate::flight::{Outcome, Seat};
use crate::freshness::Freshness;
use crate::lease::{self, Plan};
use crate::load;
use crate::loader::{Consistency, Lender, Loader};
use crate::observe::{Answered, CacheStatus};
use crate::options::ReadOptions;
use crate::space::SpaceState;

/// A usable entry.
pub(crate) struct Found<T> {
    /// The value; `None` where the item does not exist.
    pub(crate) value: Option<T>,
    /// Where the value is to be loaded again: entries whose soft expiry is not after this (unix ms); else 0.
    pub(crate) refresh_before_ms: u64,
    /// When the entry stops being fresh, in unix ms; 0 where it does not say, or no entry answered.
    pub(crate) soft_expiry_ms: u64,
    pub(crate) status: CacheStatus,
}

impl<T> Found<T> {
    /// What a read was answered with that found no usable entry.
    fn past_the_cache(value: Option<T>, status: CacheStatus) -> Self {
        Self { value, refresh_before_ms: 0, soft_expiry_ms: 0, status }
    }

    /// The same with another form of its value.
    pub(crate) fn map<U>(self, form: impl FnOnce(T) -> U) -> Found<U> {
        let Self { value, refresh_before_ms, soft_expiry_ms, status } = self;
        Found { value: value.map(form), refresh_before_ms, soft_expiry_ms, status }
    }

    pub(crate) fn answered(&self) -> Answered {
        let (status, soft_expiry_ms) = (self.status, self.soft_expiry_ms);
        Answered { status, exists: self.value.is_some(), soft_expiry_ms }
    }
}

/// Why a look-up has no value.
pub(crate) enum Miss {
    Absent,
    NotAnEntry(NotAnEntry),
    /// A tombstone, or a value that was invalidated; the entry where it may be served if its load fails.
    Invalidated(Option<Bytes>),
    /// A value past its time; the entry where it may be served if its load fails.
    Expired(Option<Bytes>),
    /// An entry that is not read as the type asked for.
    Undecodable {
        entry: Bytes,
        source: BoxError,
    },
    /// The caller wants it loaded in any case.
    Refused,
    /// Its ring shard does not answer; the entry in this process's memory where it may be served if the load fails.
    Down {
        error: ShardError,
        stale: Option<Bytes>,
    },
}

impl Miss {
    pub(crate) fn reason(&self) -> MissReason {
        match self {
            Miss::Absent => MissReason::Absent,
            Miss::NotAnEntry(NotAnEntry::Foreign) => MissReason::Foreign,
            Miss::NotAnEntry(NotAnEntry::UnknownFormat) => MissReason::UnknownFormat,
            Miss::NotAnEntry(NotAnEntry::Damaged) => MissReason::Damaged,
            Miss::Invalidated(_) => MissReason::Invalidated,
            Miss::Expired(_) => MissReason::Expired,
            Miss::Undecodable { .. } => MissReason::Undecodable,
            Miss::Refused => MissReason::Refused,
            Miss::Down { .. } => MissReason::Unavailable,
        }
    }

    /// The entry that may be served if the load fails.
    pub(crate) fn stale(&self) -> Option<&Bytes> {
        match self {
            Miss::Invalidated(entry) | Miss::Expired(entry) | Miss::Down { stale: entry, .. } => entry.as_ref(),
            Miss::Absent | Miss::NotAnEntry(_) | Miss::Undecodable { .. } | Miss::Refused => None,
        }
    }
}

/// A read that missed.
pub(crate) struct Missed<'a> {
    pub(crate) key: CacheKey,
    pub(crate) space: &'a Arc<SpaceState>,
    pub(crate) options: &'a ReadOptions,
    pub(crate) deadline: Option<tokio::time::Instant>,
    pub(crate) loader: &'a mut dyn Lender,
    /// The latest entry that it found of a value that may be served if its load fails.
    stale: Option<Bytes>,
    /// When it is served at the latest, beside the deadline.
    pub(crate) soft: Option<tokio::time::Instant>,
}

/// What follows for a read that has waited for its flight.
enum Next<T> {
    Answered(Result<Found<T>, Error>),
    /// It joins another flight.
    Miss(Miss),
    LookAgain,
}

impl Inner {
    /// Looks a key up; a hit does nothing besides the `GET`, reading the payload and one counter.
    #[inline]
    pub(crate) async fn look<T: DeserializeOwned>(
        &self,
        key: &CacheKey,
        space: &SpaceState,
        options: &ReadOptions,
    ) -> Result<Found<T>, Miss> {
        if options.fresh {
            return Err(Miss::Refused);
        }
        let shard = self.shard(key);
        // Before it is known whether an invalidation is owed: one that is from now on refuses the copy.
        let ticket = self.local.before_read(key, space, &shard);
        if let Some(error) = self.owed(&shard, key) {
            return self.local_fallback(key, space, options, error);
        }
        let entry = match shard.get(key).await {
            Ok(Some(entry)) => entry,
            Ok(None) => return Err(Miss::Absent),
            Err(error) => return self.local_fallback(key, space, options, error),
        };
        self.local.after_read(ticket, key, space, &entry);
        self.accept(&entry, space, options)
    }

    /// Looks a key up without ever loading it; nothing where nothing may be served.
    pub(crate) async fn peek<T: DeserializeOwned>(
        &self,
        key: &CacheKey,
        space: &SpaceState,
        options: &ReadOptions,
    ) -> Result<Option<Found<T>>, Error> {
        if let Some(found) = self.local_peek(key, space, options) {
            return Ok(Some(found));
        }
        let look = self.look(key, space, options);
        let looked = match limit_of(options, &self.settings) {
            None => look.await,
            Some((after, at)) => match tokio::time::timeout_at(at, look).await {
                Ok(looked) => looked,
                Err(_) => return self.peek_at_deadline(key, space, options, after),
            },
        };
        match looked {
            Ok(found) => Ok(Some(found)),
            Err(miss) => {
                tracing::debug!(key = %key, reason = ?miss.reason(), "nothing to serve");
                space.counters.misses.add(miss.reason());
                match miss {
                    Miss::Down { error, .. } => {
                        Err(Error::Unavailable { key: key.clone(), source: BoxError::from(error).into() })
                    }
                    _ => Ok(None),
                }
            }
        }
    }

    /// What a look-up ends with that was not answered by its deadline; not with what is kept for loads that fail, as there is none.
    #[cold]
    fn peek_at_deadline<T: DeserializeOwned>(
        &self,
        key: &CacheKey,
        space: &SpaceState,
        options: &ReadOptions,
        after: Duration,
    ) -> Result<Option<Found<T>>, Error> {
        let found = self.local_instead(key, space, options).ok();
        found.map(Some).ok_or_else(|| late(key.clone(), space, after))
    }

    /// Judges an entry, reads its value, and counts it.
    #[inline]
    pub(crate) fn accept<T: DeserializeOwned>(
        &self,
        entry: &Bytes,
        space: &SpaceState,
        options: &ReadOptions,
    ) -> Result<Found<T>, Miss> {
        let found = read_entry(entry, space, options)?;
        match found.value {
            Some(_) => space.counters.hits.increment(1),
            None => space.counters.negatives.increment(1),
        }
        Ok(found)
    }

    /// Hands out what was found, and loads it again behind the read where that is due; `loader` is only made then.
    #[inline]
    pub(crate) fn serve<T>(
        self: &Arc<Self>,
        found: Found<T>,
        key: impl FnOnce() -> CacheKey,
        space: &Arc<SpaceState>,
        options: &ReadOptions,
        loader: impl FnOnce() -> Loader,
    ) -> Found<T> {
        if found.refresh_before_ms != 0 {
            self.refresh_behind(key(), space, options, loader(), &found);
        }
        found
    }

    /// Loads a key again that was just served, unless somebody is at it.
    pub(crate) fn refresh_behind<T>(
        self: &Arc<Self>,
        key: CacheKey,
        space: &Arc<SpaceState>,
        options: &ReadOptions,
        loader: Loader,
        served: &Found<T>,
    ) {
        let refresh_before_ms = served.refresh_before_ms;
        if self.failures.shared(&key, Instant::now()).is_some() {
            return;
        }
        let Some(flight) = self.flights.begin(&key, Instant::now()) else { return };
        if served.status != CacheStatus::Stale {
            space.counters.early.increment(1);
        }
        tracing::debug!(key = %key, refresh_before_ms, "loading again behind a read");
        let plan = self.plan(key, space, options, loader, refresh_before_ms);
        self.spawn(lease::fly(self.clone(), plan, flight, None).in_current_span());
    }

    fn plan(
        &self,
        key: CacheKey,
        space: &Arc<SpaceState>,
        options: &ReadOptions,
        loader: Loader,
        refresh_before_ms: u64,
    ) -> Plan {
        let shard = self.shard(&key);
        Plan {
            key,
            space: space.clone(),
            shard,
            options: *options,
            loader,
            refresh_before_ms,
            repeats: false,
            rejected: None,
        }
    }

    /// Answers a read that missed, from the key's flight.
    ///
    /// A flight's answer that may lack what had been delivered when this read began is not taken; the read looks up again
    /// and joins the next flight, which began after it. So a key that is invalidated all the time cannot starve its readers.
    ///
    /// A herd of readers waits here, so its future is small: what few of them need is boxed.
    pub(crate) async fn answer_miss<T: DeserializeOwned + 'static>(
        self: &Arc<Self>,
        missed: &mut Missed<'_>,
        mut miss: Miss,
    ) -> Result<Found<T>, Error> {
        let since = Instant::now();
        missed.space.counters.misses.add(miss.reason());
        for attempt in 1..=self.settings.max_attempts {
            tracing::debug!(key = %missed.key, reason = ?miss.reason(), attempt, "cache miss");
            if let Some(entry) = miss.stale() {
                missed.keep(entry, &self.settings);
            }
            let outcome = match self.join(missed, miss, since) {
                Seat::Answered(outcome) => Some(outcome),
                Seat::Waiting(answered) if missed.limit().is_none() => answered.await.ok(),
                Seat::Waiting(answered) => match Box::pin(missed.or_stale(answered)).await {
                    Ok(outcome) => outcome.ok(),
                    Err(found) => return Ok(found),
                },
            };
            miss = match self.conclude(missed, outcome) {
                Next::Answered(answer) => return self.passed_on(missed, answer),
                Next::Miss(next) => next,
                Next::LookAgain => match Box::pin(self.look_again(missed)).await {
                    Ok(found) => return Ok(found),
                    Err(next) => next,
                },
            };
        }
        let answer = Box::pin(self.answer_past_the_cache(missed, since)).await;
        self.passed_on(missed, answer)
    }

    /// Hands an answer on; what this process keeps of the key in its memory is gone where the read did not want it.
    fn passed_on<T>(&self, missed: &Missed<'_>, answer: Result<Found<T>, Error>) -> Result<Found<T>, Error> {
        if missed.options.fresh && answer.is_ok() {
            self.local.passed(&missed.key);
        }
        answer
    }

    /// Takes a seat in the key's flight, which is started where there is none.
    fn join(self: &Arc<Self>, missed: &mut Missed<'_>, miss: Miss, since: Instant) -> Seat {
        let Missed { key, space, options, loader, .. } = missed;
        if let Some(error) = self.failures.shared(key, Instant::now()) {
            space.counters.shared_errors.increment(1);
            return Seat::Answered(Outcome::Failed(error));
        }
        let (seat, flight) = self.flights.join(key, since);
        let Some(flight) = flight else {
            space.counters.joined.increment(1);
            loader.stand_by();
            return seat;
        };
        let refresh_before_ms = match &miss {
            Miss::Refused => u64::MAX,
            Miss::Expired(_) => unix_ms(),
            _ if !options.uses_clock(&space.settings) => 0,
            _ => unix_ms(),
        };
        let mut plan = self.plan(key.clone(), space, options, loader.lend().clone(), refresh_before_ms);
        let down = match miss {
            Miss::Down { error, .. } => Some(error),
            Miss::Undecodable { entry, .. } => {
                plan.rejected = Some(entry);
                None
            }
            Miss::Absent | Miss::NotAnEntry(_) | Miss::Invalidated(_) | Miss::Expired(_) | Miss::Refused => None,
        };
        self.spawn(lease::fly(self.clone(), plan, flight, down).in_current_span());
        seat
    }

    /// What a read does that has waited; a stale value answers where its load failed.
    fn conclude<T: DeserializeOwned + 'static>(&self, missed: &mut Missed<'_>, outcome: Option<Outcome>) -> Next<T> {
        let Missed { key, space, options, .. } = missed;
        let failure = match outcome {
            // What a load found that had begun before, or what others stored, may be older than what its caller asks for.
            Some(Outcome::Answer { newer: false, .. } | Outcome::Retry) if options.fresh => {
                return Next::Miss(Miss::Refused);
            }
            Some(Outcome::Answer { entry, loaded, .. }) => {
                let just_loaded = loaded == Some(TypeId::of::<T>());
                return match self.decode_answer(&entry, space, options, just_loaded) {
                    Ok(value) => Next::Answered(Ok(Found::past_the_cache(value, CacheStatus::Miss))),
                    Err(Miss::Undecodable { source, .. }) if just_loaded => {
                        Next::Answered(Err(undecodable(key.clone(), source)))
                    }
                    Err(next) => Next::Miss(next),
                };
            }
            Some(Outcome::Retry) => return Next::LookAgain,
            Some(Outcome::Failed(error)) => error,
            None => Error::Closed { key: key.clone() },
        };
        Next::Answered(missed.serve_stale(StaleReason::Error).ok_or(failure))
    }

    /// Looks up once more.
    async fn look_again<T: DeserializeOwned>(&self, missed: &mut Missed<'_>) -> Result<Found<T>, Miss> {
        let (key, space, options) = (missed.key.clone(), missed.space, missed.options);
        missed.or_stale(self.look(&key, space, options)).await.unwrap_or_else(Ok)
    }

    /// Answers a read whose every attempt was in vain by a load without a lease, which such reads of the key share; nothing is
    /// stored.
    async fn answer_past_the_cache<T: DeserializeOwned + 'static>(
        self: &Arc<Self>,
        missed: &mut Missed<'_>,
        since: Instant,
    ) -> Result<Found<T>, Error> {
        missed.space.counters.uncached.increment(1);
        let outcome = match self.join_last(missed, since) {
            Seat::Answered(outcome) => Some(outcome),
            Seat::Waiting(answered) => match missed.or_stale(answered).await {
                Ok(outcome) => outcome.ok(),
                Err(found) => return Ok(found),
            },
        };
        match self.conclude(missed, outcome) {
            Next::Answered(answer) => answer,
            // It was loaded as another type, which this one does not read.
            Next::Miss(_) | Next::LookAgain => self.load_alone(missed).await,
        }
    }

    /// Takes a seat in the key's last flight, whose load has no lease; it is started where there is none.
    fn join_last(self: &Arc<Self>, missed: &mut Missed<'_>, since: Instant) -> Seat {
        let (seat, flight) = self.last_flights.join(&missed.key, since);
        match flight {
            Some(flight) => {
                let plan = self.plan_of_last(missed);
                self.spawn(lease::fly_past_the_cache(self.clone(), plan, flight).in_current_span());
            }
            None => {
                missed.space.counters.joined.increment(1);
                missed.loader.stand_by();
            }
        }
        seat
    }

    /// The plan of a load past the cache. That is neither a first load nor one on behalf of a failure, so the budget of repeated
    /// loads has no part in it.
    fn plan_of_last(&self, missed: &mut Missed<'_>) -> Plan {
        let loader = missed.loader.lend().clone();
        let plan = self.plan(missed.key.clone(), missed.space, missed.options, loader, 0);
        Plan { repeats: true, ..plan }
    }

    /// Loads without a lease, for this read alone.
    async fn load_alone<T: DeserializeOwned>(&self, missed: &mut Missed<'_>) -> Result<Found<T>, Error> {
        let plan = self.plan_of_last(missed);
        let loaded = match missed.or_stale(load::unleased(self, &plan, Consistency::Strong)).await {
            Ok(Ok((_, loaded))) => loaded,
            Ok(Err(error)) => return missed.serve_stale(StaleReason::Error).ok_or(error),
            Err(found) => return Ok(found),
        };
        match decode(&entry_of(&loaded, 0)) {
            Ok(value) => Ok(Found::past_the_cache(value, CacheStatus::Miss)),
            Err(Miss::Undecodable { source, .. }) => Err(undecodable(plan.key, source)),
            // An entry that was just written is read as one.
            Err(_) => Ok(Found::past_the_cache(None, CacheStatus::Miss)),
        }
    }

    /// Reads a flight's answer; what this process has just loaded is as fresh as can be.
    fn decode_answer<T: DeserializeOwned>(
        &self,
        entry: &Bytes,
        space: &SpaceState,
        options: &ReadOptions,
        just_loaded: bool,
    ) -> Result<Option<T>, Miss> {
        if just_loaded {
            return decode(entry);
        }
        let header = Header::parse(entry).map_err(Miss::NotAnEntry)?;
        if is_fresh_by_server(&header, space, options) {
            return read_payload(&header, entry);
        }
        match options.tolerance(&space.settings).judge(&header, unix_ms(), 1.0) {
            Freshness::Fresh | Freshness::Early | Freshness::Revalidate => read_payload(&header, entry),
            Freshness::OnError => Err(Miss::Expired(Some(entry.clone()))),
            Freshness::Gone => Err(Miss::Expired(None)),
        }
    }
}

/// Judges an entry and reads its value; the caller counts it among the hits.
#[inline]
pub(crate) fn read_entry<T: DeserializeOwned>(
    entry: &Bytes,
    space: &SpaceState,
    options: &ReadOptions,
) -> Result<Found<T>, Miss> {
    let header = Header::parse(entry).map_err(Miss::NotAnEntry)?;
    let refresh_before_ms = judge(&header, entry, space, options)?;
    let value = read_payload(&header, entry)?;
    let soft_expiry_ms = header.soft_expiry_ms;
    // An early refresh asks for what is fresh up to its soft expiry, a revalidation for what is fresh by now.
    let past = soft_expiry_ms > 0 && refresh_before_ms > soft_expiry_ms;
    let status = if past { CacheStatus::Stale } else { CacheStatus::Hit };
    Ok(Found { value, refresh_before_ms, soft_expiry_ms, status })
}

/// Whether an entry is fresh because its server has it: nothing depends on this process's clock.
#[inline]
fn is_fresh_by_server(header: &Header, space: &SpaceState, options: &ReadOptions) -> bool {
    matches!(header.state, State::Value | State::Negative) && !options.uses_clock(&space.settings)
}

/// Judges an entry: entries whose soft expiry is not after what is returned (unix ms) are to be loaded again; 0 for none.
#[inline]
pub(crate) fn judge(header: &Header, entry: &Bytes, space: &SpaceState, options: &ReadOptions) -> Result<u64, Miss> {
    if is_fresh_by_server(header, space, options) {
        return Ok(0);
    }
    let now_ms = unix_ms();
    match (options.tolerance(&space.settings).judge(header, now_ms, fastrand::f64()), header.state) {
        (Freshness::Fresh, _) => Ok(0),
        (Freshness::Early, _) => Ok(header.soft_expiry_ms),
        (Freshness::Revalidate, _) => {
            space.counters.stale.add(StaleReason::Revalidate);
            Ok(now_ms)
        }
        (Freshness::OnError, State::Stale) => Err(Miss::Invalidated(Some(entry.clone()))),
        (Freshness::OnError, _) => Err(Miss::Expired(Some(entry.clone()))),
        (Freshness::Gone, State::Stale | State::Tombstone) => Err(Miss::Invalidated(None)),
        (Freshness::Gone, State::Value | State::Negative) => Err(Miss::Expired(None)),
    }
}

impl<'a> Missed<'a> {
    pub(crate) fn new(
        key: CacheKey,
        space: &'a Arc<SpaceState>,
        options: &'a ReadOptions,
        deadline: Option<tokio::time::Instant>,
        loader: &'a mut dyn Lender,
    ) -> Self {
        Self { key, space, options, deadline, loader, stale: None, soft: None }
    }

    /// Keeps the entry of a value that may be served if its load fails, or takes longer than the read waits from now on.
    fn keep(&mut self, entry: &Bytes, settings: &config::Reader) {
        self.stale = Some(entry.clone());
        self.soft = self.soft.or_else(|| from_now(self.options.soft_timeout_or(settings)?));
    }

    /// When the read stops to wait because a stale value may be served instead, and why.
    fn limit(&self) -> Option<(tokio::time::Instant, StaleReason)> {
        self.stale.as_ref()?;
        let (at, reason) = match (self.soft, self.deadline) {
            (None, None) => return None,
            (Some(soft), Some(deadline)) if deadline <= soft => (deadline, StaleReason::Deadline),
            (Some(soft), _) => (soft, StaleReason::SoftTimeout),
            (None, Some(deadline)) => (deadline, StaleReason::Deadline),
        };
        // A little before the deadline, at which the whole read ends.
        Some((at.checked_sub(Duration::from_millis(2)).unwrap_or(at), reason))
    }

    /// Waits for something, unless a stale value has to answer before.
    async fn or_stale<T: DeserializeOwned, R>(&mut self, awaited: impl Future<Output = R>) -> Result<R, Found<T>> {
        let mut awaited = pin!(awaited);
        while let Some((at, reason)) = self.limit() {
            if let Ok(done) = tokio::time::timeout_at(at, &mut awaited).await {
                return Ok(done);
            }
            if let Some(found) = self.serve_stale(reason) {
                return Err(found);
            }
        }
        Ok(awaited.await)
    }

    /// Serves the value that is kept for serving stale; nothing where there is none that this type reads, from then on.
    fn serve_stale<T: DeserializeOwned>(&mut self, reason: StaleReason) -> Option<Found<T>> {
        serve_stale(&self.key, self.space, &self.stale.take()?, reason)
    }
}

/// How long a read may take, and when that is over where it begins now; nothing where it has no limit.
#[inline]
pub(crate) fn limit_of(options: &ReadOptions, settings: &config::Reader) -> Option<(Duration, tokio::time::Instant)> {
    let after = options.timeout_or(settings)?;
    Some((after, from_now(after)?))
}

/// When a time is over that begins now; nothing where that is beyond what clocks can tell.
pub(crate) fn from_now(after: Duration) -> Option<tokio::time::Instant> {
    tokio::time::Instant::now().checked_add(after)
}

/// The error of a read that had no value when its time was over.
pub(crate) fn late(key: CacheKey, space: &SpaceState, after: Duration) -> Error {
    space.counters.late.increment(1);
    Error::DeadlineExceeded { key, after }
}

fn undecodable(key: CacheKey, source: BoxError) -> Error {
    Error::Decode { key, source: source.into() }
}

/// Reads the value of an entry that is fresh; `None` for a negative entry.
pub(crate) fn decode<T: DeserializeOwned>(entry: &Bytes) -> Result<Option<T>, Miss> {
    let header = Header::parse(entry).map_err(Miss::NotAnEntry)?;
    match header.state {
        State::Value | State::Negative => read_payload(&header, entry),
        State::Stale | State::Tombstone => Err(Miss::Invalidated(None)),
    }
}

/// Serves a value that is kept for serving stale; nothing where that cannot be.
pub(crate) fn serve_stale<T: DeserializeOwned>(
    key: &CacheKey,
    space: &SpaceState,
    entry: &Bytes,
    reason: StaleReason,
) -> Option<Found<T>> {
    let header = Header::parse(entry).ok()?;
    let value = match header.state {
        State::Value | State::Stale => read_payload(&header, entry).ok()??,
        State::Negative | State::Tombstone => return None,
    };
    space.counters.stale.add(reason);
    tracing::debug!(key = %key, ?reason, "serving a stale value");
    Some(Found::past_the_cache(Some(value), CacheStatus::Stale))
}

/// Reads the payload of an entry with a value; inlined in any case, because each call by itself moves the value once more.
#[inline(always)]
fn read_payload<T: DeserializeOwned>(header: &Header, entry: &Bytes) -> Result<Option<T>, Miss> {
    let undecodable = |source| Err(Miss::Undecodable { entry: entry.clone(), source });
    match (header.state, header.codec, header.compression) {
        (State::Negative, _, _) => Ok(None),
        (_, Codec::Json, Compression::None) => match serde_json::from_slice(&entry[HEADER_LEN..]) {
            Ok(value) => Ok(Some(value)),
            Err(error) => undecodable(error.into()),
        },
        (_, codec, compression) => match codec::decode(codec, compression, &entry[HEADER_LEN..]) {
            Ok(value) => Ok(Some(value)),
            Err(error) => undecodable(error),
        },
    }
}
