//! What commands about a fleet work with: the configuration, its tables' streams, the lease table.

use std::collections::BTreeSet;
use std::time::Duration;

use ringtide_core::config::{Config, Violation};
use ringtide_core::route::Router;
use tokio::sync::OnceCell;

use super::{Common, Exit, logging};
use crate::aws::Clients;
use crate::lease::{DynamoDbLeases, Lease, LeaseStore, StreamName};
use crate::pausing::PauseError;
use crate::stream::{DynamoDbStreams, Listing, StreamError, StreamSource};
use crate::supervisor::{self, Found, StartError};

/// How long a command waits for DynamoDB to answer at all.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a command did not do what it was asked.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Something has to be changed before another try makes sense.
    Configuration(String),
    /// It was tried and failed.
    Failed(String),
    /// The answer could not be written.
    Output(std::io::Error),
}

impl Refusal {
    pub(super) fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }

    /// Everything that is wrong with the configuration.
    pub(super) fn violations(violations: Vec<Violation>) -> Self {
        let lines: Vec<String> = violations.iter().map(|violation| format!("\n  - {violation}")).collect();
        Self::Configuration(format!("the configuration cannot be used:{}", lines.concat()))
    }
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<StartError> for Refusal {
    fn from(error: StartError) -> Self {
        let text = error.to_string().replacen("the worker cannot start", "this cannot work", 1);
        if error.is_configuration() { Self::Configuration(text) } else { Self::Failed(text) }
    }
}

impl From<PauseError> for Refusal {
    fn from(error: PauseError) -> Self {
        Self::failed(error)
    }
}

/// Logs why a command was refused, and tells what to exit with.
pub(super) fn exit(outcome: Result<Exit, Refusal>) -> std::io::Result<Exit> {
    match outcome {
        Ok(exit) => Ok(exit),
        Err(Refusal::Configuration(text)) => {
            tracing::error!("{text}");
            Ok(Exit::Configuration)
        }
        Err(Refusal::Failed(text)) => {
            tracing::error!("{text}");
            Ok(Exit::Failed)
        }
        Err(Refusal::Output(error)) => Err(error),
    }
}

/// So many leases, for people.
pub(super) fn leases(count: usize) -> String {
    format!("{count} {}", if count == 1 { "lease" } else { "leases" })
}

/// Whoever gives commands about a fleet.
pub(super) struct Operator {
    pub(super) config: Config,
    pub(super) clients: Clients,
    pub(super) source: DynamoDbStreams,
    pub(super) leases: DynamoDbLeases,
    /// The name under which the leases of the only table stand, once they were looked at.
    adopted: OnceCell<Option<StreamName>>,
}

impl Operator {
    /// Loads the configuration and prepares the clients; nothing is sent yet but what the configuration's place asks for.
    pub(super) async fn new(common: &Common) -> Result<Self, Refusal> {
        logging::begin_quietly(common.log_format);
        let config = common.load().await.map_err(|error| Refusal::Configuration(error.to_string()))?;
        let clients = Clients::connect(&config.aws).await;
        let source = DynamoDbStreams::new(clients.tables.clone(), clients.streams.clone());
        let leases = DynamoDbLeases::new(clients.tables.clone(), &config.worker.application);
        Ok(Self { config, clients, source, leases, adopted: OnceCell::new() })
    }

    /// The tables that routes name, or the one of them that was asked for.
    pub(super) fn tables(&self, only: Option<&str>) -> Result<Vec<String>, Refusal> {
        let known: BTreeSet<&str> = self.config.routes.iter().map(|route| route.table.as_str()).collect();
        match only {
            Some(table) if !known.contains(table) => {
                let known = known.into_iter().collect::<Vec<_>>().join(", ");
                Err(Refusal::Configuration(format!("no route names the table {table:?}; the routes name: {known}")))
            }
            Some(table) => Ok(vec![table.to_owned()]),
            None => Ok(known.into_iter().map(str::to_owned).collect()),
        }
    }

    /// The routes of one table.
    pub(super) fn router(&self, table: &str) -> Router {
        Router::new(self.config.routes.iter().filter(|route| route.table == table).cloned().collect())
    }

    /// Finds a table's stream.
    pub(super) async fn stream(&self, table: &str) -> Result<Found, Refusal> {
        let endpoint = self.config.aws.endpoint_url.as_deref().unwrap_or("the region's endpoint");
        let mut found = supervisor::find_streams(&self.source, &self.router(table), PATIENCE, endpoint).await?;
        let none = || Refusal::Configuration(format!("the table {table:?} has no stream"));
        let mut found = found.pop().ok_or_else(none)?;
        if let Some(adopted) = self.adopted().await? {
            found.name = adopted;
        }
        Ok(found)
    }

    /// Finds out whether the lease table is that of an application for a single stream, as workers do; `None` where it
    /// cannot be, or where there is none.
    async fn adopted(&self) -> Result<Option<StreamName>, Refusal> {
        let adopt = || async {
            let [table] = &self.tables(None)?[..] else { return Ok(None) };
            if !self.has_leases().await? {
                return Ok(None);
            }
            let stream = self.source.describe_table(table).await.ok().and_then(|description| description.stream);
            let Some(name) = stream.and_then(|stream| StreamName::of(&stream)) else { return Ok(None) };
            self.leases.adopt(&name).await.map(Some).map_err(Refusal::failed)
        };
        self.adopted.get_or_try_init(adopt).await.cloned()
    }

    /// Lists a stream's shards; a stream that is gone has none.
    pub(super) async fn listing(&self, stream: &ringtide_core::record::Stream) -> Result<Listing, Refusal> {
        match self.source.list_shards(stream).await {
            Ok(listing) => Ok(listing),
            Err(StreamError::NotFound(_)) => Ok(Listing::default()),
            Err(error) => {
                Err(Refusal::Failed(format!("the shards of the stream {} cannot be listed: {error}", stream.arn)))
            }
        }
    }

    /// Whether there is a lease table.
    async fn has_leases(&self) -> Result<bool, Refusal> {
        let table = &self.config.worker.application;
        match self.source.describe_table(table).await {
            Err(StreamError::NotFound(_)) => Ok(false),
            Err(error) => Err(Refusal::Failed(format!("the lease table {table:?} cannot be described: {error}"))),
            Ok(description) if description.key_schema != ["leaseKey"] => Err(Refusal::Configuration(format!(
                "the table {table:?} is not one of leases; give worker.application another name"
            ))),
            Ok(_) => Ok(true),
        }
    }

    /// Reads all leases; `None` where there is no lease table yet.
    pub(super) async fn leases(&self) -> Result<Option<Vec<Lease>>, Refusal> {
        if !self.has_leases().await? {
            return Ok(None);
        }
        self.adopted().await?;
        self.leases.list().await.map(Some).map_err(Refusal::failed)
    }

    /// Reads all leases, where there have to be some.
    pub(super) async fn known_leases(&self) -> Result<Vec<Lease>, Refusal> {
        self.leases().await?.ok_or_else(|| {
            let table = &self.config.worker.application;
            Refusal::Failed(format!(
                "there is no lease table {table:?}: no worker of this application has run yet; check worker.application"
            ))
        })
    }

    /// The streams of all tables, or of the one that was asked for: of each the newest one, after older ones that still have
    /// leases.
    pub(super) async fn streams_of(&self, only: Option<&str>) -> Result<Vec<Found>, Refusal> {
        let mut newest = Vec::new();
        for table in self.tables(only)? {
            newest.push(self.stream(&table).await?);
        }
        let leases = self.known_leases().await?;
        let leased: BTreeSet<StreamName> = leases.into_iter().map(|lease| lease.key.stream).collect();
        Ok(newest.into_iter().flat_map(|newest| with_older(newest, &leased)).collect())
    }
}

/// A table's newest stream, after the older ones of those that have leases.
fn with_older(newest: Found, leased: &BTreeSet<StreamName>) -> Vec<Found> {
    let older = leased.iter().filter(|name| name.same_table(&newest.name) && **name != newest.name);
    let older = older.filter_map(|name| {
        let stream = std::sync::Arc::new(name.stream(&newest.stream)?);
        Some(Found { table: std::sync::Arc::clone(&newest.table), stream, name: name.clone() })
    });
    let mut streams: Vec<Found> = older.collect();
    streams.push(newest);
    streams
}
