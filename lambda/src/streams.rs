//! Which streams a sandbox has seen: where a table's stream is another one than before, records may have been missed.
//!
//! # What can be known
//! An event tells the stream of each record, and nothing of what came before. A stream that was disabled and enabled
//! again, or whose table was created anew, has a new ARN, and what was written in between is in neither stream. So:
//! - A sandbox that was given records of an older stream of the same table before notices the new one, counts a gap and
//!   has the table's key spaces flushed, once. Sandboxes know nothing of each other: each that saw the older stream
//!   flushes once.
//! - A sandbox that starts after the change takes the new stream for the only one. Where no sandbox outlives the change
//!   the gap is not noticed here: whoever enables a stream anew has to flush.
//! - Records of the older stream that come late are delivered as all others. They cannot do harm: versions hold the
//!   stream's creation time.
//! - Records that expired before Lambda read them leave no trace in an event: sequence numbers are not consecutive and
//!   the stream shard is not told. They are foreseen instead: records that come close to their 24 hours are counted.
//!   Batches that Lambda gave up come back by the queue ([`crate::event::given_up`]).

use std::collections::HashMap;

use ringtide_core::record::Stream;

/// The newest stream of each table that this sandbox was given records of.
#[derive(Debug, Default)]
pub struct Streams {
    newest: HashMap<String, Newest>,
}

#[derive(Debug)]
struct Newest {
    arn: String,
    created_ms: u64,
    flush_owed: bool,
}

/// What a record's stream is to this sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The newest stream of its table that is known, or the first one.
    Newest,
    /// A newer stream than all before: there may be a gap between them.
    Changed,
    /// An older stream than the newest one, whose records come late.
    Superseded,
}

impl Streams {
    /// Takes note of a stream. One whose creation cannot be told, because its label is not a time, supersedes none.
    pub fn see(&mut self, stream: &Stream) -> Seen {
        let Some(newest) = self.newest.get_mut(&stream.table) else {
            let newest = Newest { arn: stream.arn.clone(), created_ms: stream.created_ms, flush_owed: false };
            self.newest.insert(stream.table.clone(), newest);
            return Seen::Newest;
        };
        if newest.arn == stream.arn {
            return Seen::Newest;
        }
        if stream.created_ms <= newest.created_ms {
            return Seen::Superseded;
        }
        *newest = Newest { arn: stream.arn.clone(), created_ms: stream.created_ms, flush_owed: true };
        Seen::Changed
    }

    /// Whether the table's key spaces are still to be flushed.
    #[must_use]
    pub fn owes_flush(&self, table: &str) -> bool {
        self.newest.get(table).is_some_and(|newest| newest.flush_owed)
    }

    /// Takes note that the table's key spaces were flushed.
    pub fn flushed(&mut self, table: &str) {
        if let Some(newest) = self.newest.get_mut(table) {
            newest.flush_owed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use ringtide_core::record::stream_of_arn;

    use super::*;

    fn stream(table: &str, label: &str) -> Stream {
        stream_of_arn(&format!("arn:aws:dynamodb:eu-west-1:1:table/{table}/stream/{label}")).unwrap()
    }

    #[test]
    fn a_newer_stream_owes_one_flush_and_an_older_one_none() {
        let mut streams = Streams::default();
        let (old, new) = (stream("t", "2026-01-01T00:00:00.000"), stream("t", "2026-02-01T00:00:00.000"));
        assert_eq!(streams.see(&old), Seen::Newest);
        assert_eq!(streams.see(&old), Seen::Newest);
        assert!(!streams.owes_flush("t"));
        assert_eq!(streams.see(&new), Seen::Changed);
        assert_eq!(streams.see(&new), Seen::Newest);
        assert_eq!(streams.see(&old), Seen::Superseded);
        assert!(streams.owes_flush("t"), "until it was done");
        streams.flushed("t");
        assert!(!streams.owes_flush("t"));
        assert_eq!(streams.see(&old), Seen::Superseded);
        assert!(!streams.owes_flush("t"));
    }

    #[test]
    fn tables_are_apart_and_odd_labels_supersede_nothing() {
        let mut streams = Streams::default();
        assert_eq!(streams.see(&stream("a", "2026-01-01T00:00:00.000")), Seen::Newest);
        assert_eq!(streams.see(&stream("b", "2026-02-01T00:00:00.000")), Seen::Newest);
        assert_eq!(streams.see(&stream("a", "latest")), Seen::Superseded);
        assert!(!streams.owes_flush("a"));
    }
}
