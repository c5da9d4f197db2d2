//! The ring shards that a command talks to, and a pipeline to them that notes what each of them did.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use ringtide_core::aws;
use ringtide_core::command::Command;
use ringtide_core::config::{Config, Violation};
use ringtide_core::pipeline::{Delivered, Limits, Pipeline, RingShard, connect_ring, ring_of};
use ringtide_core::record::{ChangeRecord, UnreadableRecord};
use ringtide_core::ring::{RingHistory, ShardName};
use ringtide_core::route::{Route, Router};
use ringtide_core::valkey::{Applied, Shard, ShardError};
use serde::Serialize;
use tokio::time::Instant;

use super::Exit;
use super::output::waiting;

/// How long the tasks of a pipeline may take to end when everything is delivered or given up.
const ENDING: Duration = Duration::from_millis(100);

/// Begins to connect to every ring shard that may hold an entry; must be called in a Tokio runtime.
///
/// # Errors
/// Settings of ring shards that cannot be used, all of which are logged.
pub(super) fn connect(config: &Config) -> Result<Vec<Shard>, Exit> {
    connect_ring(config, aws::credentials(config)).map(|(_, shards)| shards).map_err(refused)
}

/// Where keys live by a configuration.
///
/// # Errors
/// What a valid configuration does not have; it is logged.
pub(super) fn history(config: &Config) -> Result<RingHistory, Exit> {
    ring_of(config).map_err(refused)
}

fn refused(violations: Vec<Violation>) -> Exit {
    violations.iter().for_each(|violation| tracing::error!("{violation}"));
    Exit::Configuration
}

/// A pipeline for the length of a command. It parks nothing.
pub(super) struct Delivery {
    pipeline: Pipeline,
    tallies: Vec<Arc<Tally>>,
}

/// A ring shard, and what it did so far.
struct Tally {
    shard: Shard,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    asked: bool,
    applied: Applied,
    error: Option<ShardError>,
}

/// What one ring shard did.
#[derive(Debug, Serialize)]
pub(super) struct ShardReport {
    ring_shard: ShardName,
    /// Keys of which nothing was cached.
    absent: u64,
    /// Entries that were dropped.
    dropped: u64,
    /// Entries that were marked stale and kept.
    marked: u64,
    /// Entries that were new enough.
    newer: u64,
    /// Leases that were taken away.
    voided: u64,
    /// Why it did not do all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Delivery {
    /// Starts a pipeline of these routes; must be called in a Tokio runtime.
    pub(super) fn start(config: &Config, routes: Vec<Route>) -> Result<Self, Exit> {
        let tally = |shard| Arc::new(Tally { shard, state: Mutex::default() });
        let tallies: Vec<Arc<Tally>> = connect(config)?.into_iter().map(tally).collect();
        let shards = tallies.iter().map(|tally| -> (ShardName, Arc<dyn RingShard>) {
            (tally.shard.name().clone(), Arc::clone(tally) as Arc<dyn RingShard>)
        });
        let pipeline = Pipeline::start(Router::new(routes), history(config)?, shards, Limits::default(), None);
        Ok(Self { pipeline, tallies })
    }

    /// Delivers invalidations for the records' keys, to every ring shard that may hold them.
    pub(super) async fn deliver(&self, page: &[Result<ChangeRecord, UnreadableRecord>], within: Duration) -> Delivered {
        let delivering = self.pipeline.deliver_overtaken(page, Instant::now() + within);
        waiting("waiting for ring shards", delivering).await
    }

    /// Ends the pipeline, and tells what each ring shard did that was asked something.
    pub(super) async fn end(self) -> Vec<ShardReport> {
        self.pipeline.shutdown(Instant::now() + ENDING).await;
        let asked = self.tallies.iter().filter_map(|tally| {
            let state = tally.lock();
            let Applied { absent, dropped, marked, older, voided, .. } = state.applied;
            state.asked.then(|| ShardReport {
                ring_shard: tally.shard.name().clone(),
                absent,
                dropped,
                marked,
                newer: older,
                voided,
                error: state.error.as_ref().map(ToString::to_string),
            })
        });
        asked.collect()
    }

    /// The last error of each ring shard that did not take its last batch.
    pub(super) fn errors(&self) -> BTreeMap<ShardName, String> {
        let failed = self.tallies.iter().filter_map(|tally| {
            let state = tally.lock();
            state.error.as_ref().map(|error| (tally.shard.name().clone(), error.to_string()))
        });
        failed.collect()
    }
}

impl ShardReport {
    /// The headers of [`ShardReport::row`].
    pub(super) const HEADERS: [&'static str; 7] =
        ["ring shard", "dropped", "marked stale", "newer", "absent", "leases voided", "error"];

    /// One line of a table.
    pub(super) fn row(&self) -> Vec<String> {
        let Self { ring_shard, absent, dropped, marked, newer, voided, error } = self;
        let numbers = [dropped, marked, newer, absent, voided].map(ToString::to_string);
        let error = error.clone().unwrap_or_default();
        std::iter::once(ring_shard.to_string()).chain(numbers).chain([error]).collect()
    }
}

impl Tally {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RingShard for Tally {
    fn apply<'a>(&'a self, commands: &'a [Command], deadline_ms: u64) -> BoxFuture<'a, Result<Applied, ShardError>> {
        async move {
            let applied = self.shard.apply(commands, deadline_ms).await;
            let mut state = self.lock();
            state.asked = true;
            match &applied {
                Ok(applied) => {
                    state.applied += *applied;
                    state.error = None;
                }
                Err(error) => state.error = Some(error.clone()),
            }
            applied
        }
        .boxed()
    }

    fn flush<'a>(&'a self, prefix: &'a str, pause: Duration) -> BoxFuture<'a, Result<u64, ShardError>> {
        RingShard::flush(&self.shard, prefix, pause)
    }

    fn reachable(&self, within: Duration) -> BoxFuture<'_, ()> {
        self.shard.reachable(within)
    }
}
