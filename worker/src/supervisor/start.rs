//! The start: every table has a usable stream, or the worker says everything that is wrong at once.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringtide_core::backoff::Backoff;
use ringtide_core::config::Violation;
use ringtide_core::record::Stream;
use ringtide_core::route::Router;
use tokio::time::Instant;

use crate::lease::{LeaseError, LeaseStore, StreamName};
use crate::stream::policy::{self, StartDecision};
use crate::stream::{StreamError, StreamSource, TableDescription};

/// The first and the longest pause between two tries.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A table's stream.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) table: Arc<str>,
    pub(crate) stream: Arc<Stream>,
    pub(crate) name: StreamName,
}

/// Why the worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot work with the live tables.
    #[error("the worker cannot start:{}", list(.0))]
    Refused(Vec<Violation>),
    /// Nothing answers.
    #[error(
        "{what} cannot be reached at {endpoint} after {} s: {reason}; check the endpoint (aws.endpoint_url, --endpoint-url or AWS_ENDPOINT_URL), the region and the network",
        waited.as_secs()
    )]
    Unreachable {
        /// What was tried to be reached.
        what: &'static str,
        /// Where.
        endpoint: String,
        /// For how long.
        waited: Duration,
        /// What the last try said.
        reason: String,
    },
    /// The lease table cannot be used.
    #[error(transparent)]
    Leases(LeaseError),
    /// The address for health and metrics is taken.
    #[error("health and metrics cannot be served on {address}: {source}; change worker.listen")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

impl StartError {
    /// Whether the configuration has to be changed before another try makes sense.
    #[must_use]
    pub const fn is_configuration(&self) -> bool {
        match self {
            Self::Refused(_) => true,
            Self::Unreachable { .. } | Self::Leases(_) | Self::Listen { .. } => false,
        }
    }
}

fn list(violations: &[Violation]) -> String {
    violations.iter().fold(String::new(), |mut text, violation| {
        let _infallible = write!(text, "\n  - {violation}");
        text
    })
}

/// Waits for an endpoint at start, with a word about it now and then.
struct Patience {
    began: Instant,
    timeout: Duration,
    backoff: Backoff,
    what: &'static str,
    endpoint: String,
}

impl Patience {
    fn new(timeout: Duration, what: &'static str, endpoint: &str) -> Self {
        let backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        Self { began: Instant::now(), timeout, backoff, what, endpoint: endpoint.to_owned() }
    }

    async fn wait(&mut self, reason: String) -> Result<(), StartError> {
        let waited = self.began.elapsed();
        if waited + self.backoff.upcoming() > self.timeout {
            return Err(StartError::Unreachable { what: self.what, endpoint: self.endpoint.clone(), waited, reason });
        }
        tracing::warn!(endpoint = self.endpoint, reason, "{} does not answer yet, trying again", self.what);
        tokio::time::sleep(self.backoff.next_pause()).await;
        Ok(())
    }
}

/// Finds the stream of each table.
///
/// # Errors
/// Everything that is wrong with any of the tables, at once; or that nothing answers within `timeout`.
pub(crate) async fn find_streams(
    source: &dyn StreamSource,
    router: &Router,
    timeout: Duration,
    endpoint: &str,
) -> Result<Vec<Found>, StartError> {
    let mut tables: Vec<&str> = router.tables().collect();
    tables.sort_unstable();
    let mut patience = Patience::new(timeout, "DynamoDB", endpoint);
    let (mut found, mut violations) = (Vec::new(), Vec::new());
    for table in tables {
        let description = loop {
            match source.describe_table(table).await {
                Ok(description) => break Some(description),
                Err(error) => match policy::starting(&error) {
                    StartDecision::Retry => patience.wait(error.to_string()).await?,
                    StartDecision::Refuse => {
                        violations.push(refused(table, &error, endpoint));
                        break None;
                    }
                },
            }
        };
        let Some(description) = description else { continue };
        violations.extend(problems(table, &description, router));
        let named = description.stream.and_then(|stream| StreamName::of(&stream).map(|name| (stream, name)));
        if let Some((stream, name)) = named {
            found.push(Found { table: Arc::from(table), stream, name });
        }
    }
    if violations.is_empty() { Ok(found) } else { Err(StartError::Refused(violations)) }
}

/// Makes the lease table usable.
///
/// # Errors
/// A table that is not one of leases, or that nothing answers within `timeout`.
pub(crate) async fn prepare_leases(
    leases: &dyn LeaseStore,
    timeout: Duration,
    endpoint: &str,
) -> Result<(), StartError> {
    let mut patience = Patience::new(timeout, "the lease table", endpoint);
    loop {
        match leases.prepare().await {
            Ok(()) => return Ok(()),
            Err(LeaseError::Unavailable(reason)) => patience.wait(reason).await?,
            Err(error @ (LeaseError::Unfit(_) | LeaseError::Lost(_))) => return Err(StartError::Leases(error)),
        }
    }
}

/// Everything about a live table that its routes cannot work with.
pub(crate) fn problems(table: &str, description: &TableDescription, router: &Router) -> Vec<Violation> {
    let place = place(table);
    let (Some(view), Some(stream)) = (description.view_type, &description.stream) else {
        return vec![Violation::new(
            place,
            "its stream is off",
            format!(
                "turn it on: aws dynamodb update-table --table-name {table} --stream-specification StreamEnabled=true,StreamViewType=NEW_AND_OLD_IMAGES"
            ),
        )];
    };
    if StreamName::of(stream).is_none() {
        return vec![Violation::new(
            place,
            format!("its stream's ARN {:?} is not one of DynamoDB", stream.arn),
            "check that the endpoint is one of DynamoDB",
        )];
    }
    router.check(table, view, &description.key_schema)
}

/// Why a table cannot be described, and what to do about it.
pub(crate) fn refused(table: &str, error: &StreamError, endpoint: &str) -> Violation {
    match error {
        StreamError::NotFound(_) => Violation::new(
            place(table),
            format!("there is no such table at {endpoint}"),
            "create it, or mend the route's table, the region or the endpoint",
        ),
        error => Violation::new(
            place(table),
            format!("it cannot be described: {error}"),
            "check the credentials, and that they allow dynamodb:DescribeTable, DescribeStream, GetShardIterator and GetRecords",
        ),
    }
}

fn place(table: &str) -> String {
    format!("table {table}")
}
