//! Stream leases in a DynamoDB table, in the Kinesis Client Library's schema.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection, ProjectionType,
    ReturnValue, ScalarAttributeType, TableDescription, TableStatus,
};
use ringtide_core::backoff::Backoff;
use tokio::time::Instant;

use super::item::{self, LEASE_KEY, LEASE_OWNER, Row, number, text};
use super::{Checkpoint, HeldLease, Lease, LeaseError, LeaseKey, LeaseStore, OwnerId, StreamName};
use crate::aws::{self, Failure};
use crate::stream::ShardId;

/// The index that tells an owner's leases.
const OWNER_INDEX: &str = "LeaseOwnerToLeaseKeyIndex";
/// How long a new table may take to become active.
const CREATION_TIMEOUT: Duration = Duration::from_secs(120);
/// What every write of a holder depends on. Somebody may have asked for the lease meanwhile.
const HELD: &str = "leaseCounter = :counter AND (checkpointOwner = :owner OR \
                    (leaseOwner = :owner AND attribute_not_exists(checkpointOwner)))";
/// As [`HELD`], where nobody asked for the lease.
const FREE: &str = "leaseCounter = :counter AND leaseOwner = :owner AND attribute_not_exists(checkpointOwner)";
/// As [`HELD`], where somebody asked for the lease.
const HANDED_OVER: &str = "leaseCounter = :counter AND checkpointOwner = :owner";

/// The lease table of one application. Attributes that it does not know are left as they are.
#[derive(Clone, Debug)]
pub struct DynamoDbLeases {
    client: Client,
    table: String,
    /// The stream of rows that are keyed by stream shard alone.
    plain: Arc<OnceLock<StreamName>>,
    /// The keys of rows that were reported.
    reported: Arc<Mutex<HashSet<String>>>,
}

impl DynamoDbLeases {
    /// Uses the table that is named like the application.
    #[must_use]
    pub fn new(client: Client, application: &str) -> Self {
        Self { client, table: application.to_owned(), plain: Arc::default(), reported: Arc::default() }
    }

    /// The same with calls that are given up in time for another try before a stream lease expires: each try after a third
    /// of `lease_timeout`, though not before a second is over, and the call after three times that.
    ///
    /// A call that the network has swallowed would otherwise hang on when the network is back.
    #[must_use]
    pub fn within(mut self, lease_timeout: Duration) -> Self {
        let attempt = (lease_timeout / 3).clamp(Duration::from_secs(1), Duration::from_secs(10));
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(attempt.min(Duration::from_secs(3)))
            .read_timeout(attempt)
            .operation_attempt_timeout(attempt)
            .operation_timeout(attempt * 3);
        let config = self.client.config().to_builder().timeout_config(timeouts.build());
        self.client = Client::from_conf(config.build());
        self
    }

    /// Reads a row; one that cannot be used is reported, once.
    fn read(&self, row: &item::Item) -> Option<Lease> {
        let (key, reason) = match item::read(row, self.plain.get()) {
            Ok(Row::Lease(lease)) => return Some(*lease),
            Ok(Row::Other) => return None,
            Ok(Row::Plain(key)) => (key, "it names no stream, and more than one stream may be meant".to_owned()),
            Err((key, reason)) => (key, reason),
        };
        if self.reported.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            tracing::error!(table = self.table, key, reason, "stream lease cannot be used and is left alone");
        }
        None
    }

    fn row(&self, key: &LeaseKey) -> UpdateItemFluentBuilder {
        self.client.update_item().table_name(&self.table).key(LEASE_KEY, text(key))
    }

    /// Makes or takes back a request for a lease that somebody holds.
    async fn request(
        &self,
        (key, holder, asker): (&LeaseKey, &OwnerId, &OwnerId),
        request: impl FnOnce(UpdateItemFluentBuilder) -> UpdateItemFluentBuilder,
    ) -> Result<bool, LeaseError> {
        let row = self.row(key).expression_attribute_values(":owner", text(holder));
        match request(row.expression_attribute_values(":me", text(asker))).send().await.map_err(|e| failed(&e, key)) {
            Ok(_) => Ok(true),
            Err(LeaseError::Lost(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn update(&self, key: &LeaseKey, counter: u64) -> UpdateItemFluentBuilder {
        self.row(key)
            .expression_attribute_values(":counter", number(counter))
            .expression_attribute_values(":next", number(counter.saturating_add(1)))
    }

    /// Carries out a write of the holder. Where its condition fails, the lease is read: the write may be our own,
    /// made by an attempt whose answer was lost.
    async fn write(
        &self,
        held: &mut HeldLease,
        update: UpdateItemFluentBuilder,
        made: impl Fn(&Lease) -> bool + Send,
    ) -> Result<(), LeaseError> {
        let update = update.expression_attribute_values(":owner", text(&held.owner));
        let update = update.condition_expression(HELD).return_values(ReturnValue::AllNew);
        let leaving = match update.send().await.map_err(|e| failed(&e, &held.key)) {
            Ok(output) => output.attributes.as_ref().and_then(item::leaving),
            Err(LeaseError::Lost(key)) => {
                let found = self.get(&key).await?;
                found.filter(made).ok_or(LeaseError::Lost(key))?.leaving
            }
            Err(error) => return Err(error),
        };
        held.written(leaving.as_ref());
        Ok(())
    }

    async fn get(&self, key: &LeaseKey) -> Result<Option<Lease>, LeaseError> {
        let request = self.client.get_item().table_name(&self.table).key(LEASE_KEY, text(key)).consistent_read(true);
        let output = request.send().await.map_err(|e| failed(&e, key))?;
        Ok(output.item.and_then(|row| self.read(&row)))
    }

    async fn describe(&self) -> Result<Option<TableDescription>, LeaseError> {
        match self.client.describe_table().table_name(&self.table).send().await {
            Ok(output) => Ok(output.table),
            Err(error) => match Failure::of(&error) {
                Failure::Service { code, .. } if code == "ResourceNotFoundException" => Ok(None),
                failure => Err(self.sorted(failure)),
            },
        }
    }

    async fn create_table(&self) -> Result<(), LeaseError> {
        let built = |e: aws_sdk_dynamodb::error::BuildError| LeaseError::Unfit(e.to_string());
        let attribute = |name: &str| {
            AttributeDefinition::builder().attribute_name(name).attribute_type(ScalarAttributeType::S).build()
        };
        let key = |name: &str, kind| KeySchemaElement::builder().attribute_name(name).key_type(kind).build();
        let index = GlobalSecondaryIndex::builder()
            .index_name(OWNER_INDEX)
            .key_schema(key(LEASE_OWNER, KeyType::Hash).map_err(built)?)
            .key_schema(key(LEASE_KEY, KeyType::Range).map_err(built)?)
            .projection(Projection::builder().projection_type(ProjectionType::KeysOnly).build())
            .build()
            .map_err(built)?;
        let request = self
            .client
            .create_table()
            .table_name(&self.table)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(attribute(LEASE_KEY).map_err(built)?)
            .attribute_definitions(attribute(LEASE_OWNER).map_err(built)?)
            .key_schema(key(LEASE_KEY, KeyType::Hash).map_err(built)?)
            .global_secondary_indexes(index);
        match request.send().await {
            Ok(_) => {
                tracing::info!(table = self.table, "lease table created");
                Ok(())
            }
            Err(error) => match Failure::of(&error) {
                // Another worker created it first.
                Failure::Service { code, .. } if code == "ResourceInUseException" => Ok(()),
                failure => Err(self.sorted(failure)),
            },
        }
    }

    fn sorted(&self, failure: Failure) -> LeaseError {
        match failure {
            Failure::Service { code, text } if aws::is_denial(&code) || code == "ValidationException" => {
                LeaseError::Unfit(format!("{}: {text}", self.table))
            }
            Failure::Service { text, .. } | Failure::Unreachable(text) | Failure::Other(text) => {
                LeaseError::Unavailable(format!("{}: {text}", self.table))
            }
        }
    }
}

#[async_trait]
impl LeaseStore for DynamoDbLeases {
    async fn prepare(&self) -> Result<(), LeaseError> {
        let deadline = Instant::now() + CREATION_TIMEOUT;
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            match self.describe().await? {
                None => self.create_table().await?,
                Some(description) => {
                    let keys = description.key_schema.unwrap_or_default();
                    if !matches!(keys.as_slice(), [key] if key.attribute_name == LEASE_KEY) {
                        return Err(LeaseError::Unfit(format!(
                            "the table {} exists and its primary key is not {LEASE_KEY:?}; choose another name as worker.application",
                            self.table
                        )));
                    }
                    match description.table_status {
                        Some(TableStatus::Active | TableStatus::Updating) | None => return Ok(()),
                        Some(_) => {}
                    }
                }
            }
            if Instant::now() + backoff.upcoming() > deadline {
                return Err(LeaseError::Unavailable(format!("{} does not become active", self.table)));
            }
            tokio::time::sleep(backoff.next_pause()).await;
        }
    }

    async fn list(&self) -> Result<Vec<Lease>, LeaseError> {
        let mut leases = Vec::new();
        // Each stream's name is kept once, and not once a lease.
        let mut streams: BTreeSet<StreamName> = BTreeSet::new();
        let mut from = None;
        loop {
            let request = self.client.scan().table_name(&self.table).consistent_read(true);
            let page = request.set_exclusive_start_key(from).send().await;
            let page = page.map_err(|e| self.sorted(Failure::of(&e)))?;
            for mut lease in page.items.unwrap_or_default().iter().filter_map(|row| self.read(row)) {
                match streams.get(&lease.key.stream) {
                    Some(known) => lease.key.stream = known.clone(),
                    None => drop(streams.insert(lease.key.stream.clone())),
                }
                leases.push(lease);
            }
            match page.last_evaluated_key.filter(|key| !key.is_empty()) {
                Some(key) => from = Some(key),
                None => return Ok(leases),
            }
        }
    }

    async fn create(&self, lease: &Lease) -> Result<bool, LeaseError> {
        let request = self.client.put_item().table_name(&self.table).set_item(Some(item::write(lease)));
        match request.condition_expression("attribute_not_exists(leaseKey)").send().await {
            Ok(_) => Ok(true),
            Err(error) => match failed(&error, &lease.key) {
                LeaseError::Lost(_) => Ok(false),
                error => Err(error),
            },
        }
    }

    async fn adopt(&self, stream: &StreamName) -> Result<StreamName, LeaseError> {
        let mut plain = false;
        let mut from = None;
        loop {
            let request = self.client.scan().table_name(&self.table).consistent_read(true);
            let page = request.set_exclusive_start_key(from).send().await;
            let page = page.map_err(|e| self.sorted(Failure::of(&e)))?;
            for row in page.items.unwrap_or_default() {
                match item::read(&row, None) {
                    // It was read under keys of its own before: those are the ones that went on.
                    Ok(Row::Lease(lease)) if lease.key.stream == *stream => return Ok(stream.clone()),
                    Ok(Row::Plain(_)) => plain = true,
                    Ok(Row::Lease(_) | Row::Other) | Err(_) => {}
                }
            }
            match page.last_evaluated_key.filter(|key| !key.is_empty()) {
                Some(key) => from = Some(key),
                None => break,
            }
        }
        if !plain {
            return Ok(stream.clone());
        }
        tracing::info!(
            table = self.table, %stream,
            "the lease table is that of an application for a single stream, its leases are taken over in place"
        );
        Ok(self.plain.get_or_init(|| stream.plain()).clone())
    }

    async fn ask(&self, lease: &Lease, owner: &OwnerId) -> Result<bool, LeaseError> {
        let (Some(holder), None) = (&lease.owner, &lease.leaving) else { return Ok(false) };
        self.request((&lease.key, holder, owner), |row| {
            row.expression_attribute_values(":end", text(Checkpoint::ShardEnd))
                .update_expression("SET leaseOwner = :me, checkpointOwner = :owner")
                .condition_expression(
                    "leaseOwner = :owner AND attribute_not_exists(checkpointOwner) AND checkpoint <> :end",
                )
        })
        .await
    }

    async fn withdraw(&self, lease: &Lease, owner: &OwnerId) -> Result<bool, LeaseError> {
        let Some(holder) = &lease.leaving else { return Ok(false) };
        self.request((&lease.key, holder, owner), |row| {
            row.update_expression("SET leaseOwner = :owner REMOVE checkpointOwner")
                .condition_expression("leaseOwner = :me AND checkpointOwner = :owner")
        })
        .await
    }

    async fn take(&self, lease: &Lease, owner: &OwnerId) -> Result<HeldLease, LeaseError> {
        let switches = lease.switches.saturating_add(u64::from(lease.holder() != Some(owner)));
        let mut update = self
            .update(&lease.key, lease.counter)
            .expression_attribute_values(":me", text(owner))
            .expression_attribute_values(":switches", number(switches))
            .update_expression(
                "SET leaseOwner = :me, leaseCounter = :next, ownerSwitchesSinceCheckpoint = :switches \
                 REMOVE checkpointOwner",
            );
        let mut as_read = "leaseCounter = :counter".to_owned();
        for (name, value, owner) in
            [("leaseOwner", ":owner", &lease.owner), ("checkpointOwner", ":leaving", &lease.leaving)]
        {
            match owner {
                Some(owner) => {
                    let _infallible = write!(as_read, " AND {name} = {value}");
                    update = update.expression_attribute_values(value, text(owner));
                }
                None => {
                    let _infallible = write!(as_read, " AND attribute_not_exists({name})");
                }
            }
        }
        let held = HeldLease::taken(lease, owner);
        match update.condition_expression(as_read).send().await.map_err(|e| failed(&e, &lease.key)) {
            Ok(_) => Ok(held),
            Err(LeaseError::Lost(key)) => match self.get(&key).await? {
                Some(found) if found.holder() == Some(owner) && found.counter == held.counter => Ok(held),
                Some(_) | None => Err(LeaseError::Lost(key)),
            },
            Err(error) => Err(error),
        }
    }

    async fn renew(&self, held: &mut HeldLease) -> Result<(), LeaseError> {
        let update = self.update(&held.key, held.counter).update_expression("SET leaseCounter = :next");
        let before = held.snapshot();
        self.write(held, update, |found| before.is_written_as(found)).await
    }

    async fn checkpoint(
        &self,
        held: &mut HeldLease,
        checkpoint: &Checkpoint,
        children: &BTreeSet<ShardId>,
    ) -> Result<(), LeaseError> {
        let mut sets = "SET leaseCounter = :next, checkpoint = :checkpoint, checkpointSubSequenceNumber = :zero, \
                        ownerSwitchesSinceCheckpoint = :zero"
            .to_owned();
        let mut update = self
            .update(&held.key, held.counter)
            .expression_attribute_values(":checkpoint", text(checkpoint))
            .expression_attribute_values(":zero", number(0));
        if !children.is_empty() {
            sets.push_str(", childShardIds = :children");
            update = update.expression_attribute_values(":children", item::set(children));
        }
        sets.push_str(" REMOVE pendingCheckpoint, pendingCheckpointSubSequenceNumber, pendingCheckpointState");
        let before = held.snapshot();
        let made = |found: &Lease| before.is_written_as(found) && found.checkpoint == *checkpoint;
        self.write(held, update.update_expression(sets), made).await
    }

    async fn release(&self, mut held: HeldLease) -> Result<(), LeaseError> {
        let released = held.counter.saturating_add(1);
        // Somebody may ask at any moment: each form has a condition that the other one fails.
        for (update, condition) in [
            ("SET leaseCounter = :next REMOVE leaseOwner", FREE),
            ("SET leaseCounter = :next REMOVE checkpointOwner", HANDED_OVER),
        ] {
            let update = self.update(&held.key, held.counter).update_expression(update).condition_expression(condition);
            let update = update.expression_attribute_values(":owner", text(&held.owner));
            match update.send().await.map_err(|e| failed(&e, &held.key)) {
                Ok(_) => return Ok(()),
                Err(LeaseError::Lost(_)) => {}
                Err(error) => return Err(error),
            }
        }
        held.counter = released;
        let found = self.get(&held.key).await?;
        let handed_over = held.trace.asked.is_cancelled();
        let made = found.is_some_and(|found| {
            found.counter == released && found.owner.as_ref().is_none_or(|owner| handed_over && *owner != held.owner)
        });
        if made { Ok(()) } else { Err(LeaseError::Lost(held.key)) }
    }

    async fn delete(&self, lease: &Lease) -> Result<(), LeaseError> {
        let request = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key(LEASE_KEY, text(&lease.key))
            .condition_expression("attribute_not_exists(leaseKey) OR leaseCounter = :counter")
            .expression_attribute_values(":counter", number(lease.counter));
        request.send().await.map(drop).map_err(|e| failed(&e, &lease.key))
    }
}

impl HeldLease {
    fn snapshot(&self) -> Self {
        Self {
            key: self.key.clone(),
            owner: self.owner.clone(),
            counter: self.counter,
            checkpoint: self.checkpoint,
            trace: self.trace(),
        }
    }
}

fn failed<E: aws::ServiceError>(error: &aws::SdkError<E>, key: &LeaseKey) -> LeaseError {
    match Failure::of(error) {
        Failure::Service { code, .. } if code == "ConditionalCheckFailedException" => LeaseError::Lost(key.clone()),
        Failure::Service { text, .. } | Failure::Unreachable(text) | Failure::Other(text) => {
            LeaseError::Unavailable(text)
        }
    }
}

#[cfg(test)]
#[path = "dynamodb_tests.rs"]
mod tests;
