//! What loaders return, and loaders without their types.

use std::any::TypeId;
use std::cell::LazyCell;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use ringtide_core::version::Version;
use serde::Serialize;

use crate::codec::{Encoding, Payload};
use crate::error::BoxError;
use crate::shard::ReadShard;

/// A loaded value with what the origin knows about it.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
#[non_exhaustive]
pub struct Loaded<T> {
    /// The value; `None` where the item does not exist, which is cached too.
    pub value: Option<T>,
    /// The item's version; [`Version::NONE`] where it has none.
    pub version: Version,
    /// How long the entry lives, in place of the key space's time to live; see [`Loaded::ttl`].
    pub ttl: Option<Duration>,
    /// Whether it is stored; see [`Loaded::uncached`].
    pub cached: bool,
}

impl<T> Loaded<T> {
    /// Takes a value without a version.
    pub fn new(value: Option<T>) -> Self {
        Self { value, version: Version::NONE, ttl: None, cached: true }
    }

    /// Answers the reads that wait for this load in this process, and is not stored: for what is good for now only, such as a
    /// part of an item while the rest of it cannot be had. Others who waited for the lease load for themselves.
    pub fn uncached(mut self) -> Self {
        self.cached = false;
        self
    }

    /// Adds the number that the item's version attribute holds.
    pub fn version_number(mut self, number: u128) -> Self {
        self.version = Version::from_number(number);
        self
    }

    /// Adds the item's version.
    pub fn version(mut self, version: Version) -> Self {
        self.version = version;
        self
    }

    /// Chooses how long the entry is fresh, without the key space's jitter. It is cut to the key space's own times to live,
    /// whichever is longer, because for so long a change of the ring remembers who may hold it: where loaders choose, give the
    /// key space the longest.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// What a loader may return in its `Ok`: `Option<T>`, or [`Loaded<T>`] for more than the value.
pub trait IntoLoaded<T> {
    /// Makes it a [`Loaded`].
    fn into_loaded(self) -> Loaded<T>;
}

impl<T> IntoLoaded<T> for Option<T> {
    fn into_loaded(self) -> Loaded<T> {
        Loaded::new(self)
    }
}

impl<T> IntoLoaded<T> for Loaded<T> {
    fn into_loaded(self) -> Loaded<T> {
        self
    }
}

/// How new a load has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Consistency {
    /// As the key space's mode says: strong in plain mode, possibly lagging in settle mode.
    AsUsual,
    /// At least as new as when the load began: what was loaded before is older than a change that is already known.
    Strong,
}

/// A load's result, encoded.
pub(crate) struct Encoded {
    pub(crate) payload: Option<Payload>,
    pub(crate) version: Version,
    pub(crate) ttl: Option<Duration>,
    pub(crate) cached: bool,
}

pub(crate) enum LoaderError {
    Returned(BoxError),
    Encode(BoxError),
}

pub(crate) type LoadFuture = Pin<Box<dyn Future<Output = Result<Encoded, LoaderError>> + Send>>;

/// A loader that returns encoded values, so that what follows is compiled once.
#[derive(Clone)]
pub(crate) struct Loader {
    call: Arc<dyn Fn(Consistency, Encoding) -> LoadFuture + Send + Sync>,
    /// Whether the loader is told how new its load has to be.
    pub(crate) told: bool,
    /// The type it loads.
    pub(crate) loads: TypeId,
    /// Its place in a load that several keys share.
    place: Option<Arc<dyn Place>>,
}

/// What limits how many loads of a key space run at once on behalf of a ring shard; see [`ReadShard::cap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cap {
    Leased,
    Unleased,
}

impl Cap {
    /// The setting that says how many.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Cap::Leased => "max_loads",
            Cap::Unleased => "max_fallback_loads",
        }
    }
}

/// The place of one key's loader in a load that several keys share.
pub(crate) trait Place: Send + Sync {
    /// Tells that the shared load is not to wait for this key.
    fn stand_by(&self);

    /// Tells that it is to wait for this key again.
    fn come(&self);

    /// Tells on behalf of which ring shard the next load is, and which of its caps counts the shared load.
    fn under(&self, shard: &Arc<ReadShard>, cap: Cap);
}

impl Loader {
    pub(crate) fn new<T, L, E, F, Fut>(told: bool, loader: F) -> Self
    where
        F: Fn(Consistency) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<L, E>> + Send + 'static,
        L: IntoLoaded<T> + 'static,
        E: Into<BoxError> + 'static,
        T: Serialize + 'static,
    {
        let call = move |consistency, encoding| {
            Box::pin(encoded(loader(consistency), encoding, PhantomData::<fn() -> T>)) as LoadFuture
        };
        Self { call: Arc::new(call), told, loads: TypeId::of::<T>(), place: None }
    }

    /// Gives it a place in a shared load.
    pub(crate) fn with_place(self, place: Arc<dyn Place>) -> Self {
        Self { place: Some(place), ..self }
    }

    pub(crate) fn place(&self) -> Option<&dyn Place> {
        self.place.as_deref()
    }

    pub(crate) fn call(&self, consistency: Consistency, encoding: Encoding) -> LoadFuture {
        (self.call)(consistency, encoding)
    }
}

/// A loader for a read that missed, which may be answered without it.
pub(crate) trait Lender: Send {
    /// Gives the loader, in order to load or to go on to load.
    fn lend(&mut self) -> &Loader;

    /// Tells that it will not be called for a while, if at all.
    fn stand_by(&self);
}

impl Lender for Loader {
    fn lend(&mut self) -> &Loader {
        self
    }

    fn stand_by(&self) {
        if let Some(place) = &self.place {
            place.stand_by();
        }
    }
}

/// A loader that is made when it is first asked for: of a herd of readers one asks.
pub(crate) type Lazy<F> = LazyCell<Loader, F>;

impl<F: FnOnce() -> Loader + Send> Lender for Lazy<F> {
    fn lend(&mut self) -> &Loader {
        Self::force(self)
    }

    /// Nothing waits for a loader that is made for one read alone.
    fn stand_by(&self) {}
}

async fn encoded<T, L, E, Fut>(
    load: Fut,
    encoding: Encoding,
    _type: PhantomData<fn() -> T>,
) -> Result<Encoded, LoaderError>
where
    Fut: Future<Output = Result<L, E>>,
    L: IntoLoaded<T>,
    E: Into<BoxError>,
    T: Serialize,
{
    let loaded = match load.await {
        Ok(loaded) => loaded.into_loaded(),
        Err(error) => return Err(LoaderError::Returned(error.into())),
    };
    let payload = loaded.value.as_ref().map(|value| encoding.encode(value)).transpose().map_err(LoaderError::Encode)?;
    Ok(Encoded { payload, version: loaded.version, ttl: loaded.ttl, cached: loaded.cached })
}
