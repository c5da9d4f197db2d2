//! The reading side of a place for parked records: what an operator lists, shows and takes away.

use std::fmt;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::{ParkError, ParkedRecord};

/// Reads what a [`ParkStore`](super::ParkStore) keeps: the same queue, bucket, table or directory.
///
/// Records may be parked and taken away by others in the meantime: what is listed may be gone, and what is new may be
/// missing.
#[async_trait]
pub trait ParkReader: fmt::Debug + Send + Sync {
    /// Says where the records are, as the configuration has it.
    fn place(&self) -> String;

    /// Lists what is parked, in no particular order, with its content.
    ///
    /// A queue can only be received from: its messages are hidden from other receivers until [`ParkReader::done`], each
    /// listing counts as a receive of each of them, and the listing ends where the queue has nothing more to hand out.
    fn list(&self) -> BoxStream<'_, Result<Kept, ParkError>>;

    /// Finds what is kept under an id: nothing, one, or in a queue as often as the record was parked.
    ///
    /// # Errors
    /// [`ParkError`].
    async fn find(&self, id: &str) -> Result<Vec<Kept>, ParkError>;

    /// Takes one away; one that is gone is no error.
    ///
    /// # Errors
    /// [`ParkError`].
    async fn remove(&self, kept: &Kept) -> Result<(), ParkError>;

    /// Counts what is parked, as far as the store tells without handing it out; stores that have to be counted through
    /// are counted up to `most`.
    ///
    /// # Errors
    /// [`ParkError`].
    async fn count(&self, most: u64) -> Result<u64, ParkError>;

    /// Ends the reading: what was read and not removed is there for others again.
    ///
    /// # Errors
    /// [`ParkError`]; what could not be given back comes back by itself.
    async fn done(&self) -> Result<(), ParkError> {
        Ok(())
    }
}

/// A parked record as it lies in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// What it is called by: the store's own name for it, which is [`ParkedRecord::id`] for what a pipeline has parked.
    pub id: String,
    /// The record, or why there is none to be read.
    pub record: Result<ParkedRecord, NotParked>,
    /// The store's own name for it, by which it is removed.
    pub handle: String,
}

/// Something that lies among parked records and is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not a parked record: {0}")]
pub struct NotParked(pub String);

impl Kept {
    /// Reads what a store holds under a name of its own.
    pub(crate) fn named(id: String, handle: String, text: &[u8]) -> Self {
        Self { id, record: ParkedRecord::from_json(text), handle }
    }
}

impl ParkedRecord {
    /// What the record is called by: its table, its day and its place in the stream, the same in every store.
    #[must_use]
    pub fn id(&self) -> String {
        let name = self.name();
        name.strip_suffix(SUFFIX).unwrap_or(&name).to_owned()
    }

    /// Reads a record as [`ParkedRecord::to_json`] writes it.
    ///
    /// # Errors
    /// [`NotParked`], without repeating the text.
    pub fn from_json(text: &[u8]) -> Result<Self, NotParked> {
        let record: Self = serde_json::from_slice(text).map_err(|error| {
            NotParked(format!("no JSON object of one, at line {} column {}", error.line(), error.column()))
        })?;
        // Every field may be missing, so that any object would do.
        if record.reason.is_empty() && record.content.is_none() {
            return Err(NotParked("it has neither a reason nor a content".to_owned()));
        }
        Ok(record)
    }
}

/// What the names end with under which stores of files and objects keep records.
pub(crate) const SUFFIX: &str = ".json";

/// Whether a text can be an id: it leads nowhere but to what is below the place.
pub(crate) fn is_id(text: &str) -> bool {
    !text.is_empty() && text.split('/').all(|part| !matches!(part, "" | "." | "..")) && !text.contains(['\\', '\0'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_parked_record_says_so_without_repeating_it() {
        for text in ["", "[1]", "{}", "{\"hush\":1}", "{\"reason\":[\"hush\"]}"] {
            let kept = Kept::named("name".into(), "handle".into(), text.as_bytes());
            let error = kept.record.unwrap_err().to_string();
            assert!(!error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn an_id_leads_nowhere_else() {
        assert!(is_id("products/2026/01/02/1234"));
        for text in ["", "/etc/passwd", "../x", "a/../b", "a//b", "a/.", "a\\b"] {
            assert!(!is_id(text), "{text}");
        }
    }
}
