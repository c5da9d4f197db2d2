//! Where records are kept that cannot be turned into all of their commands, until somebody looks at them.
//!
//! # Format
//! A parked record is one JSON object: one message, one object or one file. Its fields are those of [`ParkedRecord`];
//! `content` is the record as an event of Lambda has it, in DynamoDB's JSON, so that it can be delivered again by a
//! function or a worker as it is.
//!
//! # Guarantees
//! Parking is at least once: a record whose acknowledgement was lost is parked again. Stores that name what they keep
//! (S3, a directory, a DynamoDB table) name it by the record's place in the stream, so that the second time overwrites
//! the first.
//!
//! [`ParkStore`] is what a pipeline writes through, [`ParkReader`] what an operator reads the same place through.

mod directory;
mod place;
mod reader;

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

pub use directory::DirectoryPark;
pub use reader::{Kept, NotParked, ParkReader};
#[cfg(feature = "aws")]
pub(crate) use reader::{SUFFIX, is_id};

use crate::record::{ChangeRecord, RawRecord, SequenceNumber, UnreadableRecord};

/// Keeps parked records: an SQS queue, objects in S3, items of a DynamoDB table, files of a directory, or a list in tests.
#[async_trait]
pub trait ParkStore: fmt::Debug + Send + Sync {
    /// Keeps a record; resolves when it is stored for good. The same record may come again.
    ///
    /// # Errors
    /// [`ParkError`]; it may have been stored all the same.
    async fn park(&self, record: &ParkedRecord) -> Result<(), ParkError>;
}

/// A record that could not be turned into all of its commands, and everything that is known of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ParkedRecord {
    /// Its table, where that is known.
    pub table: Option<String>,
    /// Its stream's ARN, where that is known.
    pub stream_arn: Option<String>,
    /// Its stream shard, where that is known; Lambda does not tell it.
    pub stream_shard: Option<String>,
    /// Its place in the stream, where that is known.
    pub sequence: Option<SequenceNumber>,
    /// Why it could not be used; holds names of attributes and no values.
    pub reason: String,
    /// When it was parked, in unix ms by this process's clock.
    pub parked_at_ms: u64,
    /// Whether the item's images were left out of `content`, which was too long for the store with them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub images_omitted: bool,
    /// The whole record in DynamoDB's JSON, as an event of Lambda has it.
    pub content: Option<RawRecord>,
}

/// Why a record was not parked; holds no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParkError {
    /// The store cannot be reached, or has a failure of its own.
    #[error("records cannot be parked in {store}: {reason}")]
    Unavailable {
        /// Where the record should have gone.
        store: Arc<str>,
        /// Why, as far as it is known.
        reason: String,
    },
    /// The store refuses: a missing permission, no such queue, bucket or directory.
    #[error("records are not accepted by {store}: {reason}")]
    Refused {
        /// Where the record should have gone.
        store: Arc<str>,
        /// What the store says.
        reason: String,
    },
    /// The store did not answer in time.
    #[error("the store for parked records did not answer in time")]
    TimedOut,
}

impl ParkError {
    /// The label of metrics.
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Unavailable { .. } => "unavailable",
            Self::Refused { .. } => "refused",
            Self::TimedOut => "timed_out",
        }
    }
}

impl ParkedRecord {
    /// Describes a record that could not be read.
    #[must_use]
    pub fn of_unreadable(unreadable: &UnreadableRecord, parked_at_ms: u64) -> Self {
        Self {
            table: unreadable.table.clone(),
            stream_arn: unreadable.stream_arn.as_deref().map(str::to_owned),
            stream_shard: unreadable.stream_shard.as_deref().map(str::to_owned),
            sequence: unreadable.sequence,
            reason: unreadable.reason.clone(),
            parked_at_ms,
            images_omitted: false,
            content: unreadable.content.clone(),
        }
    }

    /// Describes a record that was read and whose keys could not be found out.
    #[must_use]
    pub fn of_record(record: &ChangeRecord, reason: String, parked_at_ms: u64) -> Self {
        let shard = &record.stream_shard;
        Self {
            table: Some(record.stream.table.clone()),
            stream_arn: Some(record.stream.arn.clone()),
            stream_shard: (!shard.is_empty()).then(|| shard.to_string()),
            sequence: Some(record.sequence),
            reason,
            parked_at_ms,
            images_omitted: false,
            content: record.to_raw(),
        }
    }

    /// Makes the one JSON object by which the record is kept.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Texts and numbers are always representable, so that there is no error to tell.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The same without the item's images; a content that is no record is left out as a whole.
    #[must_use]
    pub fn without_images(&self) -> Self {
        let content = self.content.as_ref().and_then(RawRecord::without_images);
        Self { content, images_omitted: true, ..self.clone() }
    }

    /// The bytes that it takes up while it waits, about.
    pub(crate) fn weight(&self) -> usize {
        std::mem::size_of::<Self>() + self.reason.len() + self.content.as_ref().map_or(0, |content| content.get().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parked(content: &str) -> ParkedRecord {
        ParkedRecord {
            table: Some("products".into()),
            sequence: Some("1234567890123456789012345678901234567890".parse().unwrap()),
            reason: "bad".into(),
            parked_at_ms: 7,
            content: Some(RawRecord::parse(content.to_owned()).unwrap()),
            ..ParkedRecord::default()
        }
    }

    #[test]
    fn it_is_one_object_with_its_content_as_it_was() {
        let content = r#"{"dynamodb": {"N": 1.50, "SequenceNumber":"7"}}"#;
        let json = parked(content).to_json();
        assert!(json.contains(r#""sequence":"1234567890123456789012345678901234567890""#), "{json}");
        assert!(json.contains(content) && !json.contains("images_omitted"), "{json}");
        assert_eq!(serde_json::from_str::<ParkedRecord>(&json).unwrap(), parked(content));
    }

    #[test]
    fn without_images_keys_and_place_are_left() {
        let content = r#"{"eventName":"MODIFY","dynamodb":{"Keys":{"pk":{"S":"1"}},"NewImage":{"x":{"S":"y"}},"OldImage":{},"SequenceNumber":"7"}}"#;
        let left = parked(content).without_images();
        let text = left.content.as_ref().unwrap().get();
        assert!(text.contains("Keys") && text.contains("SequenceNumber") && text.contains("MODIFY"), "{text}");
        assert!(!text.contains("Image"), "{text}");
        assert!(left.to_json().contains(r#""images_omitted":true"#));
        assert_eq!(parked("[1]").without_images().content, None);
    }

    #[test]
    fn no_debug_text_shows_the_content() {
        assert!(!format!("{:?}", parked(r#"{"secret":"hush"}"#)).contains("hush"));
    }
}
