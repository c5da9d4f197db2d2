//! Readers with deadlines, and what is checked of each of their reads.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ringtide::{Error, Loaded, Mode, ReadOptions, Space};

use super::stalls;
use super::truth::{KEYS, Truth};
use super::world::LONG;

/// With what scheduling may take still shorter than the command time-out, so that a read that only ends with that is told.
pub(crate) const DEADLINE: Duration = Duration::from_millis(100);

/// For scheduling.
const SLACK: Duration = Duration::from_millis(250);

#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) answered: AtomicU64,
    pub(crate) late: AtomicU64,
    pub(crate) stop: AtomicBool,
}

/// Reads up to so `many` keys at once, at random, until it is told to stop, and checks that each read ends in time, with a
/// value or because of its deadline; `known` tells what a read that begins now has to know.
pub(crate) async fn read_on<F, Fut>(
    space: Space<u64>,
    many: u64,
    tally: Arc<Tally>,
    load: F,
    known: impl Fn(u64) -> u64,
) -> Result<(), String>
where
    F: Fn(u64) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = std::io::Result<Option<u64>>> + Send + 'static,
{
    let space = space.with(ReadOptions::new().timeout(DEADLINE));
    while !tally.stop.load(Ordering::Relaxed) {
        let first = fastrand::u64(..KEYS);
        let keys: Vec<u64> = (first..first + fastrand::u64(1..=many)).map(|key| key % KEYS).collect();
        let least: Vec<u64> = keys.iter().map(|key| known(*key)).collect();
        let began = Instant::now();
        let Ok(results) = tokio::time::timeout(LONG, read_once(&space, &keys, &load)).await else {
            return Err(format!("a read of keys {keys:?} hangs"));
        };
        let took = began.elapsed();
        if took > DEADLINE + SLACK {
            let stalled = tokio::task::block_in_place(|| stalls::since(began));
            if took > DEADLINE + SLACK + stalled {
                return Err(format!(
                    "a read of keys {keys:?} took {took:?}, {stalled:?} of them not running: {results:?}"
                ));
            }
        }
        for ((key, least), result) in keys.iter().zip(least).zip(results) {
            match result {
                Ok(Some(value)) if value >= least => {
                    tally.answered.fetch_add(1, Ordering::Relaxed);
                }
                Ok(value) => return Err(format!("key {key} was read as {value:?} after {least} had been delivered")),
                Err(Error::DeadlineExceeded { .. }) => {
                    tally.late.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => return Err(format!("key {key}: {error}")),
            }
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(1..4))).await;
    }
    Ok(())
}

/// Reads one key by itself, or several together.
async fn read_once<F, Fut>(space: &Space<u64>, keys: &[u64], load: &F) -> Vec<Result<Option<u64>, Error>>
where
    F: Fn(u64) -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = std::io::Result<Option<u64>>> + Send + 'static,
{
    let versioned = matches!(space.settings().mode, Mode::Versioned { .. });
    let load = load.clone();
    if let [key] = *keys {
        let load = move || {
            let load = load(key);
            async move { load.await.map(|value| loaded(value, versioned)) }
        };
        return vec![space.get_or_load(key, load).await];
    }
    let load = move |keys: Vec<u64>| {
        let load = load.clone();
        async move {
            let loads = keys.into_iter().map(async |key| load(key).await.map(|value| (key, loaded(value, versioned))));
            join_all(loads).await.into_iter().collect::<std::io::Result<HashMap<_, _>>>()
        }
    };
    space.get_many(keys.to_vec(), load).await.into_iter().map(|(_, answer)| answer).collect()
}

/// A value with its version, where versions are compared: a value is its own.
fn loaded(value: Option<u64>, versioned: bool) -> Loaded<u64> {
    let loaded = Loaded::new(value);
    match value {
        Some(value) if versioned => loaded.version_number(value.into()),
        Some(_) | None => loaded,
    }
}

/// Loads from this process's origin.
pub(crate) fn loads(
    truth: &Truth,
) -> impl Fn(u64) -> futures_util::future::BoxFuture<'static, std::io::Result<Option<u64>>> + Clone + Send + Sync + 'static
{
    let truth = truth.clone();
    move |key| {
        let truth = truth.clone();
        Box::pin(async move { Ok(Some(truth.load(key).await)) })
    }
}

/// Reads one key without a deadline.
pub(crate) async fn read(space: &Space<u64>, truth: &Truth, key: u64) -> Result<Option<u64>, Error> {
    let (truth, versioned) = (truth.clone(), matches!(space.settings().mode, Mode::Versioned { .. }));
    let load = move || {
        let truth = truth.clone();
        async move { Ok::<_, Infallible>(loaded(Some(truth.load(key).await), versioned)) }
    };
    tokio::time::timeout(LONG, space.get_or_load(key, load)).await.expect("nobody hangs")
}
