//! The tables: finding their streams at start, noticing new ones later, a follower for each.

mod start;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use metrics::counter;
use ringtide_core::backoff::Backoff;
use ringtide_core::config::{Probe, Worker as Settings};
use ringtide_core::metrics as names;
use ringtide_core::record::Stream;
use ringtide_core::route::Router;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::consumer;
use crate::deliver::Deliver;
use crate::discovery::Discovery;
use crate::follower::{Followed, Follower, Successor};
use crate::health::{Health, Part};
use crate::lease::fleet::Fleet;
use crate::lease::keeper::Cadence;
use crate::lease::{Lease, LeaseError, LeaseStore, OwnerId, StreamName};
use crate::stream::{StreamSource, TableDescription};

pub use start::StartError;
pub(crate) use start::{Found, find_streams, prepare_leases, problems, refused};

/// What a supervisor works with.
#[derive(Clone)]
pub(crate) struct Deps {
    pub(crate) source: Arc<dyn StreamSource>,
    pub(crate) leases: Arc<dyn LeaseStore>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) deliver: Arc<dyn Deliver>,
    pub(crate) owner: OwnerId,
    pub(crate) health: Health,
    pub(crate) router: Arc<Router>,
    /// The table whose stream's leases may be those of an application for a single stream.
    pub(crate) adopting: Option<Arc<str>>,
    pub(crate) settings: Settings,
}

/// The only table that is followed, besides the one of probes; `None` where there are several.
pub(crate) fn only_table(router: &Router, probe: Option<&Probe>) -> Option<Arc<str>> {
    let mut tables = router.tables().filter(|table| probe.is_none_or(|probe| probe.table != *table));
    let only = tables.next()?;
    tables.next().is_none().then(|| Arc::from(only))
}

/// Why a table is not watched any more, although nobody said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TableFailed {
    /// The pipeline ended under its consumers.
    PipelineGone,
    /// A task broke off.
    BrokenOff,
}

/// Watches one table for as long as the worker runs.
pub(crate) struct Table {
    deps: Deps,
    name: Arc<str>,
    followers: JoinSet<Followed>,
    /// The stream whose leases were taken over in the form of an application for a single stream.
    adopted: Option<StreamName>,
    stop: CancellationToken,
}

impl Table {
    pub(crate) fn new(deps: Deps, name: Arc<str>, stop: CancellationToken) -> Self {
        Self { deps, name, followers: JoinSet::new(), adopted: None, stop }
    }

    /// Follows the table's stream, and every stream that replaces it, until the worker stops.
    pub(crate) async fn run(mut self, found: Found) -> Result<(), TableFailed> {
        let stop = self.stop.clone();
        let (mut current, begun) = tokio::select! {
            biased;
            begun = self.begin(&found) => begun?,
            () = stop.cancelled() => return Ok(()),
        };
        let mut successor = Successor::default();
        self.follow(&current, begun, successor.clone());
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(followed) = self.followers.join_next(), if !self.followers.is_empty() => {
                    match followed {
                        Ok(Followed::Abandoned) => return Err(TableFailed::PipelineGone),
                        Ok(Followed::BrokenOff) => return Err(TableFailed::BrokenOff),
                        Ok(Followed::Drained | Followed::Stopped) => {}
                        Err(error) => {
                            tracing::error!(table = %self.name, %error, "the following of a stream broke off");
                            return Err(TableFailed::BrokenOff);
                        }
                    }
                }
                () = tokio::time::sleep(self.deps.settings.discovery_interval) => {
                    let described = self.deps.source.describe_table(&self.name).await;
                    let newest = match described {
                        Ok(description) => self.judge(&description),
                        Err(error) => {
                            tracing::warn!(table = %self.name, %error, "table not described, trying again");
                            self.deps.health.table_problem(&self.name, Part::Table, Some(format!("not described: {error}")));
                            None
                        }
                    };
                    if let Some(newest) = newest.filter(|newest| self.replaces(newest, &current)) {
                        tokio::select! {
                            biased;
                            flushed = self.flush("new_stream", &newest) => flushed?,
                            () = stop.cancelled() => break,
                        }
                        successor.there.cancel();
                        current = newest;
                        let begun = std::mem::take(&mut successor).begun;
                        self.follow(&current, begun, successor.clone());
                    }
                }
            }
        }
        while self.followers.join_next().await.is_some() {}
        Ok(())
    }

    /// Finds the stream to follow: the described one, or a newer one that is known from leases, since a description may be
    /// an old one. Looks for what an earlier worker left, too: leases of streams that were replaced while nobody looked. The
    /// token is to tell their followers that every root of it was begun.
    async fn begin(&mut self, found: &Found) -> Result<(Arc<Stream>, CancellationToken), TableFailed> {
        let leases = self.read_leases(&found.name).await;
        let streams: BTreeSet<StreamName> = leases.into_iter().map(|lease| lease.key.stream).collect();
        let described = self.adopted.clone().unwrap_or_else(|| found.name.clone());
        let mut current = (described, Arc::clone(&found.stream));
        for other in streams.iter().filter(|other| other.same_table(&found.name)) {
            if other.is_newer_than(&current.0)
                && let Some(stream) = other.stream(&found.stream)
            {
                tracing::warn!(
                    table = %self.name, described = found.stream.arn, stream = stream.arn,
                    "the table is described with an older stream than others follow, the newer one is followed"
                );
                current = (other.clone(), Arc::new(stream));
            }
        }
        let (name, stream) = current;
        let older: Vec<&StreamName> =
            streams.iter().filter(|other| other.same_table(&name) && **other != name).collect();
        if !older.is_empty() && !streams.contains(&name) {
            self.flush("new_stream", &stream).await?;
        }
        let successor = Successor::default();
        successor.there.cancel();
        for older in older.into_iter().filter_map(|older| older.stream(&stream)) {
            self.follow(&Arc::new(older), CancellationToken::new(), successor.clone());
        }
        Ok((stream, successor.begun))
    }

    /// Reads all leases, those of an application for a single stream too where this table's may be such ones.
    async fn read_leases(&mut self, name: &StreamName) -> Vec<Lease> {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let read = async {
                if self.deps.adopting.as_ref() == Some(&self.name) {
                    self.adopted = Some(self.deps.leases.adopt(name).await?);
                }
                self.deps.leases.list().await
            };
            match read.await {
                Ok(leases) => return leases,
                Err(error @ (LeaseError::Unavailable(_) | LeaseError::Unfit(_) | LeaseError::Lost(_))) => {
                    tracing::warn!(table = %self.name, %error, "stream leases not read, trying again");
                    self.deps.health.table_problem(&self.name, Part::Leases, Some(error.to_string()));
                    tokio::time::sleep(backoff.next_pause()).await;
                }
            }
        }
    }

    /// Whether a described stream takes the place of the one that is followed. Descriptions may be older than what is
    /// known already.
    fn replaces(&self, described: &Stream, current: &Stream) -> bool {
        let newer = || Some(StreamName::of(current)?.is_newer_than(&StreamName::of(described)?));
        described.arn != current.arn && newer() != Some(true)
    }

    /// The name under which a stream's leases are kept.
    fn name_of(&self, stream: &Stream) -> Option<StreamName> {
        let name = StreamName::of(stream)?;
        Some(self.adopted.clone().filter(|adopted| *adopted == name.plain()).unwrap_or(name))
    }

    /// Starts to follow a stream; the follower cancels `begun` once every root of it was begun.
    fn follow(&mut self, stream: &Arc<Stream>, begun: CancellationToken, successor: Successor) {
        let Some(name) = self.name_of(stream) else {
            tracing::error!(stream = stream.arn, "the stream's name cannot be told from its arn");
            return;
        };
        let deps = &self.deps;
        let (discovery, lister) =
            Discovery::new(Arc::clone(&deps.source), Arc::clone(stream), deps.settings.discovery_interval);
        let shared = consumer::Shared {
            stream: Arc::clone(stream),
            name,
            table: Arc::clone(&self.name),
            source: Arc::clone(&deps.source),
            deliver: Arc::clone(&deps.deliver),
            leases: Arc::clone(&deps.leases),
            owner: deps.owner.clone(),
            discovery,
            settings: consumer::Settings {
                idle_poll: deps.settings.idle_poll,
                max_reads_per_second: deps.settings.max_reads_per_second,
                pages_in_flight: deps.settings.pages_in_flight,
                drain_timeout: deps.settings.drain_timeout,
                cadence: Cadence {
                    checkpoint: deps.settings.checkpoint_interval,
                    timeout: deps.settings.lease_timeout,
                },
            },
        };
        tracing::info!(table = %self.name, stream = stream.arn, "following the stream");
        let follower = Follower::new(shared, Arc::clone(&deps.fleet), deps.health.clone(), begun, successor);
        self.followers.spawn(follower.run(lister, self.stop.clone()));
    }

    /// Reports what is wrong with the table, and returns its newest stream.
    fn judge(&self, description: &TableDescription) -> Option<Arc<Stream>> {
        let problem = start::problems(&self.name, description, &self.deps.router);
        let problem = problem.first().map(ToString::to_string);
        if let Some(problem) = &problem {
            tracing::error!(table = %self.name, problem, "the table's stream cannot be used as it is now");
        }
        self.deps.health.table_problem(&self.name, Part::Table, problem);
        description.stream.clone().filter(|_| description.view_type.is_some())
    }

    /// What was written between two streams is in neither.
    async fn flush(&self, reason: &'static str, stream: &Stream) -> Result<(), TableFailed> {
        tracing::error!(
            table = %self.name, stream = stream.arn, reason,
            "gap in the stream: the table has a new stream, every cached key of this table is being flushed"
        );
        counter!(names::GAPS, names::TABLE => self.name.to_string(), names::REASON => reason).increment(1);
        self.deps.health.gap(&self.name, None, reason);
        self.deps.health.flushing(&self.name, true);
        let flushed = self.deps.deliver.flush_table(&self.name).await.await;
        self.deps.health.flushing(&self.name, false);
        flushed.map_err(|_| TableFailed::PipelineGone)
    }
}
