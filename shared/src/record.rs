//! The neutral change record: what both edges turn their input into.

mod attribute;
mod json;
mod raw;
mod sequence;

use std::fmt;
use std::sync::Arc;

pub(crate) use attribute::write_json_object;
pub use attribute::{Attribute, AttributeError, Attributes, canonical_number};
pub use json::{JsonImage, UnreadableRecord, record_from_json, stream_of_arn};
pub use raw::RawRecord;
pub use sequence::{InvalidSequenceNumber, SequenceNumber};

/// What happened to the item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventName {
    /// The item is new.
    Insert,
    /// The item existed and was changed.
    Modify,
    /// The item was deleted, by an application or by its time to live.
    Remove,
}

impl EventName {
    /// Every event, in the order in which an item lives through them.
    pub const ALL: [EventName; 3] = [EventName::Insert, EventName::Modify, EventName::Remove];

    /// The name as DynamoDB spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            EventName::Insert => "INSERT",
            EventName::Modify => "MODIFY",
            EventName::Remove => "REMOVE",
        }
    }

    /// Reads DynamoDB's spelling; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|event| event.as_str() == text)
    }
}

impl fmt::Display for EventName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which images a stream's records carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ViewType {
    /// Only the item's primary key.
    KeysOnly,
    /// The item after the change.
    NewImage,
    /// The item before the change.
    OldImage,
    /// Both.
    NewAndOldImages,
}

impl ViewType {
    /// Every view type.
    pub const ALL: [ViewType; 4] = [Self::KeysOnly, Self::NewImage, Self::OldImage, Self::NewAndOldImages];

    /// The name as DynamoDB spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeysOnly => "KEYS_ONLY",
            Self::NewImage => "NEW_IMAGE",
            Self::OldImage => "OLD_IMAGE",
            Self::NewAndOldImages => "NEW_AND_OLD_IMAGES",
        }
    }

    /// Reads DynamoDB's spelling; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|view| view.as_str() == text)
    }

    /// Tells whether records carry the item after the change.
    #[must_use]
    pub const fn has_new(self) -> bool {
        matches!(self, Self::NewImage | Self::NewAndOldImages)
    }

    /// Tells whether records carry the item before the change.
    #[must_use]
    pub const fn has_old(self) -> bool {
        matches!(self, Self::OldImage | Self::NewAndOldImages)
    }
}

/// One stream of one table: a re-enabled stream is another one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Stream {
    /// The table's name.
    pub table: String,
    /// The stream's ARN.
    pub arn: String,
    /// The stream's creation in unix ms, read from the label at the end of its ARN; 0 where that is not a time.
    pub created_ms: u64,
}

/// One change of one item, in the order of its stream shard.
///
/// Sequence numbers rise within a stream shard, and for one item within a stream. A consumer may hand over a record
/// more than once.
#[derive(Debug)]
pub struct ChangeRecord {
    /// Where it comes from.
    pub stream: Arc<Stream>,
    /// The stream shard it was read from; empty where the edge does not know it (Lambda).
    pub stream_shard: Arc<str>,
    /// What happened.
    pub event: EventName,
    /// The item's primary key.
    pub keys: Box<dyn Attributes>,
    /// The item before the change, where the stream's view type carries it.
    pub old: Option<Box<dyn Attributes>>,
    /// The item after the change, where the stream's view type carries it.
    pub new: Option<Box<dyn Attributes>>,
    /// Its place in the stream.
    pub sequence: SequenceNumber,
    /// When it happened, in unix seconds; DynamoDB rounds it down.
    pub approximate_time_s: Option<u64>,
    /// Whether DynamoDB's time to live deleted the item.
    pub ttl_deletion: bool,
}
