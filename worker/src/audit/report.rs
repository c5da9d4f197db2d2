//! What an audit has found, counted.

use std::collections::BTreeMap;

use serde::Serialize;

use super::judge::Verdict;

/// Examples that are kept of what is wrong.
const EXAMPLES: usize = 20;

/// Counts of one key space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct SpaceReport {
    /// The table that feeds it; `None` where it is not judged.
    pub(crate) table: Option<String>,
    /// What entries are compared by.
    pub(crate) basis: Option<&'static str>,
    /// Why it cannot be judged.
    pub(crate) not_auditable: Option<String>,
    /// Keys that were listed.
    pub(crate) listed: u64,
    /// Keys that were looked at.
    pub(crate) looked_at: u64,
    /// Values that are what the table holds.
    pub(crate) fresh: u64,
    /// Values that are not, and absences of items that exist.
    pub(crate) stale: u64,
    /// Absences of items that do not exist.
    pub(crate) absent: u64,
    /// Entries that no reader is given.
    pub(crate) invalidated: u64,
    /// Entries that changed whenever they were looked at again.
    pub(crate) changing: u64,
    /// Entries on a ring shard that does not own them.
    pub(crate) misplaced: u64,
    /// Values under a key of the space that are no entries.
    pub(crate) foreign: u64,
    /// Keys that were gone when they were looked at.
    pub(crate) gone: u64,
    /// Entries that cannot be judged, by the reason.
    pub(crate) unjudged: BTreeMap<&'static str, u64>,
    /// In how many stale entries each field differs.
    pub(crate) differing: BTreeMap<String, u64>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Example {
    pub(crate) key: String,
    pub(crate) ring_shard: String,
    pub(crate) what: String,
}

/// How true a cache is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Report {
    /// By key space.
    pub(crate) spaces: BTreeMap<String, SpaceReport>,
    /// Some of what is wrong.
    pub(crate) examples: Vec<Example>,
    /// Entries that could be judged.
    pub(crate) judged: u64,
    /// Those of them that are stale.
    pub(crate) stale: u64,
    /// Entries on a ring shard that does not own them.
    pub(crate) misplaced: u64,
    /// The part of judged entries that is not stale, in nines; with `at_least` a lower bound, since none was stale.
    pub(crate) nines: Option<f64>,
    /// Whether there may be more nines.
    pub(crate) at_least: bool,
    /// Entries that were invalidated because they were stale or misplaced.
    pub(crate) repaired: u64,
    /// Entries that would have been.
    pub(crate) would_repair: u64,
    /// Ring shards that could not be looked at.
    pub(crate) unreachable: Vec<String>,
    /// How long it took, in seconds.
    pub(crate) took_s: f64,
}

impl SpaceReport {
    /// Counts an entry.
    pub(crate) fn count(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Fresh => self.fresh += 1,
            Verdict::Absent => self.absent += 1,
            Verdict::Invalidated => self.invalidated += 1,
            Verdict::Unjudged(reason) => *self.unjudged.entry(reason).or_default() += 1,
            Verdict::Stale { fields, .. } => {
                self.stale += 1;
                for field in fields {
                    *self.differing.entry(field.clone()).or_default() += 1;
                }
            }
        }
    }
}

impl Report {
    /// The counts of a key space.
    pub(crate) fn space(&mut self, name: &str) -> &mut SpaceReport {
        self.spaces.entry(name.to_owned()).or_default()
    }

    /// Keeps an example of what is wrong, unless there are enough.
    pub(crate) fn example(&mut self, key: &str, ring_shard: &str, what: &str) {
        if self.examples.len() < EXAMPLES {
            let (key, ring_shard, what) = (key.to_owned(), ring_shard.to_owned(), what.to_owned());
            self.examples.push(Example { key, ring_shard, what });
        }
    }

    /// Sums up.
    pub(crate) fn close(&mut self) {
        self.stale = self.spaces.values().map(|space| space.stale).sum();
        self.misplaced = self.spaces.values().map(|space| space.misplaced).sum();
        self.judged = self.stale + self.spaces.values().map(|space| space.fresh + space.absent).sum::<u64>();
        (self.nines, self.at_least) = (nines(self.judged, self.stale), self.stale == 0);
    }

    /// Whether anything is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.stale == 0 && self.misplaced == 0 && self.unreachable.is_empty()
    }
}

/// How many nines the part of fresh entries has; a lower bound where none is stale, and nothing where none was judged.
fn nines(judged: u64, stale: u64) -> Option<f64> {
    (judged > 0).then(|| (judged as f64 / stale.max(1) as f64).log10())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staleness_is_told_in_nines() {
        let rounded = |judged, stale| nines(judged, stale).map(|nines| format!("{nines:.2}"));
        assert_eq!(rounded(1000, 1).as_deref(), Some("3.00"));
        assert_eq!(rounded(1000, 500).as_deref(), Some("0.30"));
        assert_eq!(rounded(1000, 0).as_deref(), Some("3.00"), "a lower bound");
        assert_eq!(rounded(0, 0), None);
    }
}
