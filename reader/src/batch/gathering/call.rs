//! Calls of a batch loader: each in a task of its own, with a hard cap on its time.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::Failure;
use crate::batch::loader::BatchLoader;
use crate::cache::Inner;
use crate::load::panic_message;
use crate::loader::{Cap, Consistency, Loaded};
use crate::shard::ReadShard;
use crate::space::SpaceState;

/// A key of a call, and where its answer goes.
pub(super) struct Part<K, T> {
    pub(super) key: K,
    pub(super) consistency: Consistency,
    /// The ring shard on whose behalf it is loaded, with the cap that counts the whole call as one load.
    pub(super) under: Option<(Arc<ReadShard>, Cap)>,
    pub(super) answer: Answer<T>,
}

type Answer<T> = oneshot::Sender<Result<Loaded<T>, Failure>>;

/// Keys that one call is made for, none twice.
struct Call<K, T> {
    consistency: Consistency,
    /// The cap that has to allow it first, by its place among those concerned.
    waits_for: Option<usize>,
    keys: Vec<K>,
    answers: Vec<Answer<T>>,
    seen: HashSet<K>,
}

/// Makes one call for all keys, and tells everybody what came of it.
///
/// Keys whose loads have to be newer than usual go apart where the loader can tell the difference. So do keys of a ring
/// shard on whose behalf too many loads run already: they wait for one of these to end, and hold up no others.
pub(super) async fn load<K, T>(
    loader: &BatchLoader<K, T>,
    inner: &Inner,
    space: &SpaceState,
    mut parts: Vec<Part<K, T>>,
) where
    K: Clone + Eq + Hash + Send + 'static,
    T: Send + 'static,
{
    parts.retain(|part| !part.answer.is_closed());
    let mut caps: Vec<(Arc<ReadShard>, Cap)> = Vec::new();
    let at = |caps: &[(Arc<ReadShard>, Cap)], (shard, cap): &(Arc<ReadShard>, Cap)| {
        caps.iter().position(|(known, of_known)| Arc::ptr_eq(known, shard) && of_known == cap)
    };
    for under in parts.iter().filter_map(|part| part.under.as_ref()) {
        if at(&caps, under).is_none() {
            caps.push(under.clone());
        }
    }
    let permits: Vec<_> = caps.iter().map(|(shard, cap)| shard.cap(*cap, space).try_acquire().ok()).collect();
    let waits_for = |part: &Part<K, T>| at(&caps, part.under.as_ref()?).filter(|at| permits[*at].is_none());
    let (now, later): (Vec<_>, Vec<_>) =
        divide(parts, loader.told, waits_for).into_iter().partition(|call| call.waits_for.is_none());

    let limit = inner.settings.load_timeout_of(&space.settings);
    let now = async {
        join_all(now.into_iter().map(|call| make(loader, space, limit, call))).await;
        drop(permits);
    };
    let later = later.into_iter().map(|call| async {
        let Some((shard, cap)) = call.waits_for.and_then(|at| caps.get(at)) else { return };
        space.counters.put_off.increment(call.keys.len() as u64);
        // The time of these loads runs already: what is left of it is the loader's.
        match tokio::time::timeout(limit / 2, shard.cap(*cap, space).acquire()).await {
            Ok(Ok(_permit)) => make(loader, space, limit, call).await,
            Ok(Err(_)) | Err(_) => call.fail(&Failure::Overloaded(cap.name())),
        }
    });
    tokio::join!(now, join_all(later));
}

/// Divides keys into as few calls as there can be.
fn divide<K: Clone + Eq + Hash, T>(
    parts: Vec<Part<K, T>>,
    told: bool,
    waits_for: impl Fn(&Part<K, T>) -> Option<usize>,
) -> Vec<Call<K, T>> {
    let mut calls: Vec<Call<K, T>> = Vec::new();
    for part in parts {
        let waits_for = waits_for(&part);
        let consistency = if told { part.consistency } else { Consistency::AsUsual };
        let fits = |call: &Call<K, T>| {
            call.consistency == consistency && call.waits_for == waits_for && !call.seen.contains(&part.key)
        };
        let at = calls.iter().position(fits).unwrap_or_else(|| {
            let (keys, answers, seen) = (Vec::new(), Vec::new(), HashSet::new());
            calls.push(Call { consistency, waits_for, keys, answers, seen });
            calls.len() - 1
        });
        let call = &mut calls[at];
        call.seen.insert(part.key.clone());
        call.keys.push(part.key);
        call.answers.push(part.answer);
    }
    calls
}

async fn make<K, T>(loader: &BatchLoader<K, T>, space: &SpaceState, limit: Duration, call: Call<K, T>)
where
    K: Clone + Send + 'static,
    T: Send + 'static,
{
    space.counters.batches.increment(1);
    space.counters.batch_keys.record(call.keys.len() as f64);
    tracing::debug!(space = %space.settings.name, keys = call.keys.len(), "calling the batch loader");
    let (of_task, keys, consistency) = (loader.clone(), call.keys.clone(), call.consistency);
    let task =
        AbortOnDropHandle::new(tokio::spawn(async move { of_task.call(keys, consistency).await }.in_current_span()));
    let failure = match tokio::time::timeout(limit, task).await {
        Ok(Ok(Ok(mut take))) => {
            for (key, answer) in call.keys.iter().zip(call.answers) {
                // Who has gone meanwhile needs no answer.
                let _ = answer.send(take(key).map_err(Failure::returned));
            }
            return;
        }
        Ok(Ok(Err(error))) => Failure::returned(error),
        Ok(Err(died)) => panic_message(died).map_or(Failure::Closed, Failure::Panicked),
        Err(_) => Failure::TimedOut(limit),
    };
    tracing::debug!(space = %space.settings.name, keys = call.keys.len(), %failure, "batch load failed");
    call.fail(&failure);
}

impl<K, T> Call<K, T> {
    fn fail(self, failure: &Failure) {
        for answer in self.answers {
            let _ = answer.send(Err(failure.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(key: u64, consistency: Consistency) -> Part<u64, ()> {
        Part { key, consistency, under: None, answer: oneshot::channel().0 }
    }

    #[test]
    fn one_call_has_all_keys_but_those_that_cannot_go_with_them() {
        let parts = || {
            let usual = [1, 2, 3, 2].map(|key| part(key, Consistency::AsUsual));
            usual.into_iter().chain([part(4, Consistency::Strong)]).collect::<Vec<_>>()
        };
        let keys = |told, waits_for: fn(&Part<u64, ()>) -> Option<usize>| {
            divide(parts(), told, waits_for).into_iter().map(|call| call.keys).collect::<Vec<_>>()
        };
        assert_eq!(keys(false, |_| None), [vec![1, 2, 3, 4], vec![2]], "no key twice in a call");
        assert_eq!(keys(true, |_| None), [vec![1, 2, 3], vec![2], vec![4]], "a strong load is a call of its own");
        let odd = |part: &Part<u64, ()>| (part.key % 2 == 1).then_some(0);
        assert_eq!(keys(false, odd), [vec![1, 3], vec![2, 4], vec![2]], "what has to wait holds up no others");
    }
}
