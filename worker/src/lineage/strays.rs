//! Patience with what listings do not show: a stream shard that is leased, a parent that nobody knows. Pure: time is handed in.
//!
//! Only listings that were answered wear patience out. Where they fail, for however long, nothing is known to be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use super::Plan;
use crate::stream::ShardId;

/// How long listings may leave out what there is: a parent that is shown later than its child, say.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Between two listings that are asked for meanwhile.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whether what was missed at `since` counts as gone, where the newest listing that was answered does not show it either.
///
/// That listing was begun at `listed`; none was answered yet where that is `None`.
pub(crate) fn is_gone(since: Instant, listed: Option<Instant>) -> bool {
    listed.is_some_and(|listed| listed >= since + PATIENCE)
}

/// Remembers since when each has been without a parent.
#[derive(Debug, Default)]
pub(crate) struct Strays {
    since: BTreeMap<ShardId, Instant>,
    asked: Option<Instant>,
}

impl Strays {
    /// Takes in a plan of a listing that was begun at `listed`; tells which of its stream shards have to wait, and
    /// whether a new listing should be asked for.
    pub(crate) fn hold(&mut self, plan: &Plan, listed: Instant, now: Instant) -> (BTreeSet<ShardId>, bool) {
        self.since.retain(|shard, _| plan.strays.contains(shard));
        for stray in &plan.strays {
            self.since.entry(stray.clone()).or_insert(now);
        }
        let waits = |since: &Instant| !is_gone(*since, Some(listed));
        let held: BTreeSet<ShardId> =
            self.since.iter().filter(|(_, since)| waits(since)).map(|(shard, _)| shard.clone()).collect();
        let ask = !held.is_empty() && self.asked.is_none_or(|asked| now.duration_since(asked) >= LOOK_AGAIN);
        if ask {
            self.asked = Some(now);
        }
        (held, ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_answer_nothing_is_gone() {
        let start = Instant::now();
        let missed = start + Duration::from_secs(600);
        assert!(!is_gone(missed, None), "no listing was ever answered");
        assert!(!is_gone(missed, Some(start)), "the last answer is older than the question");
        assert!(!is_gone(missed, Some(missed)), "one listing may leave something out");
        assert!(!is_gone(missed, Some(missed + PATIENCE - Duration::from_millis(1))));
        assert!(is_gone(missed, Some(missed + PATIENCE)));
    }

    #[test]
    fn a_stray_waits_for_its_parent_to_be_shown_and_then_no_longer() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let plan = |strays: &[&str]| Plan { strays: strays.iter().map(|s| (*s).into()).collect(), ..Plan::default() };
        let held = |ids: &[&str]| ids.iter().map(|id| ShardId::from(*id)).collect::<BTreeSet<_>>();
        let mut strays = Strays::default();
        let mut hold = |ids: &[&str], listed, now| strays.hold(&plan(ids), at(listed), at(now));
        assert_eq!(hold(&["a"], 0, 0), (held(&["a"]), true));
        assert_eq!(hold(&["a", "b"], 400, 500), (held(&["a", "b"]), false));
        assert_eq!(hold(&["a", "b"], 400, 5_050), (held(&["a", "b"]), true), "there is no newer listing");
        assert_eq!(hold(&["a", "b"], 5_060, 5_100), (held(&["b"]), false), "a has waited enough");
        assert_eq!(hold(&[], 5_200, 5_200), (held(&[]), false), "the parent of b was shown");
        assert_eq!(hold(&["b"], 9_000, 9_000), (held(&["b"]), true));
    }
}
