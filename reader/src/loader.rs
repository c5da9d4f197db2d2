//! What loaders return, and loaders without their types.

use std::any::TypeId;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringtide_core::version::Version;
use serde::Serialize;

use crate::error::BoxError;

/// A loaded value with what the origin knows about it.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct Loaded<T> {
    /// The value; `None` where the item does not exist, which is cached too.
    pub value: Option<T>,
    /// The item's version; [`Version::NONE`] where it has none.
    pub version: Version,
    /// How long the entry lives, in place of the key space's time to live.
    pub ttl: Option<Duration>,
}

impl<T> Loaded<T> {
    /// Takes a value without a version.
    pub fn new(value: Option<T>) -> Self {
        Self { value, version: Version::NONE, ttl: None }
    }

    /// Adds the number that the item's version attribute holds.
    pub fn version_number(mut self, number: u128) -> Self {
        self.version = Version::from_number(number);
        self
    }

    /// Chooses how long the entry lives.
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
pub enum Consistency {
    /// As the key space's mode says: strong in plain mode, possibly lagging in settle mode.
    AsUsual,
    /// At least as new as when the load began: what was loaded before is older than a change that is already known.
    Strong,
}

/// A load's result, encoded.
pub(crate) struct Encoded {
    pub(crate) payload: Option<Bytes>,
    pub(crate) version: Version,
    pub(crate) ttl: Option<Duration>,
}

pub(crate) enum LoaderError {
    Returned(BoxError),
    Encode(serde_json::Error),
}

pub(crate) type LoadFuture = Pin<Box<dyn Future<Output = Result<Encoded, LoaderError>> + Send>>;

/// A loader that returns encoded values, so that what follows is compiled once.
#[derive(Clone)]
pub(crate) struct Loader {
    call: Arc<dyn Fn(Consistency) -> LoadFuture + Send + Sync>,
    /// Whether the loader is told how new its load has to be.
    pub(crate) told: bool,
    /// The type it loads.
    pub(crate) loads: TypeId,
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
        let call = move |consistency| Box::pin(encoded(loader(consistency), PhantomData::<fn() -> T>)) as LoadFuture;
        Self { call: Arc::new(call), told, loads: TypeId::of::<T>() }
    }

    pub(crate) fn call(&self, consistency: Consistency) -> LoadFuture {
        (self.call)(consistency)
    }
}

async fn encoded<T, L, E, Fut>(load: Fut, _type: PhantomData<fn() -> T>) -> Result<Encoded, LoaderError>
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
    let payload = loaded.value.as_ref().map(serde_json::to_vec).transpose().map_err(LoaderError::Encode)?;
    Ok(Encoded { payload: payload.map(Bytes::from), version: loaded.version, ttl: loaded.ttl })
}
