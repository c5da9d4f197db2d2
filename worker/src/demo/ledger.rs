//! What was written when, so that every read can be judged.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::catalog::{Category, Item};

/// All states of all items; each item has one writer at a time.
#[derive(Debug)]
pub(super) struct Ledger {
    items: Vec<Mutex<Vec<State>>>,
}

/// One state of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct State {
    pub(super) version: u64,
    /// `None` while the item does not exist.
    pub(super) category: Option<Category>,
    /// When the write was acknowledged; `None` while it is under way, or where its end is not known.
    committed: Option<Instant>,
}

/// What a read turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// At least as new as what was delivered; `behind` is how long ago a newer state was committed, 0 for the newest.
    Kept { behind: Duration },
    /// Older than a state that was delivered before the read began.
    Older { behind: Duration },
    /// No state of the item is like this.
    Unknown,
}

impl Ledger {
    /// Begins without any item.
    pub(super) fn new() -> Self {
        let absent = State { version: 0, category: None, committed: Some(Instant::now()) };
        Self { items: Item::all().map(|_| Mutex::new(vec![absent])).collect() }
    }

    /// The newest state, also one whose write is under way.
    pub(super) fn newest(&self, item: Item) -> Option<State> {
        self.with(item, |states| states.last().copied()).flatten()
    }

    /// Notes a write that is about to be sent.
    pub(super) fn begin(&self, item: Item, version: u64, category: Option<Category>) {
        self.with(item, |states| states.push(State { version, category, committed: None }));
    }

    /// Notes that the newest write was acknowledged.
    pub(super) fn commit(&self, item: Item) {
        let now = Instant::now();
        self.with(item, |states| {
            if let Some(state) = states.last_mut() {
                state.committed = Some(now);
            }
        });
    }

    /// Judges a read that began at `began` and showed a state like `seen`, where everything committed until
    /// `delivered` was delivered to the key's ring shard before that.
    pub(super) fn judge(
        &self,
        item: Item,
        seen: impl Fn(&State) -> bool,
        began: Instant,
        delivered: Option<Instant>,
    ) -> Verdict {
        self.with(item, |states| judge(states, seen, began, delivered)).unwrap_or(Verdict::Unknown)
    }

    fn with<R>(&self, item: Item, look: impl FnOnce(&mut Vec<State>) -> R) -> Option<R> {
        let states = self.items.get(item.0)?;
        Some(look(&mut states.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn judge(states: &[State], seen: impl Fn(&State) -> bool, began: Instant, delivered: Option<Instant>) -> Verdict {
    let Some(at) = states.iter().rposition(seen) else { return Verdict::Unknown };
    let until = |state: &State, limit: Instant| state.committed.filter(|committed| *committed <= limit);
    let behind = states.iter().skip(at + 1).find_map(|state| until(state, began));
    let behind = behind.map_or(Duration::ZERO, |committed| began.duration_since(committed));
    let due = delivered.and_then(|limit| states.iter().rposition(|state| until(state, limit).is_some()));
    if due.is_some_and(|due| at < due) { Verdict::Older { behind } } else { Verdict::Kept { behind } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_judged_by_what_was_delivered_and_aged_by_what_was_committed() {
        let began = Instant::now();
        let ago = |ms| began.checked_sub(Duration::from_millis(ms));
        let state = |version, committed| State { version, category: None, committed };
        let states = [state(1, ago(900)), state(2, ago(500)), state(3, ago(100)), state(4, None)];
        let judged = |version, delivered| judge(&states, |state| state.version == version, began, delivered);
        let late = |ms| Duration::from_millis(ms);
        assert_eq!(judged(4, ago(50)), Verdict::Kept { behind: late(0) });
        assert_eq!(judged(3, ago(50)), Verdict::Kept { behind: late(0) });
        assert_eq!(judged(2, ago(200)), Verdict::Kept { behind: late(100) });
        assert_eq!(judged(2, ago(50)), Verdict::Older { behind: late(100) });
        assert_eq!(judged(1, ago(200)), Verdict::Older { behind: late(500) });
        assert_eq!(judged(1, None), Verdict::Kept { behind: late(500) });
        assert_eq!(judged(9, ago(50)), Verdict::Unknown);
    }
}
