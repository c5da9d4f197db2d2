//! What a ring shard has acknowledged lately, to be delivered again where it may have been lost.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::command::{Action, Command, without_images};
use crate::key::CacheKey;
use crate::version::Version;

/// Commands by the time at which they were acknowledged, without images, bounded in time and number.
pub(super) struct Recent {
    window: Duration,
    capacity: usize,
    /// Oldest first.
    batches: VecDeque<(Instant, Arc<[Command]>)>,
    commands: usize,
    /// What was acknowledged up to here may be missing.
    since: Instant,
    /// How many commands have to come before another attempt to make one of those for the same key, and how many have.
    patience: usize,
    come: usize,
}

impl Recent {
    /// Knows nothing of what was before `now`.
    pub(super) fn new(window: Duration, capacity: usize, now: Instant) -> Self {
        Self { window, capacity, batches: VecDeque::new(), commands: 0, since: now, patience: 0, come: 0 }
    }

    /// Notes what was acknowledged by `now`.
    pub(super) fn note(&mut self, commands: &Arc<[Command]>, now: Instant) {
        if self.capacity == 0 {
            return;
        }
        self.forget_before(now.checked_sub(self.window));
        self.batches.push_back((now, without_images(commands)));
        self.commands += commands.len();
        self.come += commands.len();
        if self.commands > self.capacity {
            if self.come >= self.patience {
                self.coalesce();
            }
            while self.commands > self.capacity {
                let Some((at, dropped)) = self.batches.pop_front() else { break };
                self.commands -= dropped.len();
                self.since = self.since.max(at);
            }
        }
    }

    /// Something of what was acknowledged before `now` is not known here: another process delivered it, or it stands for
    /// more than is noted.
    pub(super) fn begin_again(&mut self, now: Instant) {
        self.since = self.since.max(now);
    }

    /// Takes what was acknowledged from `lost_since` on, one command a key; `None` where some of it is missing here. What
    /// came before stays, because another server may lack that, too.
    pub(super) fn take(&mut self, lost_since: Instant, now: Instant) -> Option<Vec<Command>> {
        let reach = now.checked_sub(self.window).map_or(self.since, |start| self.since.max(start));
        if self.capacity == 0 || lost_since < reach {
            return None;
        }
        let lost = self.batches.split_off(self.batches.partition_point(|(at, _)| *at < lost_since));
        self.commands -= lost.iter().map(|(_, commands)| commands.len()).sum::<usize>();
        Some(one_a_key(lost.iter().flat_map(|(_, commands)| commands.iter())))
    }

    fn forget_before(&mut self, start: Option<Instant>) {
        while let Some((at, _)) = self.batches.front()
            && start.is_some_and(|start| *at < start)
        {
            if let Some((_, old)) = self.batches.pop_front() {
                self.commands -= old.len();
            }
        }
    }

    /// Keeps the latest of the commands for a key, which stands for those before it.
    fn coalesce(&mut self) {
        let before = self.commands;
        // For each key the batch that has it last, and the version of all its commands together.
        let mut latest: HashMap<&CacheKey, (usize, Version), RandomState> =
            HashMap::with_capacity_and_hasher(before, RandomState::default());
        for (index, (_, commands)) in self.batches.iter().enumerate().rev() {
            for command in commands.iter() {
                match latest.entry(&command.key) {
                    Entry::Vacant(vacant) => {
                        vacant.insert((index, command.version()));
                    }
                    Entry::Occupied(mut later) => {
                        let (_, version) = later.get_mut();
                        *version = version.and(command.version());
                    }
                }
            }
        }
        let mut kept: VecDeque<(Instant, Arc<[Command]>)> = VecDeque::with_capacity(self.batches.len());
        for (index, (at, commands)) in self.batches.iter().enumerate() {
            let stays = |command: &Command| {
                let (_, version) = latest.get(&command.key).filter(|(last, _)| *last == index)?;
                Some(Command { action: Action::Invalidate { version: *version }, ..command.clone() })
            };
            let stay: Vec<Command> = commands.iter().filter_map(stays).collect();
            if !stay.is_empty() {
                kept.push_back((*at, stay.into()));
            }
        }
        self.commands = kept.iter().map(|(_, commands)| commands.len()).sum();
        self.batches = kept;
        self.come = 0;
        // Where keys hardly repeat, looking for repetitions is in vain for a while.
        let in_vain = self.commands > before / 4 * 3;
        self.patience =
            if in_vain { (self.patience * 2).clamp(self.capacity, self.capacity.saturating_mul(64)) } else { 0 };
    }
}

/// Makes one command of those for the same key, in the order in which the keys first occur.
fn one_a_key<'a>(commands: impl Iterator<Item = &'a Command>) -> Vec<Command> {
    let mut places: HashMap<CacheKey, usize> = HashMap::new();
    let mut merged: Vec<Command> = Vec::new();
    for command in commands {
        match places.get(&command.key).and_then(|place| merged.get_mut(*place)) {
            Some(earlier) => *earlier = earlier.clone().merge(command.clone()),
            None => {
                places.insert(command.key.clone(), merged.len());
                merged.push(command.clone());
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Image;
    use crate::key::{KeySpace, Template};

    const WINDOW: Duration = Duration::from_secs(60);

    fn batch(keys: &[&str]) -> Arc<[Command]> {
        let space = Arc::new(KeySpace::new("p", Template::parse("p:{pk}").unwrap()));
        keys.iter().map(|key| Command::drop_entry(CacheKey::new(*key).unwrap(), space.clone())).collect()
    }

    fn taken(recent: &mut Recent, lost_since: Instant, now: Instant) -> Option<Vec<String>> {
        Some(recent.take(lost_since, now)?.into_iter().map(|command| command.key.to_string()).collect())
    }

    #[tokio::test(start_paused = true)]
    async fn it_reaches_back_to_its_beginning_and_over_its_window() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut recent = Recent::new(WINDOW, 100, start);
        recent.note(&batch(&["p:1"]), at(10));
        recent.note(&batch(&["p:2", "p:1"]), at(20));
        recent.note(&batch(&["p:3"]), at(75));
        assert_eq!(taken(&mut recent, at(14), at(75)), None, "the window is over");
        assert_eq!(taken(&mut recent, at(16), at(75)).unwrap(), ["p:2", "p:1", "p:3"]);

        let mut young = Recent::new(WINDOW, 100, at(10));
        young.note(&batch(&["p:1"]), at(11));
        assert_eq!(taken(&mut young, at(9), at(12)), None, "from before its beginning");
        assert_eq!(taken(&mut young, at(10), at(12)).unwrap(), ["p:1"]);
        young.begin_again(at(13));
        assert_eq!(taken(&mut young, at(12), at(14)), None, "somebody else delivered until then");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_second_server_lacks_is_known_after_a_first_one_was_told() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut recent = Recent::new(WINDOW, 100, start);
        recent.note(&batch(&["p:1"]), at(10));
        recent.note(&batch(&["p:2"]), at(20));
        assert_eq!(taken(&mut recent, at(15), at(30)).unwrap(), ["p:2"]);
        recent.note(&batch(&["p:2"]), at(31));
        assert_eq!(taken(&mut recent, at(5), at(32)).unwrap(), ["p:1", "p:2"], "the second one is further behind");
        assert_eq!(recent.commands, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn repeated_keys_take_the_room_of_one_and_others_shorten_its_reach() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut recent = Recent::new(WINDOW, 4, start);
        for second in 1..50 {
            recent.note(&batch(&["p:hot", "p:warm"]), at(second));
        }
        assert_eq!(taken(&mut recent, at(1), at(50)).unwrap(), ["p:hot", "p:warm"]);
        for second in 1..10 {
            recent.note(&batch(&[&format!("p:{second}")]), at(second));
        }
        assert_eq!(recent.commands, 4);
        assert_eq!(taken(&mut recent, at(4), at(10)), None, "p:5 was acknowledged after that, and is forgotten");
        assert_eq!(taken(&mut recent, at(5), at(10)).unwrap(), ["p:6", "p:7", "p:8", "p:9"]);
    }

    #[tokio::test(start_paused = true)]
    async fn images_are_not_kept_and_versions_merge() {
        let now = Instant::now();
        let mut recent = Recent::new(WINDOW, 100, now);
        let refresh = |number| -> Arc<[Command]> {
            let action =
                Action::Refresh { version: Version::from_number(number), image: Image::Deleted, populate: true };
            batch(&["p:1"]).iter().map(|command| Command { action: action.clone(), ..command.clone() }).collect()
        };
        recent.note(&refresh(2), now);
        recent.note(&refresh(1), now);
        let taken = recent.take(now, now).unwrap();
        assert_eq!(taken[0].action, Action::Invalidate { version: Version::from_number(2) });
    }
}
