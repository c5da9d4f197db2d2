//! DynamoDB Streams through the AWS SDK.

use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::KeyType;
use aws_sdk_dynamodbstreams::types::{
    Shard, ShardFilter, ShardFilterType, ShardIteratorType, StreamStatus as SdkStatus,
};
use ringtide_core::record::{Stream, ViewType, stream_of_arn};

use super::image::change_record;
use super::{
    Page, Position, ShardId, ShardIterator, ShardQuery, ShardsPage, StreamError, StreamShard, StreamSource,
    StreamStatus, TableDescription,
};
use crate::aws::{self, Failure};

/// The most records that DynamoDB hands out in one read.
const PAGE_RECORDS: i32 = 1000;

/// Tables and streams of one region.
#[derive(Clone, Debug)]
pub struct DynamoDbStreams {
    tables: aws_sdk_dynamodb::Client,
    streams: aws_sdk_dynamodbstreams::Client,
}

impl DynamoDbStreams {
    /// Uses these clients.
    #[must_use]
    pub const fn new(tables: aws_sdk_dynamodb::Client, streams: aws_sdk_dynamodbstreams::Client) -> Self {
        Self { tables, streams }
    }
}

#[async_trait]
impl StreamSource for DynamoDbStreams {
    async fn describe_table(&self, table: &str) -> Result<TableDescription, StreamError> {
        let output = self.tables.describe_table().table_name(table).send().await.map_err(failed)?;
        let description = output.table.ok_or_else(|| StreamError::Other(format!("no description of {table}")))?;
        let on = description.stream_specification.as_ref().filter(|stream| stream.stream_enabled);
        let view_type =
            on.and_then(|stream| stream.stream_view_type.as_ref()).and_then(|v| ViewType::parse(v.as_str()));
        let stream = description.latest_stream_arn.as_deref().and_then(stream_of_arn).map(Arc::new);
        let mut key_schema = description.key_schema.unwrap_or_default();
        key_schema.sort_by_key(|key| key.key_type != KeyType::Hash);
        let key_schema = key_schema.into_iter().map(|key| key.attribute_name).collect();
        Ok(TableDescription { stream, view_type, key_schema })
    }

    async fn shards_page(&self, stream: &Stream, query: &ShardQuery) -> Result<ShardsPage, StreamError> {
        let filter = query.children_of.as_ref().map(|parent| {
            ShardFilter::builder().r#type(ShardFilterType::ChildShards).shard_id(parent.as_str()).build()
        });
        let after = query.after.as_ref().map(ToString::to_string);
        let request = self.streams.describe_stream().stream_arn(&stream.arn).set_shard_filter(filter);
        let output = request.set_exclusive_start_shard_id(after).send().await.map_err(failed)?;
        let page = output.stream_description;
        let page = page.ok_or_else(|| StreamError::Other(format!("no description of {}", stream.arn)))?;
        let text = |id: Option<String>| id.filter(|id| !id.is_empty()).map(|id| ShardId::from(id.as_str()));
        let shard = |shard: Shard| {
            let starting = shard.sequence_number_range.and_then(|range| range.starting_sequence_number);
            Some(StreamShard {
                id: text(shard.shard_id)?,
                parent: text(shard.parent_shard_id),
                starting: starting.and_then(|number| number.parse().ok()),
            })
        };
        Ok(ShardsPage {
            shards: page.shards.unwrap_or_default().into_iter().filter_map(shard).collect(),
            status: page.stream_status.as_ref().map(status_of).unwrap_or_default(),
            last: text(page.last_evaluated_shard_id),
        })
    }

    async fn iterator(
        &self,
        stream: &Arc<Stream>,
        shard: &ShardId,
        position: Position,
    ) -> Result<ShardIterator, StreamError> {
        let (kind, sequence) = match position {
            Position::TrimHorizon => (ShardIteratorType::TrimHorizon, None),
            Position::Latest => (ShardIteratorType::Latest, None),
            Position::AtSequence(sequence) => (ShardIteratorType::AtSequenceNumber, Some(sequence.to_string())),
            Position::AfterSequence(sequence) => (ShardIteratorType::AfterSequenceNumber, Some(sequence.to_string())),
        };
        let request = self.streams.get_shard_iterator().stream_arn(&stream.arn).shard_id(shard.as_str());
        let output = request.shard_iterator_type(kind).set_sequence_number(sequence).send().await.map_err(failed)?;
        let token = output.shard_iterator.ok_or_else(|| StreamError::Other("no iterator was handed out".to_owned()))?;
        Ok(ShardIterator { stream: Arc::clone(stream), shard: shard.clone(), token })
    }

    async fn read(&self, iterator: &ShardIterator) -> Result<Page, StreamError> {
        let request = self.streams.get_records().shard_iterator(&iterator.token).limit(PAGE_RECORDS);
        let output = request.send().await.map_err(failed)?;
        let records = output.records.unwrap_or_default();
        let records =
            records.into_iter().map(|record| change_record(record, &iterator.stream, &iterator.shard)).collect();
        let next = output.next_shard_iterator.map(|token| ShardIterator { token, ..iterator.clone() });
        Ok(Page { records, next })
    }
}

fn status_of(status: &SdkStatus) -> StreamStatus {
    match status {
        SdkStatus::Enabling => StreamStatus::Enabling,
        SdkStatus::Disabling => StreamStatus::Disabling,
        SdkStatus::Disabled => StreamStatus::Disabled,
        _ => StreamStatus::Enabled,
    }
}

fn failed<E>(error: aws::SdkError<E>) -> StreamError
where
    E: aws::ServiceError,
{
    match Failure::of(&error) {
        Failure::Unreachable(text) => StreamError::Unreachable(text),
        Failure::Service { code, text } => match code.as_str() {
            "ExpiredIteratorException" => StreamError::IteratorExpired,
            "TrimmedDataAccessException" => StreamError::Trimmed(text),
            "ResourceNotFoundException" => StreamError::NotFound(text),
            "ValidationException" => StreamError::Invalid(text),
            code if aws::is_throttle(code) => StreamError::Throttled(text),
            code if aws::is_denial(code) => StreamError::Denied(text),
            _ => StreamError::Other(text),
        },
        Failure::Other(text) => StreamError::Other(text),
    }
}
