//! A worker as a value: started from a configuration, watched, stopped; by `main`, by tests and by the demo.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringtide_core::aws;
use ringtide_core::clock::unix_ms;
use ringtide_core::config::Config;
use ringtide_core::pipeline::Pipeline;
use ringtide_core::route::Router;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::aws::Clients;
use crate::deliver::Deliver;
use crate::health::Health;
use crate::http::{About, Pages};
use crate::lease::fleet::Fleet;
use crate::lease::{DynamoDbLeases, LeaseStore, OwnerId};
use crate::metrics::Metrics;
use crate::probe::{self, Prober};
use crate::stream::{DynamoDbStreams, StreamSource};
use crate::supervisor::{self, Deps, StartError, Table, TableFailed};

/// How long a start waits for DynamoDB to answer.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long the last checkpoints and releases may take after the drain.
const RELEASE_TIME: Duration = Duration::from_secs(2);

/// What a worker is made from; the parts behind seams can be replaced one by one.
pub struct Worker {
    /// Where records come from.
    pub source: Arc<dyn StreamSource>,
    /// Where leases are kept.
    pub leases: Arc<dyn LeaseStore>,
    /// Where pages go.
    pub deliver: Arc<dyn Deliver>,
    /// The name under which leases are held.
    pub owner: OwnerId,
    /// What `/metrics` shows; `None` where another part of the process exports them, which asks [`Health::ages`] for those of
    /// stream shards.
    pub metrics: Option<Metrics>,
    /// How long a start waits for DynamoDB to answer.
    pub start_timeout: Duration,
}

/// A worker at work. Dropping it ends it at once, as a crash would: nothing more is stored.
#[derive(Debug)]
pub struct RunningWorker {
    address: Option<SocketAddr>,
    health: Health,
    stop: CancellationToken,
    task: Option<JoinHandle<Result<Stopped, RunError>>>,
}

/// How a worker stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Commands that were not delivered in time; their records are read again by the successor.
    pub undelivered: usize,
}

/// Why a worker ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// Nothing can be delivered any more.
    #[error("the pipeline ended while the worker was running")]
    PipelineGone,
    /// A task of the worker broke off.
    #[error("a task of the worker broke off; its cause stands in the log before this")]
    BrokenOff,
}

impl Worker {
    /// Builds the real thing: DynamoDB, its streams, and the ring, as the configuration says.
    ///
    /// Must be called in a Tokio runtime. The ring shards are connected in the background.
    ///
    /// # Errors
    /// Settings of ring shards that cannot be used.
    pub async fn connect(config: &Config) -> Result<Self, StartError> {
        let connected =
            Pipeline::connect(&probe::routed(config), aws::services(config)).map_err(StartError::Refused)?;
        let clients = Clients::connect(&config.aws).await;
        let leases = DynamoDbLeases::new(clients.tables.clone(), &config.worker.application);
        Ok(Self {
            source: Arc::new(DynamoDbStreams::new(clients.tables, clients.streams)),
            leases: Arc::new(leases.within(config.worker.lease_timeout)),
            deliver: Arc::new(connected.pipeline),
            owner: OwnerId::of_process(&config.worker.application),
            metrics: None,
            start_timeout: START_TIMEOUT,
        })
    }

    /// Finds the streams, prepares the lease table, and starts to consume.
    ///
    /// Health and metrics are served from the beginning; the worker is ready only when it has read every stream shard.
    ///
    /// # Errors
    /// Everything that keeps the worker from starting, see [`StartError`].
    pub async fn start(self, config: &Config) -> Result<RunningWorker, StartError> {
        let config = &*probe::routed(config);
        let settings = config.worker.clone();
        let router = Arc::new(Router::new(config.routes.clone()));
        let endpoint = config.aws.endpoint_url.clone().unwrap_or_else(|| "the region's endpoint".to_owned());
        let health = Health::new(settings.unhealthy_after, router.tables().map(Arc::from));
        let stop = CancellationToken::new();
        let mut pages = JoinSet::new();
        let mut address = None;
        let about = About {
            application: settings.application.clone(),
            owner: self.owner.to_string(),
            version: env!("CARGO_PKG_VERSION"),
            started_at_ms: unix_ms(),
            since: Instant::now(),
        };
        if let Some(metrics) = &self.metrics {
            metrics.show(&health);
        }
        let shown = Pages::new(health.clone(), Arc::clone(&self.deliver), self.metrics.clone(), about);
        pages.spawn(shown.clone().watch());
        if let Some(listen) = settings.listen {
            let failed = |source| StartError::Listen { address: listen, source };
            let listener = TcpListener::bind(listen).await.map_err(failed)?;
            address = Some(listener.local_addr().map_err(failed)?);
            let router = shown.clone().router();
            pages.spawn(async move { axum::serve(listener, router).await });
        }
        if let Some(probe) = &config.probe {
            probe::prepare(&config.aws, &probe.table, self.start_timeout).await.map_err(StartError::Refused)?;
        }
        let found = supervisor::find_streams(&*self.source, &router, self.start_timeout, &endpoint).await?;
        supervisor::prepare_leases(&*self.leases, self.start_timeout, &endpoint).await?;
        tracing::info!(
            application = settings.application, owner = %self.owner, tables = found.len(), address = ?address,
            "worker started"
        );
        let drain = settings.drain_timeout;
        let fleet = Fleet::new(Arc::clone(&self.leases), self.owner.clone(), settings.lease_timeout);
        let adopting = supervisor::only_table(&router, config.probe.as_ref());
        let deps = Deps {
            source: self.source,
            leases: self.leases,
            fleet: Arc::new(fleet),
            deliver: self.deliver,
            owner: self.owner,
            health: health.clone(),
            router,
            adopting,
            settings,
        };
        let deliver = Arc::clone(&deps.deliver);
        if let Some(prober) = Prober::connect(config, health.clone(), Arc::clone(&deliver)).await {
            pages.spawn(prober.run());
        }
        let mut tables = JoinSet::new();
        for found in found {
            let table = Table::new(deps.clone(), Arc::clone(&found.table), stop.clone());
            tables.spawn(table.run(found));
        }
        let running = Running { tables, pages, deliver, health: health.clone(), stop: stop.clone(), drain };
        Ok(RunningWorker { address, health, stop, task: Some(tokio::spawn(running.run())) })
    }
}

impl RunningWorker {
    /// Where health and metrics are served.
    #[must_use]
    pub const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// How it fares.
    #[must_use]
    pub const fn health(&self) -> &Health {
        &self.health
    }

    /// Asks for an orderly end: reading stops, what was read is delivered and checkpointed, leases are released.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }

    /// A token that asks for an orderly end, for whoever waits in [`RunningWorker::join`].
    #[must_use]
    pub fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Waits for the end, which somebody has to ask for.
    ///
    /// # Errors
    /// Why it ended by itself.
    pub async fn join(mut self) -> Result<Stopped, RunError> {
        match self.task.as_mut() {
            Some(task) => task.await.unwrap_or(Err(RunError::BrokenOff)),
            None => Err(RunError::BrokenOff),
        }
    }
}

impl Drop for RunningWorker {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// The worker's own task: it owns all others.
struct Running {
    tables: JoinSet<Result<(), TableFailed>>,
    pages: JoinSet<std::io::Result<()>>,
    deliver: Arc<dyn Deliver>,
    health: Health,
    stop: CancellationToken,
    drain: Duration,
}

impl Running {
    async fn run(mut self) -> Result<Stopped, RunError> {
        let ended = tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            () = self.deliver.broken() => Err(RunError::PipelineGone),
            Some(table) = self.tables.join_next() => match table {
                Ok(Ok(())) if self.stop.is_cancelled() => Ok(()),
                Ok(Err(TableFailed::PipelineGone)) => Err(RunError::PipelineGone),
                Ok(Ok(()) | Err(TableFailed::BrokenOff)) | Err(_) => Err(RunError::BrokenOff),
            },
            // They are served for as long as the worker runs.
            Some(pages) = self.pages.join_next() => {
                tracing::error!(?pages, "health and metrics are not served any more");
                Err(RunError::BrokenOff)
            }
        };
        self.stop.cancel();
        self.health.stopping();
        let deadline = Instant::now() + self.drain;
        let released = tokio::time::timeout_at(deadline + RELEASE_TIME, async {
            while self.tables.join_next().await.is_some() {}
        });
        if released.await.is_err() {
            tracing::warn!("not every stream lease was released in time; the others have to expire");
        }
        self.tables.shutdown().await;
        let undelivered = self.deliver.close(deadline).await;
        self.pages.shutdown().await;
        tracing::info!(undelivered, "worker stopped");
        ended.map(|()| Stopped { undelivered })
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
