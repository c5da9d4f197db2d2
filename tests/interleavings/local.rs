//! The tier in a reader process's memory that the server keeps coherent: the product's own marks and epochs, driven one
//! call at a time, around a plain table.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use ringtide_core::key::CacheKey;

#[path = "../../reader/src/local/pending.rs"]
#[allow(dead_code, reason = "the parts that decide are driven")]
mod pending;
#[path = "../../reader/src/local/pulse.rs"]
#[allow(dead_code, reason = "the parts that decide are driven")]
mod pulse;

/// What the product's files ask of their neighbours.
mod kept {
    /// A time in ns.
    pub(super) type Moment = u64;
}

use pending::{Mark, Pending, Verdict};
use pulse::{Beat, Pulse};

/// Values of one process.
pub(crate) struct Local {
    copies: HashMap<CacheKey, (Bytes, Option<Beat>)>,
    pending: Arc<Pending>,
    pulse: Arc<Pulse>,
    marks: HashMap<u64, Mark>,
    reads: u64,
    /// Whether a value is taken in whatever its mark says.
    unmarked: bool,
}

impl Local {
    pub(crate) fn new(unmarked: bool) -> Self {
        let (copies, marks) = (HashMap::new(), HashMap::new());
        Self { copies, pending: Pending::new(), pulse: Arc::default(), marks, reads: 0, unmarked }
    }

    pub(crate) fn get(&self, key: &CacheKey) -> Option<&Bytes> {
        let (entry, beat) = self.copies.get(key)?;
        beat.as_ref().is_none_or(Beat::is_current).then_some(entry)
    }

    /// Notes that a key is about to be read; returns the read's number.
    pub(crate) fn begin(&mut self, key: &CacheKey) -> u64 {
        self.reads += 1;
        self.marks.insert(self.reads, self.pending.mark(key, Some(self.pulse.beat())));
        self.reads
    }

    /// Takes in what a read found, where its mark allows it; whether it did.
    pub(crate) fn insert(&mut self, read: u64, entry: Option<&Bytes>) -> bool {
        let (Some(mark), Some(entry)) = (self.marks.remove(&read), entry.cloned()) else { return false };
        let (key, beat) = (mark.key().clone(), mark.tracked());
        if self.unmarked {
            self.copies.insert(key, (entry, None));
            return true;
        }
        mark.settle(|| drop(self.copies.insert(key, (entry, beat)))) == Verdict::Kept
    }

    /// The server told that a key has changed.
    pub(crate) fn changed(&mut self, key: &CacheKey) {
        self.pending.tell(key, || drop(self.copies.remove(key)));
    }

    /// Everything may have changed.
    pub(crate) fn flush(&mut self) {
        self.pulse.flush();
        if self.unmarked {
            self.copies.clear();
        }
    }
}
