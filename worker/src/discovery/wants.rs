//! What is looked for in a stream's listing, and what to look at next.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::stream::ShardId;

/// For so long children are looked for as fast as the pace allows.
const HASTE: Duration = Duration::from_secs(15);
/// Between two looks for children after that.
const PATIENT_PAUSE: Duration = Duration::from_secs(1);
/// Of so many looks for children one takes in everything, since a filtered listing may lag behind.
const FULL_EVERY: u32 = 3;

/// What to list next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// All stream shards.
    All,
    /// The children of one.
    ChildrenOf(ShardId),
}

/// Everybody's wishes.
#[derive(Debug, Default)]
pub(super) struct Wants {
    wishes: Mutex<Wishes>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Wishes {
    all: bool,
    parents: BTreeMap<ShardId, Waiting>,
    looks: u32,
    last: Option<ShardId>,
    looked: Option<Instant>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    waiters: usize,
}

/// Dropped, it takes the wish back.
#[derive(Debug)]
pub(super) struct Wanted {
    wants: Arc<Wants>,
    parent: ShardId,
}

impl Wants {
    /// Wishes for a full listing.
    pub(super) fn listing(&self) {
        self.wishes().all = true;
        self.changed.notify_one();
    }

    /// Wishes for the children of a stream shard, until the wish is dropped.
    pub(super) fn children(self: &Arc<Self>, parent: &ShardId) -> Wanted {
        let waiting = Waiting { since: Instant::now(), waiters: 0 };
        self.wishes().parents.entry(parent.clone()).or_insert(waiting).waiters += 1;
        self.changed.notify_one();
        Wanted { wants: Arc::clone(self), parent: parent.clone() }
    }

    /// A full listing begins: it answers every wish that was made before.
    pub(super) fn begun(&self) {
        let mut wishes = self.wishes();
        wishes.all = false;
        wishes.looked = Some(Instant::now());
    }

    /// Waits for the next thing to list: what is wished for, or everything at `due`. A full listing has so many `pages`.
    pub(super) async fn next(&self, due: Instant, pages: usize) -> Look {
        loop {
            let at = match self.wishes().decide(Instant::now(), pages) {
                Ok(look) => return look,
                Err(later) => later.map_or(due, |later| later.min(due)),
            };
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = tokio::time::sleep_until(at) => if at >= due { return Look::All },
            }
        }
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wishes {
    /// What to list now, or when to ask again.
    fn decide(&mut self, now: Instant, pages: usize) -> Result<Look, Option<Instant>> {
        if self.all {
            return Ok(Look::All);
        }
        let Some(newest) = self.parents.values().map(|waiting| waiting.since).max() else { return Err(None) };
        if let Some(looked) = self.looked.filter(|_| now.duration_since(newest) > HASTE) {
            let next = looked + PATIENT_PAUSE;
            if now < next {
                return Err(Some(next));
            }
        }
        self.looked = Some(now);
        self.looks = self.looks.wrapping_add(1);
        // One full listing answers everybody.
        if self.looks.is_multiple_of(FULL_EVERY) || self.parents.len() > pages {
            return Ok(Look::All);
        }
        let after = self.last.take().and_then(|last| self.parents.keys().find(|parent| **parent > last));
        let parent = after.or_else(|| self.parents.keys().next()).cloned();
        self.last.clone_from(&parent);
        parent.map_or(Err(None), |parent| Ok(Look::ChildrenOf(parent)))
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut wishes = self.wants.wishes();
        if let Some(waiting) = wishes.parents.get_mut(&self.parent) {
            waiting.waiters = waiting.waiters.saturating_sub(1);
            if waiting.waiters == 0 {
                wishes.parents.remove(&self.parent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_who_waits_is_looked_up_alone_and_many_at_once() {
        let wants = Arc::new(Wants::default());
        let due = Instant::now() + Duration::from_secs(100);
        let first = wants.children(&"a".into());
        assert_eq!(wants.next(due, 1).await, Look::ChildrenOf("a".into()));
        assert_eq!(wants.next(due, 1).await, Look::ChildrenOf("a".into()));
        assert_eq!(wants.next(due, 1).await, Look::All, "the filter may lag behind");
        let second = wants.children(&"b".into());
        assert_eq!(wants.next(due, 1).await, Look::All, "one page shows both");
        assert_eq!(wants.next(due, 50).await, Look::ChildrenOf("b".into()));
        assert_eq!(wants.next(due, 50).await, Look::All);
        assert_eq!(wants.next(due, 50).await, Look::ChildrenOf("a".into()));
        drop((first, second));
        assert_eq!(wants.next(due, 50).await, Look::All);
        assert_eq!(Instant::now(), due);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_found_for_long_is_looked_for_now_and_then() {
        let wants = Arc::new(Wants::default());
        let due = Instant::now() + Duration::from_secs(100);
        let _wanted = wants.children(&"a".into());
        tokio::time::advance(HASTE + PATIENT_PAUSE).await;
        wants.next(due, 1).await;
        let before = Instant::now();
        wants.next(due, 1).await;
        assert_eq!(before.elapsed(), PATIENT_PAUSE);
    }
}
