//! The probes' table: one item for each ring shard.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::BuildError;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    StreamSpecification, StreamViewType, TableStatus,
};
use ringtide_core::backoff::Backoff;
use ringtide_core::clock::unix_ms;
use ringtide_core::config::{Aws, Violation};
use tokio::time::Instant;

use crate::aws::{Clients, Failure, is_denial};

/// The table's primary key.
pub(super) const KEY: &str = "pk";
/// What changes with every probe: a write that changes nothing is not in the stream.
const AT: &str = "at";

/// Creates the table with its stream where it is missing, and waits until it can be used.
///
/// What is wrong with a table that is there is told by the start's own look at every table.
///
/// # Errors
/// A table that is missing and cannot be created.
pub(crate) async fn prepare(aws: &Aws, table: &str, patience: Duration) -> Result<(), Vec<Violation>> {
    let client = Clients::connect(aws).await.tables;
    let deadline = Instant::now() + patience;
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    loop {
        match client.describe_table().table_name(table).send().await {
            Ok(output) => match output.table.and_then(|table| table.table_status) {
                Some(TableStatus::Creating) => {}
                Some(_) | None => return Ok(()),
            },
            Err(error) => match Failure::of(&error) {
                Failure::Service { code, .. } if code == "ResourceNotFoundException" => create(&client, table).await?,
                Failure::Service { code, text } if is_denial(&code) => return Err(refused(table, &text)),
                failure => tracing::warn!(table, ?failure, "the probes' table is not described yet"),
            },
        }
        if Instant::now() + backoff.upcoming() > deadline {
            return Ok(());
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

async fn create(client: &Client, table: &str) -> Result<(), Vec<Violation>> {
    let built = |error: BuildError| refused(table, &error.to_string());
    let attribute = AttributeDefinition::builder().attribute_name(KEY).attribute_type(ScalarAttributeType::S);
    let key = KeySchemaElement::builder().attribute_name(KEY).key_type(KeyType::Hash);
    let stream = StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::KeysOnly).build();
    let request = client
        .create_table()
        .table_name(table)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(attribute.build().map_err(built)?)
        .key_schema(key.build().map_err(built)?)
        .stream_specification(stream.map_err(built)?);
    match request.send().await {
        Ok(_) => {
            tracing::info!(table, "the probes' table was created");
            Ok(())
        }
        Err(error) => match Failure::of(&error) {
            // Another worker created it first.
            Failure::Service { code, .. } if code == "ResourceInUseException" => Ok(()),
            Failure::Service { text, .. } | Failure::Unreachable(text) | Failure::Other(text) => {
                Err(refused(table, &text))
            }
        },
    }
}

fn refused(table: &str, reason: &str) -> Vec<Violation> {
    vec![Violation::new(
        "probe.table",
        format!("the table {table:?} cannot be prepared: {reason}"),
        "allow dynamodb:DescribeTable, CreateTable and PutItem on it, or create it with the partition key \"pk\" (text) and a \
         stream of its keys, or remove [probe]",
    )]
}

/// Changes a probe's item.
pub(super) async fn write(client: &Client, table: &str, item: &str) -> Result<(), String> {
    let put = client.put_item().table_name(table).item(KEY, AttributeValue::S(item.to_owned()));
    let written = put.item(AT, AttributeValue::N(unix_ms().to_string())).send().await;
    written.map(drop).map_err(|error| match Failure::of(&error) {
        Failure::Service { text, .. } | Failure::Unreachable(text) | Failure::Other(text) => text,
    })
}
