//! Reading many keys: the look-ups of all ring shards at once, and a single read's own way for each miss.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::hash::Hash;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ringtide_core::valkey::ShardError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Sleep;
use tracing::Instrument;

use super::answers::Batch;
use super::gathering::Gathering;
use super::partition::{Lookup, Partition};
use crate::cache::Inner;
use crate::counters::StaleReason;
use crate::error::Error;
use crate::key::SpaceKey;
use crate::lookup::{Found, Miss, Missed, from_now, late, limit_of, read_entry, serve_stale};
use crate::observe::{self, Tally};
use crate::space::Space;
use crate::topology::Topology;

type Answer<T> = Result<Option<T>, Error>;

/// Reads many keys, each answered at its place.
pub(super) async fn read_many<K, T>(space: &Space<T>, keys: Vec<K>, gathering: &Arc<Gathering<K, T>>) -> Batch<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    for<'k> &'k K: SpaceKey<'k>,
    T: Serialize + DeserializeOwned + Send + 'static,
{
    let name = &space.state.settings.name;
    let mut tally = Tally::new(&space.cache.inner.watcher, name);
    match observe::begin_many(name, keys.len()) {
        None => read_each(space, keys, gathering, &mut tally).await,
        // Boxed, so that the future of a read that nobody watches stays small.
        Some(span) => {
            let batch = Box::pin(read_each(space, keys, gathering, &mut tally).instrument(span.clone())).await;
            span.record("cache_status", tracing::field::display(tally));
            batch
        }
    }
}

async fn read_each<K, T>(
    space: &Space<T>,
    keys: Vec<K>,
    gathering: &Arc<Gathering<K, T>>,
    tally: &mut Tally<'_>,
) -> Batch<K, T>
where
    K: Clone + Eq + Hash + Send + Sync + 'static,
    for<'k> &'k K: SpaceKey<'k>,
    T: Serialize + DeserializeOwned + Send + 'static,
{
    let Space { cache, state, options, .. } = space;
    let inner = &cache.inner;
    let limit = limit_of(options, &inner.settings);
    let topology = inner.topology.load_full();
    let mut asked = Partition::new(keys.len(), topology.shards().len());
    let mut answers: Vec<(K, Option<Answer<T>>)> = Vec::with_capacity(keys.len());
    for (place, part) in keys.into_iter().enumerate() {
        let answer = match space.key(&part) {
            Ok(key) => match inner.local_first(&key, state, options) {
                Some(found) => {
                    tally.count(|| Some(key.clone()), Ok(found.answered()));
                    let loader = || gathering.loader(inner, state, part.clone(), None);
                    Some(Ok(inner.serve(found, || key, state, options, loader).value))
                }
                None => {
                    let owner = topology.ring().locate(key.as_bytes());
                    asked.add(key, place, owner);
                    None
                }
            },
            Err(error) => {
                tally.count(|| None, Err(&error));
                Some(Err(error))
            }
        };
        answers.push((part, answer));
    }

    let expected = gathering.expect();
    let look_up = |(lookup, owed): (Lookup, Option<ShardError>)| {
        let (shard, expected) = (&topology.shards()[lookup.shard], expected.another());
        async move {
            let found = match owed {
                Some(error) => Err(error),
                None if options.fresh => Ok(Vec::new()),
                None => inner.local.read_many(shard, &lookup.keys, state, |key| inner.owed(shard, key).is_some()).await,
            };
            (lookup, found, expected)
        }
    };
    let lookups =
        by_server(&topology, asked.lookups()).into_iter().flat_map(|lookup| unless_owed(inner, &topology, lookup));
    let mut looking: FuturesUnordered<_> = lookups.map(look_up).collect();
    expected.give_up();
    let loader = |part: K| gathering.loader(inner, state, part, Some(expected.another()));
    let deadline = limit.map(|(_, at)| at);
    // One for all misses, however many waves they come in.
    let soft = options.soft_timeout_or(&inner.settings).and_then(from_now);
    let begin = |(place, part, key, miss)| {
        let mut loader = loader(part);
        async move {
            let mut missed = Missed::new(key, state, options, deadline, &mut loader);
            missed.soft = soft;
            (place, inner.answer_miss(&mut missed, miss).await)
        }
    };
    // What has missed, where there is a deadline, with the values that may be served then.
    let mut missed = Vec::new();
    let (mut misses, mut missing, mut behind) = (VecDeque::new(), FuturesUnordered::new(), 0);
    // The soft time-out, where any of those that wait for their wave may be served then.
    let mut soft_over = None;
    let reading = async {
        loop {
            tokio::select! {
                biased;
                Some((lookup, found, expected)) = looking.next(), if !looking.is_empty() => {
                    let found = Replies::new(found, options.fresh);
                    // Counted once a look-up: all tasks share the counters.
                    let (mut hits, mut negatives) = (0, 0);
                    for (at, (key, place)) in lookup.keys.iter().zip(lookup.places).enumerate() {
                        let reply = found.of(at);
                        let counted = matches!(reply, Reply::Entry(_));
                        let answer = match reply {
                            Reply::Entry(entry) => read_entry(entry, state, options),
                            Reply::Absent => Err(Miss::Absent),
                            Reply::Down(error) => inner.local_fallback(key, state, options, error),
                            Reply::Refused => Err(Miss::Refused),
                        };
                        let (part, answered) = &mut answers[place];
                        match answer {
                            Ok(found) => {
                                match found.value {
                                    Some(_) => hits += u64::from(counted),
                                    None => negatives += u64::from(counted),
                                }
                                tally.count(|| Some(key.clone()), Ok(found.answered()));
                                // What is left out is served once more, and loaded again by the next read.
                                if found.refresh_before_ms != 0 && behind < AT_ONCE {
                                    behind += 1;
                                    let loader = loader(part.clone());
                                    inner.refresh_behind(key.clone(), state, options, loader, &found);
                                }
                                *answered = Some(Ok(found.value));
                            }
                            Err(miss) => {
                                if deadline.is_some() {
                                    missed.push((place, miss.stale().map(|entry| (key.clone(), entry.clone()))));
                                }
                                if let (Some(at), Some(_)) = (soft, miss.stale()) {
                                    soft_over.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
                                }
                                misses.push_back((place, part.clone(), key.clone(), miss));
                            }
                        }
                    }
                    // All entries at once: one that is freed while values are made is taken to pieces for them.
                    drop(found);
                    state.counters.hits.increment(hits);
                    state.counters.negatives.increment(negatives);
                    start_some(&mut misses, &mut missing, begin);
                    drop(expected);
                }
                () = over(&mut soft_over), if !misses.is_empty() => {
                    soft_over = None;
                    misses.retain(|(place, _, key, miss)| {
                        let serve = |entry| serve_stale(key, state, entry, StaleReason::SoftTimeout);
                        let Some(found) = miss.stale().and_then(serve) else { return true };
                        state.counters.misses.add(miss.reason());
                        tally.count(|| Some(key.clone()), Ok(found.answered()));
                        let (_, answered) = &mut answers[*place];
                        *answered = Some(Ok(found.value));
                        false
                    });
                }
                Some((place, answer)) = missing.next(), if !missing.is_empty() => {
                    let (part, answered) = &mut answers[place];
                    tally.count(|| space.key(&*part).ok(), answer.as_ref().map(Found::answered));
                    *answered = Some(answer.map(|found| found.value));
                    start_some(&mut misses, &mut missing, begin);
                }
                else => break,
            }
        }
    };
    let is_over = match deadline {
        None => {
            reading.await;
            false
        }
        // What is not answered by then is late; the rest is answered all the same.
        Some(at) => tokio::time::timeout_at(at, reading).await.is_err(),
    };
    if is_over {
        let mut looked_up = vec![false; answers.len()];
        // What no wave has come to by then, or too few were told of in the last moment.
        for (place, stale) in missed {
            looked_up[place] = true;
            let (_, answer) = &mut answers[place];
            if answer.is_none()
                && let Some((key, entry)) = stale
                && let Some(found) = serve_stale(&key, state, &entry, StaleReason::Deadline)
            {
                tally.count(|| Some(key), Ok(found.answered()));
                *answer = Some(Ok(found.value));
            }
        }
        for ((part, answer), looked_up) in answers.iter_mut().zip(looked_up) {
            if answer.is_none()
                && !looked_up
                && let Ok(key) = space.key(&*part)
                && let Some(found) = inner.local_at_deadline(&key, state, options)
            {
                tally.count(|| Some(key), Ok(found.answered()));
                *answer = Some(Ok(found.value));
            }
        }
    }
    // The answers stay where they are: an answer that may be missing takes no more room than one that may not.
    let mut unanswered = |key: &K| {
        let key = space.key(key)?;
        let error = match limit {
            Some((after, _)) => late(key.clone(), state, after),
            None => Error::Closed { key: key.clone() },
        };
        tally.count(|| Some(key), Err(&error));
        Err(error)
    };
    let answered = |(key, answer): (K, Option<_>)| {
        let answer = answer.unwrap_or_else(|| unanswered(&key));
        (key, answer)
    };
    Batch::new(answers.into_iter().map(answered).collect())
}

/// Parts look-ups in a cluster by master, so that one that fails holds up no others' keys.
fn by_server(topology: &Topology, lookups: Vec<Lookup>) -> Vec<Lookup> {
    match topology.shards() {
        [cluster] if cluster.shard.is_cluster() => lookups
            .into_iter()
            .flat_map(|lookup| lookup.split_up(|items| cluster.by_server(items, |(key, _)| key)))
            .collect(),
        _ => lookups,
    }
}

/// Parts the keys that may not be read from their ring shard, because it has yet to answer an invalidation of them.
fn unless_owed(
    inner: &Inner,
    topology: &Topology,
    lookup: Lookup,
) -> impl Iterator<Item = (Lookup, Option<ShardError>)> + use<> {
    let shard = &topology.shards()[lookup.shard];
    let owed = lookup.keys.iter().find_map(|key| inner.owed(shard, key));
    let (others, theirs) = match &owed {
        Some(_) => lookup.split(|key| inner.owed(shard, key).is_none()),
        None => (Some(lookup), None),
    };
    others.zip(Some(None)).into_iter().chain(theirs.zip(Some(owed)))
}

/// Waits until a time is over; for ever where there is none.
fn over(time: &mut Option<Pin<Box<Sleep>>>) -> impl Future<Output = ()> {
    poll_fn(|context| time.as_mut().map_or(Poll::Pending, |time| time.as_mut().poll(context)))
}

/// Most misses of one read that are answered at once: the leases and fills of more would outlast a command's time-out.
const AT_ONCE: usize = 1000;

/// Begins to answer misses, in waves, so that those of a wave are loaded together.
fn start_some<M, F: Future>(misses: &mut VecDeque<M>, missing: &mut FuturesUnordered<F>, begin: impl Fn(M) -> F) {
    if missing.len() <= AT_ONCE / 2 {
        let next = misses.drain(..misses.len().min(AT_ONCE - missing.len()));
        missing.extend(next.map(begin));
    }
}

/// What a ring shard answered to a look-up, key by key.
enum Replies {
    Found(Vec<Option<Bytes>>),
    Down(ShardError),
    /// Nobody was asked: all is to be loaded in any case.
    Refused,
}

/// What it answered for one key.
enum Reply<'a> {
    Entry(&'a Bytes),
    Absent,
    Down(ShardError),
    Refused,
}

impl Replies {
    fn new(found: Result<Vec<Option<Bytes>>, ShardError>, fresh: bool) -> Self {
        match found {
            _ if fresh => Self::Refused,
            Ok(found) => Self::Found(found),
            Err(error) => Self::Down(error),
        }
    }

    fn of(&self, at: usize) -> Reply<'_> {
        match self {
            Self::Found(found) => found.get(at).and_then(Option::as_ref).map_or(Reply::Absent, Reply::Entry),
            Self::Down(error) => Reply::Down(error.clone()),
            Self::Refused => Reply::Refused,
        }
    }
}
