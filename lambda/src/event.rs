//! The event of a stream's event source mapping, and the answer to it.

use ringtide_core::record::{ChangeRecord, SequenceNumber, UnreadableRecord, record_from_json};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// An event: records as raw text, each read on its own.
#[derive(Debug, Deserialize)]
pub struct Event {
    /// The records, in the order of their stream shard.
    #[serde(rename = "Records", default)]
    pub records: Vec<Box<RawValue>>,
}

/// The answer: Lambda sends everything from the lowest named record again. An empty list is success.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// At most one failure: the first record that is not delivered.
    #[serde(rename = "batchItemFailures")]
    pub failures: Vec<Failure>,
}

/// A record that is to be sent again.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Its sequence number; never empty, which Lambda would take for a failure of the whole batch.
    #[serde(rename = "itemIdentifier")]
    pub sequence: String,
}

impl Event {
    /// Reads each record.
    #[must_use]
    pub fn read(&self) -> Vec<Result<ChangeRecord, UnreadableRecord>> {
        self.records.iter().map(|record| record_from_json(record)).collect()
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
        Ok(Self { failures: vec![Failure { sequence: sequence.to_string() }] })
    }
}

/// No record can be named, so that the whole batch has to be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no undelivered record has a sequence number, the whole batch has to be sent again")]
pub struct Unnameable;

fn sequence_of(record: &Result<ChangeRecord, UnreadableRecord>) -> Option<SequenceNumber> {
    match record {
        Ok(record) => Some(record.sequence),
        Err(unreadable) => unreadable.sequence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(sequences: &[Option<&str>]) -> Vec<Result<ChangeRecord, UnreadableRecord>> {
        let unreadable = |sequence: &Option<&str>| {
            let sequence = sequence.map(|text| text.parse().unwrap());
            Err(UnreadableRecord { sequence, table: None, reason: "bad".into() })
        };
        sequences.iter().map(unreadable).collect()
    }

    #[test]
    fn the_first_undelivered_record_is_named() {
        let page = page(&[Some("1"), Some("2"), Some("3")]);
        assert_eq!(Answer::from(1, &page).unwrap().failures[0].sequence, "2");
        let json = serde_json::to_string(&Answer::from(2, &page).unwrap()).unwrap();
        assert_eq!(json, r#"{"batchItemFailures":[{"itemIdentifier":"3"}]}"#);
        assert_eq!(serde_json::to_string(&Answer::default()).unwrap(), r#"{"batchItemFailures":[]}"#);
    }

    #[test]
    fn a_record_without_a_number_never_yields_an_empty_identifier() {
        assert_eq!(Answer::from(1, &page(&[Some("1"), None])).unwrap().failures[0].sequence, "1");
        assert_eq!(Answer::from(0, &page(&[None, Some("2")])), Err(Unnameable));
    }
}
