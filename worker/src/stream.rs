//! The seam to DynamoDB Streams: tables, stream shards, iterators and reads.

mod dynamodb;
mod image;
mod listing;
pub mod policy;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use ringtide_core::record::{ChangeRecord, SequenceNumber, Stream, UnreadableRecord, ViewType};

pub use dynamodb::DynamoDbStreams;
pub use listing::{Gathering, Listing, ShardQuery, ShardsPage, StreamShard, StreamStatus};

/// Where change records come from: DynamoDB Streams, or a script in tests.
///
/// Records of one stream shard come in order, at least once. Every call may fail with any [`StreamError`];
/// [`policy`] decides what follows from which.
#[async_trait]
pub trait StreamSource: Send + Sync + 'static {
    /// Describes a table and its newest stream.
    ///
    /// # Errors
    /// [`StreamError::NotFound`] where there is no such table.
    async fn describe_table(&self, table: &str) -> Result<TableDescription, StreamError>;

    /// Lists stream shards, one page of them; [`Gathering`] puts pages together.
    ///
    /// # Errors
    /// [`StreamError::NotFound`] where the stream is gone.
    async fn shards_page(&self, stream: &Stream, query: &ShardQuery) -> Result<ShardsPage, StreamError>;

    /// Lists all stream shards of a stream, over all pages, each once, without any pause.
    ///
    /// # Errors
    /// The first one of any page.
    async fn list_shards(&self, stream: &Stream) -> Result<Listing, StreamError> {
        let mut gathering = Gathering::of_all();
        loop {
            let page = self.shards_page(stream, gathering.query()).await?;
            if let Some(listing) = gathering.take(page)? {
                return Ok(listing);
            }
        }
    }

    /// Opens an iterator.
    ///
    /// # Errors
    /// [`StreamError::Trimmed`] where the position is older than the stream's oldest record,
    /// [`StreamError::NotFound`] where the stream shard is gone.
    async fn iterator(
        &self,
        stream: &Arc<Stream>,
        shard: &ShardId,
        position: Position,
    ) -> Result<ShardIterator, StreamError>;

    /// Reads the next page. The same iterator may be read again after an error.
    ///
    /// # Errors
    /// [`StreamError::IteratorExpired`] 15 minutes after the iterator was handed out.
    async fn read(&self, iterator: &ShardIterator) -> Result<Page, StreamError>;
}

/// Names a stream shard within its stream.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(Arc<str>);

impl ShardId {
    /// The id as DynamoDB spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id as records carry it.
    #[must_use]
    pub fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl From<&str> for ShardId {
    fn from(id: &str) -> Self {
        Self(Arc::from(id))
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// What a table says about its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableDescription {
    /// The newest stream, also where it is being switched off; `None` where the table never had one.
    pub stream: Option<Arc<Stream>>,
    /// The view type of a stream that is on; `None` where it is off.
    pub view_type: Option<ViewType>,
    /// The names of the primary key's attributes, the hash key first.
    pub key_schema: Vec<String>,
}

/// Where an iterator begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// With the oldest record that is kept.
    TrimHorizon,
    /// After the newest record: only for what a listing showed at the very first start.
    Latest,
    /// At the place of this sequence number: a stream shard's starting one.
    AtSequence(SequenceNumber),
    /// After the record with this sequence number.
    AfterSequence(SequenceNumber),
}

/// A read cursor in one stream shard.
#[derive(Clone, Debug)]
pub struct ShardIterator {
    /// The stream.
    pub stream: Arc<Stream>,
    /// The stream shard.
    pub shard: ShardId,
    /// The source's own name for the place.
    pub token: String,
}

/// What one read brought.
#[derive(Debug)]
pub struct Page {
    /// The records in stream order; none at all is usual, also in the middle of a stream shard.
    pub records: Vec<Result<ChangeRecord, UnreadableRecord>>,
    /// Where to go on; `None` where the stream shard is closed and these were its last records.
    pub next: Option<ShardIterator>,
}

/// A failed call of DynamoDB or its streams.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// Too many calls.
    #[error("throttled: {0}")]
    Throttled(String),
    /// The iterator is older than 15 minutes.
    #[error("the iterator has expired")]
    IteratorExpired,
    /// The records asked for are no longer kept.
    #[error("the records are no longer kept: {0}")]
    Trimmed(String),
    /// There is no such table, stream or stream shard.
    #[error("not found: {0}")]
    NotFound(String),
    /// Credentials are missing, wrong, expired, or lack a permission.
    #[error("access denied: {0}")]
    Denied(String),
    /// Nothing answers, or not in time.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// The service does not take the call as it is.
    #[error("refused: {0}")]
    Invalid(String),
    /// Anything else; it may pass.
    #[error("failed: {0}")]
    Other(String),
}

impl StreamError {
    /// A short name for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Throttled(_) => "throttled",
            Self::IteratorExpired => "iterator_expired",
            Self::Trimmed(_) => "trimmed",
            Self::NotFound(_) => "not_found",
            Self::Denied(_) => "denied",
            Self::Unreachable(_) => "unreachable",
            Self::Invalid(_) => "invalid",
            Self::Other(_) => "other",
        }
    }
}
