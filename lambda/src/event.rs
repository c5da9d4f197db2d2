//! What the function is invoked with, record by record, and the answer to it.
//!
//! An event is told apart by its records, never by what surrounds them: change records of a stream, and messages of the
//! queue into which Lambda puts what it gives up ([`given_up`]). An unreadable record harms no other.

pub mod given_up;

use ringtide_core::record::{ChangeRecord, SequenceNumber, UnreadableRecord, record_from_json};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// An event as it came.
#[derive(Debug, Deserialize)]
#[serde(transparent)]
pub struct Event(Box<RawValue>);

/// What is in an event; both lists are empty for an event without records, such as a scheduled one that keeps the
/// sandbox warm.
#[derive(Debug, Default)]
pub struct Contents<'e> {
    /// Change records, each as raw text, in the order of their stream shard.
    pub changes: Vec<&'e RawValue>,
    /// Messages of a queue.
    pub messages: Vec<Message>,
}

/// A message of an SQS queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Message {
    /// What a failure of it is named by; `None` where it has none, so that only the whole event can fail.
    pub id: Option<String>,
    /// Its body; `None` where it has none.
    pub body: Option<String>,
    /// How often it was received, this time included.
    pub receives: u32,
}

/// An event that is none of those the function is made for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownEvent {
    /// The event is not a JSON object.
    #[error("the event is not a JSON object, but {0}")]
    NoObject(&'static str),
    /// The records are not a list.
    #[error("the event's \"Records\" are not a list: {0}")]
    NoList(String),
}

/// The answer: what Lambda is to send again. An empty list is success.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// For a stream at most one failure, from which on everything is sent again; for a queue one a message.
    #[serde(rename = "batchItemFailures")]
    pub failures: Vec<Failure>,
}

/// A record or a message that is to be sent again.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The record's sequence number, or the message's id; never empty, which Lambda would take for a failure of the
    /// whole batch.
    #[serde(rename = "itemIdentifier")]
    pub identifier: String,
}

impl Event {
    /// Takes an event's text; `None` where it is no JSON.
    #[must_use]
    pub fn parse(text: String) -> Option<Self> {
        RawValue::from_string(text).ok().map(Self)
    }

    /// Finds the event's records.
    ///
    /// # Errors
    /// [`UnknownEvent`] where there is no telling what the event is. One without records is none of these.
    pub fn contents(&self) -> Result<Contents<'_>, UnknownEvent> {
        let text = self.0.get();
        if let Some(other) = kind_of(text).filter(|kind| *kind != OBJECT) {
            return Err(UnknownEvent::NoObject(other));
        }
        let no_list = |error: serde_json::Error| UnknownEvent::NoList(error.to_string());
        let Outer { records: Some(records) } = serde_json::from_str(text).map_err(no_list)? else {
            return Ok(Contents::default());
        };
        let records: Vec<&RawValue> = serde_json::from_str(records.get()).map_err(no_list)?;
        let mut contents = Contents { changes: Vec::with_capacity(records.len()), messages: Vec::new() };
        let mut nameless = Vec::new();
        for record in &records {
            match Message::read(record) {
                Some(message) if message.id.is_some() => contents.messages.push(message),
                Some(message) => nameless.push(message),
                None => contents.changes.push(record),
            }
        }
        if contents.messages.is_empty() && !nameless.is_empty() {
            // Whatever these are, they did not come from a queue: unreadable records, in their places.
            contents.changes = records;
        } else {
            contents.messages.extend(nameless);
        }
        Ok(contents)
    }

    /// Reads each change record; none for an event that is unknown.
    #[must_use]
    pub fn read(&self) -> Vec<Result<ChangeRecord, UnreadableRecord>> {
        self.contents().map(|contents| contents.read()).unwrap_or_default()
    }
}

impl Contents<'_> {
    /// Reads each change record.
    #[must_use]
    pub fn read(&self) -> Vec<Result<ChangeRecord, UnreadableRecord>> {
        self.changes.iter().map(|record| record_from_json(record)).collect()
    }
}

impl Message {
    /// Reads a record as a message; `None` where it is not one.
    fn read(record: &RawValue) -> Option<Self> {
        // Most records are changes, and parsing each of them twice would cost as much as everything else here.
        if !record.get().contains(QUEUE) || kind_of(record.get()) != Some(OBJECT) {
            return None;
        }
        let fields: MessageFields<'_> = serde_json::from_str(record.get()).ok()?;
        if fields.change.is_some() || text_of(fields.source)? != QUEUE {
            return None;
        }
        let receives = fields.attributes.and_then(|raw| serde_json::from_str::<MessageAttributes<'_>>(raw.get()).ok());
        Some(Self {
            id: text_of(fields.id).filter(|id| !id.is_empty()),
            body: text_of(fields.body),
            receives: receives.and_then(|attributes| text_of(attributes.receives)?.parse().ok()).unwrap_or(1),
        })
    }
}

impl Answer {
    /// Names the first record that is not delivered. A record whose sequence number cannot be read cannot be named: the
    /// nearest readable one before it stands for it, so that nothing after it is skipped.
    ///
    /// # Errors
    /// The whole batch has to fail where neither it nor any record before it has a sequence number.
    pub fn from(first_undelivered: usize, page: &[Result<ChangeRecord, UnreadableRecord>]) -> Result<Self, Unnameable> {
        let before = page.iter().take(first_undelivered + 1).rev();
        let sequence = before.filter_map(sequence_of).next().ok_or(Unnameable)?;
        Ok(Self { failures: vec![Failure { identifier: sequence.to_string() }] })
    }
}

/// Nothing can be named, so that the whole batch has to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what is not delivered has no sequence number and no id, the whole batch has to be sent again")]
pub struct Unnameable;

/// The event source of a queue's messages.
const QUEUE: &str = "aws:sqs";
const OBJECT: &str = "an object";

#[derive(Deserialize)]
struct Outer<'e> {
    #[serde(rename = "Records", borrow, default)]
    records: Option<&'e RawValue>,
}

#[derive(Deserialize)]
struct MessageFields<'e> {
    #[serde(rename = "messageId", borrow)]
    id: Option<&'e RawValue>,
    #[serde(rename = "eventSource", borrow)]
    source: Option<&'e RawValue>,
    #[serde(borrow)]
    body: Option<&'e RawValue>,
    #[serde(borrow)]
    attributes: Option<&'e RawValue>,
    #[serde(rename = "dynamodb", borrow)]
    change: Option<&'e RawValue>,
}

#[derive(Deserialize)]
struct MessageAttributes<'e> {
    #[serde(rename = "ApproximateReceiveCount", borrow)]
    receives: Option<&'e RawValue>,
}

/// What a JSON value is, by its first character; `None` for a text that is empty.
fn kind_of(text: &str) -> Option<&'static str> {
    text.trim_start().bytes().next().map(|first| match first {
        b'{' => OBJECT,
        b'[' => "a list",
        b'"' => "a text",
        b't' | b'f' => "a truth value",
        b'n' => "null",
        _ => "a number",
    })
}

/// Reads a text; `None` for whatever else there is.
fn text_of(raw: Option<&RawValue>) -> Option<String> {
    serde_json::from_str(raw?.get()).ok()
}

fn sequence_of(record: &Result<ChangeRecord, UnreadableRecord>) -> Option<SequenceNumber> {
    match record {
        Ok(record) => Some(record.sequence),
        Err(unreadable) => unreadable.sequence,
    }
}

#[cfg(test)]
#[path = "event/tests.rs"]
mod tests;
