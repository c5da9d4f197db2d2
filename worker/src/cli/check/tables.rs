//! The tables and their streams, the lease table, and what the credentials allow.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::types::{AttributeValue, TimeToLiveStatus};
use futures_util::future::join_all;
use ringtide_core::config::Config;
use ringtide_core::record::EventName;
use ringtide_core::route::Router;

use super::Finding;
use crate::aws::{Clients, Failure, is_denial};
use crate::stream::{DynamoDbStreams, Position, StreamError, StreamSource, TableDescription};
use crate::supervisor::{problems, refused};

/// How long everything about one table may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// The primary key of a lease table.
const LEASE_KEY: &str = "leaseKey";

/// A condition that no item meets: a write under it is refused after the permission was looked at.
const NEVER: &str = "attribute_exists(leaseKey) AND attribute_not_exists(leaseKey)";

/// The key of the item that is never written.
const NOBODY: &str = "ringtide-check";

struct Live<'c> {
    config: &'c Config,
    router: Router,
    clients: Clients,
    source: DynamoDbStreams,
    endpoint: String,
}

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let clients = Clients::connect(&config.aws).await;
    let source = DynamoDbStreams::new(clients.tables.clone(), clients.streams.clone());
    let endpoint = config.aws.endpoint_url.clone().unwrap_or_else(|| "the region's endpoint".to_owned());
    let live = Live { config, router: Router::new(config.routes.clone()), clients, source, endpoint };
    let tables: BTreeSet<&str> = live.router.tables().collect();
    if tables.is_empty() {
        return vec![Finding::error("routes", "no route names a table: nothing is kept true", "add [[routes]]")];
    }
    let checks = join_all(tables.into_iter().map(|table| in_time(table, live.table(table))));
    let (mut findings, leases) =
        tokio::join!(async { checks.await.concat() }, in_time(&config.worker.application, live.leases()));
    findings.extend(leases);
    findings
}

async fn in_time(table: &str, check: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    tokio::time::timeout(PATIENCE, check).await.unwrap_or_else(|_| {
        let finding = format!("no answer within {} s", PATIENCE.as_secs());
        vec![Finding::error(place(table), finding, "check the endpoint and the network")]
    })
}

fn place(table: &str) -> String {
    format!("table {table}")
}

impl Live<'_> {
    async fn table(&self, table: &str) -> Vec<Finding> {
        let description = match self.source.describe_table(table).await {
            Ok(description) => description,
            Err(error) => return vec![refused(table, &error, &self.endpoint).into()],
        };
        let mut findings: Vec<Finding> =
            problems(table, &description, &self.router).into_iter().map(Finding::from).collect();
        let (read, expiry) = tokio::join!(self.stream(table, &description), self.time_to_live(table));
        findings.extend(read);
        findings.extend(expiry);
        findings
    }

    /// Reads a page of the stream, as a consumer would.
    async fn stream(&self, table: &str, description: &TableDescription) -> Option<Finding> {
        let stream = description.stream.as_ref().filter(|_| description.view_type.is_some())?;
        let read = async {
            let listing = self.source.list_shards(stream).await.map_err(|error| ("DescribeStream", error))?;
            let Some(shard) = listing.shards.first() else { return Ok(()) };
            let iterator = self.source.iterator(stream, &shard.id, Position::TrimHorizon).await;
            let iterator = iterator.map_err(|error| ("GetShardIterator", error))?;
            self.source.read(&iterator).await.map(drop).map_err(|error| ("GetRecords", error))
        };
        match read.await {
            // The oldest stream shard may go while it is looked at, and others may read at the same time.
            Ok(()) | Err((_, StreamError::Trimmed(_) | StreamError::NotFound(_) | StreamError::Throttled(_))) => None,
            Err((call, error)) => {
                let finding = format!("its stream cannot be read, {call}: {error}");
                Some(Finding::error(place(table), finding, format!("allow dynamodb:{call} on the stream")))
            }
        }
    }

    async fn time_to_live(&self, table: &str) -> Option<Finding> {
        let asked = self.clients.tables.describe_time_to_live().table_name(table).send().await;
        let described = match asked.map_err(|error| Failure::of(&error)) {
            Ok(described) => described.time_to_live_description?,
            Err(Failure::Service { code, .. }) if is_denial(&code) => {
                let finding = "whether its items expire is not known: dynamodb:DescribeTimeToLive is not allowed";
                return Some(Finding::note(place(table), finding));
            }
            // Emulators may not know the call.
            Err(_) => return None,
        };
        if described.time_to_live_status != Some(TimeToLiveStatus::Enabled) {
            return None;
        }
        let attribute = described.attribute_name.unwrap_or_default();
        let deaf = self.router.routes(table).filter(|route| !route.applies_to(EventName::Remove));
        let deaf: Vec<&str> = deaf.map(|route| route.place.as_str()).collect();
        if deaf.is_empty() {
            let finding =
                format!("items expire by their attribute {attribute:?}, which comes as REMOVE some time later");
            return Some(Finding::note(place(table), finding));
        }
        let finding = format!("items expire by their attribute {attribute:?}, and {} ignores REMOVE", deaf.join(", "));
        Some(Finding::warning(place(table), finding, "add REMOVE to the route's `on`"))
    }

    /// Whether the lease table is one, and whether it may be written to.
    async fn leases(&self) -> Vec<Finding> {
        let table = self.config.worker.application.as_str();
        match self.source.describe_table(table).await {
            Ok(description) if description.key_schema != [LEASE_KEY] => {
                let finding = format!("it is no lease table: its primary key is not {LEASE_KEY:?} alone");
                vec![Finding::error(place(table), finding, "choose another name as worker.application")]
            }
            Ok(_) => self.permissions(table).await,
            Err(StreamError::NotFound(_)) => {
                vec![Finding::note(place(table), "the lease table is not there yet: the worker creates it")]
            }
            Err(error) => vec![refused(table, &error, &self.endpoint).into()],
        }
    }

    async fn permissions(&self, table: &str) -> Vec<Finding> {
        let client = &self.clients.tables;
        let key = || AttributeValue::S(NOBODY.to_owned());
        let put = client.put_item().table_name(table).item(LEASE_KEY, key()).condition_expression(NEVER);
        let update = client.update_item().table_name(table).key(LEASE_KEY, key()).condition_expression(NEVER);
        let delete = client.delete_item().table_name(table).key(LEASE_KEY, key()).condition_expression(NEVER);
        let (scan, put, update, delete) = tokio::join!(
            client.scan().table_name(table).limit(1).send(),
            put.send(),
            update.update_expression("REMOVE leaseOwner").send(),
            delete.send(),
        );
        let tried = [
            ("Scan", scan.err().map(|error| Failure::of(&error))),
            ("PutItem", put.err().map(|error| Failure::of(&error))),
            ("UpdateItem", update.err().map(|error| Failure::of(&error))),
            ("DeleteItem", delete.err().map(|error| Failure::of(&error))),
        ];
        let denied = tried.into_iter().filter_map(|(call, failure)| match failure? {
            Failure::Service { code, .. } if code == "ConditionalCheckFailedException" => None,
            failure => {
                let finding = format!("the lease table does not take {call}: {failure}");
                Some(Finding::error(place(table), finding, format!("allow dynamodb:{call} on it")))
            }
        });
        denied.collect()
    }
}
