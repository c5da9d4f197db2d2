//! The lag as it is measured: from a write to a table until its entry is gone from a ring shard.
//!
//! DynamoDB's timestamps have whole seconds, so that they cannot tell what a reader sees. A probe can: it places an entry as a
//! reader would, writes the item that the entry stands for, and watches until the entry is invalidated. The write takes
//! the way of every other: the table's stream, this worker's pipeline, the ring shard.
//!
//! The worker that reads the probe table's stream is the one that probes, so that of a fleet one does.

mod round;
mod table;
mod target;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use metrics::{counter, histogram};
use ringtide_core::aws;
use ringtide_core::config::{self, Config};
use ringtide_core::key::{KeySpace, Template};
use ringtide_core::metrics as names;
use ringtide_core::record::EventName;
use ringtide_core::ring::Ring;
use ringtide_core::route::{Route, RouteAction};
use ringtide_core::valkey::Credentials;
use tokio::time::{Instant, MissedTickBehavior};

use crate::aws::Clients;
use crate::deliver::Deliver;
use crate::health::Health;

use target::Target;

pub(crate) use table::prepare;

/// The key space of probes; its keys begin with its name.
const SPACE: &str = "ringtide-probe";

/// Adds the route from the probe table to the probes' key space, where the configuration asks for probes.
pub(crate) fn routed(config: &Config) -> Cow<'_, Config> {
    let Some(probe) = &config.probe else { return Cow::Borrowed(config) };
    let Ok(template) = Template::parse(&format!("{SPACE}:{{{}}}", table::KEY)) else { return Cow::Borrowed(config) };
    let mut config = config.clone();
    config.routes.push(Route {
        place: "probe".to_owned(),
        table: probe.table.clone(),
        space: Arc::new(KeySpace::new(SPACE, template)),
        attributes: vec![table::KEY.to_owned()],
        on: EventName::ALL.to_vec(),
        when_changed: Vec::new(),
        action: RouteAction::Invalidate,
    });
    Cow::Owned(config)
}

/// Probes every ring shard at the interval, for as long as it is polled.
pub(crate) struct Prober {
    settings: config::Probe,
    valkey: config::Valkey,
    credentials: Option<Arc<dyn Credentials>>,
    tables: aws_sdk_dynamodb::Client,
    space: Arc<KeySpace>,
    health: Health,
    deliver: Arc<dyn Deliver>,
    /// One for each ring shard of the ring they were made for.
    targets: Option<(Arc<Ring>, Vec<Target>)>,
}

impl Prober {
    /// Prepares to probe, where the configuration asks for it.
    pub(crate) async fn connect(config: &Config, health: Health, deliver: Arc<dyn Deliver>) -> Option<Self> {
        let settings = config.probe.clone()?;
        let space = config.routes.iter().find(|route| route.table == settings.table)?.space.clone();
        Some(Self {
            settings,
            valkey: config.valkey.clone(),
            credentials: aws::services(config).credentials,
            tables: Clients::connect(&config.aws).await.tables,
            space,
            health,
            deliver,
            targets: None,
        })
    }

    pub(crate) async fn run(mut self) -> std::io::Result<()> {
        let mut turns = tokio::time::interval(self.settings.interval);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            if !self.health.reads(&self.settings.table) {
                self.health.keep_probes(&BTreeSet::new());
                continue;
            }
            self.aim();
            self.round().await;
        }
    }

    /// Finds a key for each shard of the ring as it is now.
    fn aim(&mut self) {
        let Some(ring) = self.deliver.ring() else { return };
        if self.targets.as_ref().is_some_and(|(of, _)| of.membership() == ring.membership()) {
            return;
        }
        let made = Target::all(&ring, &self.space, &self.valkey, self.credentials.as_ref());
        let targets: Vec<Target> = made
            .into_iter()
            .filter_map(|(name, made)| {
                for label in ["aim", "place", "write", "look", "late"] {
                    // A series that begins with 1 has no increase.
                    counter!(names::PROBE_FAILURES, names::RING_SHARD => name.clone(), names::REASON => label)
                        .increment(0);
                }
                made.map_err(|reason| {
                    tracing::warn!(ring_shard = name, reason, "a ring shard cannot be probed");
                    self.failed(&name, "aim", reason);
                })
                .ok()
            })
            .collect();
        self.health.keep_probes(&ring.shards().iter().map(|shard| shard.name.to_string()).collect());
        self.targets = Some((ring, targets));
    }

    /// Probes all ring shards at once.
    async fn round(&self) {
        let Some((_, targets)) = &self.targets else { return };
        join_all(targets.iter().map(|target| self.probe(target))).await;
    }

    async fn probe(&self, target: &Target) {
        let name = target.shard.name().to_string();
        match self.measure(target).await {
            Ok(lag) => {
                tracing::debug!(ring_shard = name, lag_ms = lag.as_millis(), "probed");
                histogram!(names::PROBE_LAG, names::RING_SHARD => name.clone()).record(lag.as_secs_f64());
                self.health.probed(&name, Ok(lag));
            }
            Err(failure) => {
                let reason = failure.to_string();
                tracing::error!(ring_shard = name, key = %target.key, reason, "a probe failed");
                self.failed(&name, failure.label(), reason);
            }
        }
    }

    fn failed(&self, ring_shard: &str, label: &'static str, reason: String) {
        counter!(names::PROBE_FAILURES, names::RING_SHARD => ring_shard.to_owned(), names::REASON => label)
            .increment(1);
        self.health.probed(ring_shard, Err(reason));
    }

    /// Places an entry, changes its item, and tells how long the entry outlived the beginning of the write.
    async fn measure(&self, target: &Target) -> Result<Duration, round::Failure> {
        target.place(self.settings.timeout).await?;
        let began = Instant::now();
        let deadline = began + self.settings.timeout;
        let written = tokio::time::timeout_at(deadline, table::write(&self.tables, &self.settings.table, &target.item));
        written.await.unwrap_or_else(|_| Err("no answer in time".to_owned())).map_err(round::Failure::Write)?;
        let gone = target.gone(deadline).await;
        if gone.is_err() {
            target.clear().await;
        }
        gone.map(|at| at.duration_since(began))
    }
}
