//! One schedule: a seed chooses what happens, one step at a time, on keys of its own.

use std::sync::Arc;

use fastrand::Rng;
use ringtide_core::command::Command;
use ringtide_core::key::{CacheKey, KeySpace};
use ringtide_core::valkey::{FillReply, Token};

use super::cache::{Cache, Flaw};
use super::cell::Cell;
use super::content::Content;
use super::database::Item;
use super::feed::Feed;
use super::outcome::{Outcome, Step, Violation};
use super::reader::{LateCall, Reader};

/// The most that a load lags, in steps.
pub(crate) const LAG: u64 = 20;

/// The settle time, in steps.
const SETTLE: u64 = LAG + 1;

/// The deadline of a worker whose stream lease has long ended.
const PASSED: u64 = 1;

/// Cells to draw from, and what is wrong.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) cells: &'static [Cell],
    pub(crate) flaw: Flaw,
}

/// The state of a schedule that is under way.
pub(crate) struct Schedule<'a> {
    pub(crate) cache: &'a Cache,
    pub(crate) cell: Cell,
    pub(crate) flaw: Flaw,
    pub(crate) rng: Rng,
    pub(crate) now: u64,
    pub(crate) items: Vec<Item>,
    pub(crate) keys: Vec<Key>,
    pub(crate) readers: Vec<Reader>,
    pub(crate) late: Vec<LateCall>,
    feeds: Vec<Feed>,
    space: Arc<KeySpace>,
    outcome: Outcome,
}

/// A cached key of the schedule.
pub(crate) struct Key {
    pub(crate) key: CacheKey,
    /// The items that feed it.
    items: Vec<usize>,
    /// When it was last written to.
    pub(crate) touched: u64,
    /// The lease that cannot have ended yet.
    pub(crate) live: Option<Token>,
    /// For each item, the lowest commit that all hits so far leave possible.
    seen: Vec<usize>,
}

impl Key {
    pub(crate) fn items(&self) -> &[usize] {
        &self.items
    }
}

/// Runs the schedule of a seed to its end.
pub(crate) async fn run(cache: &Cache, plan: Plan, seed: u64) -> Outcome {
    let mut schedule = Schedule::new(cache, plan, seed);
    for _ in 0..schedule.rng.u32(25..60) {
        schedule.step().await;
    }
    schedule.deliver_all().await;
    schedule.finish_fills().await;
    schedule.judge().await
}

impl<'a> Schedule<'a> {
    fn new(cache: &'a Cache, plan: Plan, seed: u64) -> Self {
        // Neighbouring seeds are to have nothing in common.
        let mut rng = Rng::with_seed(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32));
        let cell = plan.cells[rng.usize(..plan.cells.len())];
        let space = cell.space(plan.flaw != Flaw::NoTombstones, &mut rng);
        let feeds = cell.feeds(plan.flaw == Flaw::VersionsAcrossItems, &mut rng);
        let items: Vec<Item> = feeds.iter().flatten().map(|_| Item::new(&mut rng)).collect();
        // Two schedules of one seed may run at the same time.
        let name = |index| format!("fuzz:{seed:x}:{:x}:{index}", u128::from_be_bytes(*Token::random().as_bytes()));
        let keys = feeds.into_iter().enumerate().map(|(index, items)| Key {
            key: CacheKey::new(name(index)).expect("a key"),
            seen: vec![0; items.len()],
            items,
            touched: 0,
            live: None,
        });
        let (unreadable, populate) = (rng.u64(..) & rng.u64(..) & rng.u64(..), rng.bool());
        Self {
            cache,
            cell,
            flaw: plan.flaw,
            now: LAG,
            keys: keys.collect(),
            readers: (0..rng.usize(2..=4)).map(|_| Reader::Idle).collect(),
            late: Vec::new(),
            feeds: items.iter().map(|_| Feed::new(unreadable, populate)).collect(),
            items,
            space,
            outcome: Outcome::new(seed, cell),
            rng,
        }
    }

    pub(crate) fn note(&mut self, step: Step) {
        if let Step::Filled { reply, .. } | Step::LateFill { reply, .. } = &step {
            match reply {
                FillReply::Stored => self.outcome.stored += 1,
                FillReply::Void => self.outcome.void += 1,
                FillReply::Below { .. } => self.outcome.below += 1,
                FillReply::Older => {}
            }
        }
        self.outcome.log.push((self.now, step));
    }

    pub(crate) fn violated(&mut self, violation: Violation) {
        self.outcome.violations.push(violation);
        self.note(Step::Violation(violation));
    }

    /// One step of somebody who can take one.
    async fn step(&mut self) {
        self.now += 1;
        let loses = self.cell.loses_keys();
        match self.rng.u32(..100) {
            ..50 => self.read().await,
            50..62 => self.commit(),
            62..80 => self.deliver().await,
            80..85 => self.deliver_again().await,
            85..88 => self.deliver_as_zombie().await,
            88..90 => self.replay(),
            90..94 => self.expire_lock().await,
            94..96 => self.expire_entry().await,
            96..98 => self.late_call().await,
            98 if loses => self.evict().await,
            99 if loses && self.rng.u8(..2) == 0 => self.restart().await,
            _ => self.evict_or_read(loses).await,
        }
    }

    async fn evict_or_read(&mut self, loses: bool) {
        if loses { self.evict().await } else { self.read().await }
    }

    async fn read(&mut self) {
        let reader = self.rng.usize(..self.readers.len());
        self.step_reader(reader).await;
    }

    fn commit(&mut self) {
        let item = self.rng.usize(..self.items.len());
        let Some(written) = self.items.get_mut(item) else { return };
        written.commit(self.now, &mut self.rng);
        let (commit, now) = (written.latest(), self.now);
        let present = written.is_present(commit);
        self.outcome.log.push((now, Step::Commit { item, commit, present }));
    }

    /// Delivers the next records of one item or several, as one page.
    async fn deliver(&mut self) {
        let pending = |schedule: &Self, item: usize| schedule.feeds[item].next <= schedule.items[item].latest();
        let mut items: Vec<usize> = (0..self.items.len()).filter(|item| pending(self, *item)).collect();
        self.rng.shuffle(&mut items);
        items.truncate(self.rng.usize(1..=2));
        let mut records = Vec::new();
        for item in &items {
            let first = self.feeds[*item].next;
            let last = self.items[*item].latest().min(first + self.rng.usize(..3));
            records.push((*item, (first, last)));
        }
        if records.is_empty() {
            return self.read().await;
        }
        self.apply(&records, 0).await;
        let spans = records.iter().map(|(_, span)| *span).collect();
        self.note(Step::Delivered { items, records: spans });
        for (item, (_, last)) in records {
            let feed = &mut self.feeds[item];
            feed.next = last + 1;
            feed.delivered = feed.delivered.max(last);
            if self.cell == Cell::Settle && self.flaw != Flaw::SettleOnce {
                feed.settling.push((last, self.items[item].committed_at(last) + SETTLE));
            }
        }
    }

    /// The second delivery of a key space that settles, for one that is due.
    async fn deliver_again(&mut self) {
        let now = self.now;
        let due = |feed: &Feed| feed.settling.iter().position(|(_, due)| *due <= now);
        let Some((item, place)) = (0..self.feeds.len()).find_map(|item| Some((item, due(&self.feeds[item])?))) else {
            return self.deliver().await;
        };
        let (record, _) = self.feeds[item].settling.swap_remove(place);
        self.apply(&[(item, (record, record))], 0).await;
        let feed = &mut self.feeds[item];
        feed.settled = feed.settled.max(record);
        self.note(Step::DeliveredAgain { item, record });
    }

    /// A worker that lost its stream lease delivers one more record, old or new.
    async fn deliver_as_zombie(&mut self) {
        let item = self.rng.usize(..self.items.len());
        let latest = self.items[item].latest();
        if latest > 0 {
            let record = self.rng.usize(1..=latest);
            self.apply(&[(item, (record, record))], PASSED).await;
            self.note(Step::DeliveredByZombie { item, record });
        }
    }

    /// A new worker begins at an older checkpoint.
    fn replay(&mut self) {
        let item = self.rng.usize(..self.items.len());
        let from = self.rng.usize(1..=self.feeds[item].next);
        self.feeds[item].next = from;
        self.note(Step::Replay { item, from });
    }

    async fn apply(&mut self, records: &[(usize, (usize, usize))], deadline_ms: u64) {
        let mut commands: Vec<Command> = Vec::new();
        for (item, span) in records {
            for key in self.keys.iter_mut().filter(|key| key.items.contains(item)) {
                key.touched = self.now;
                if !self.cell.is_versioned() || self.cell.is_refresh() {
                    key.live = None;
                }
                let command = self.feeds[*item].command(self.cell, (&key.key, &self.space), &self.items[*item], *span);
                // One command a key, as in a page.
                match commands.iter_mut().find(|earlier| earlier.key == command.key) {
                    Some(earlier) => *earlier = earlier.clone().merge(command),
                    None => commands.push(command),
                }
            }
        }
        self.cache.apply(&commands, deadline_ms).await;
    }

    async fn expire_lock(&mut self) {
        let key = self.rng.usize(..self.keys.len());
        self.cache.delete(&[self.keys[key].key.lock()]).await;
        self.keys[key].live = None;
        self.note(Step::LockExpired { key });
    }

    /// An entry or a tombstone comes to its end; each lives for longer than a load lags.
    async fn expire_entry(&mut self) {
        let key = self.rng.usize(..self.keys.len());
        if self.now < self.keys[key].touched + LAG {
            return self.read().await;
        }
        self.cache.delete(&[self.keys[key].key.to_string()]).await;
        self.note(Step::EntryExpired { key });
    }

    async fn evict(&mut self) {
        let key = self.rng.usize(..self.keys.len());
        self.cache.delete(&[self.keys[key].key.to_string()]).await;
        self.note(Step::Evicted { key });
    }

    /// The server comes back empty.
    async fn restart(&mut self) {
        self.delete_all().await;
        let scripts = self.rng.u8(..20) == 0;
        if scripts {
            self.cache.forget_scripts().await;
        }
        for key in &mut self.keys {
            key.live = None;
        }
        self.note(Step::Restarted { scripts });
    }

    async fn delete_all(&self) {
        let names = self.keys.iter().flat_map(|key| [key.key.to_string(), key.key.lock()]);
        self.cache.delete(&names.collect::<Vec<_>>()).await;
    }

    /// Goes on until every record is delivered, also for the second time where that is asked for.
    async fn deliver_all(&mut self) {
        loop {
            self.now += self.rng.u64(1..8);
            let pending = |(feed, item): (&Feed, &Item)| feed.next <= item.latest() || !feed.settling.is_empty();
            if !self.feeds.iter().zip(&self.items).any(pending) {
                return self.note(Step::AllDelivered);
            }
            match self.rng.u8(..10) {
                ..5 => self.deliver_again().await,
                5..8 => self.deliver().await,
                _ => self.read().await,
            }
        }
    }

    /// Checks a hit, which is to be as new as what has been delivered.
    pub(crate) fn hit(&mut self, reader: usize, key: usize, content: Content) {
        self.outcome.hits += 1;
        let items = self.keys[key].items.clone();
        let fed: Vec<&Item> = items.iter().map(|item| &self.items[*item]).collect();
        let bounds = |bound: fn(&Feed, bool) -> usize| -> Vec<usize> {
            items.iter().map(|item| bound(&self.feeds[*item], self.cell == Cell::Settle)).collect()
        };
        let delivered = bounds(|feed, settles| if settles { feed.settled } else { feed.delivered });
        let again = bounds(|feed, settles| if settles { feed.settled } else { feed.delivered.min(feed.next - 1) });
        let violation = match (content.is_as_new_as(&fed, &delivered), content.is_as_new_as(&fed, &again)) {
            (true, _) => None,
            (false, true) => Some(Violation::StaleHitDuringReplay),
            (false, false) => Some(Violation::StaleHit),
        };
        let went_back = !content.is_as_new_as(&fed, &self.keys[key].seen);
        if let Content::Commits(commits) = &content {
            self.keys[key].seen.clone_from(commits);
        }
        self.note(Step::Served { reader, key, content });
        if let Some(violation) = violation {
            self.violated(violation);
        }
        if went_back {
            self.violated(Violation::WentBack);
        }
    }

    /// Counts the entries that are stale for good, and leaves nothing behind.
    async fn judge(mut self) -> Outcome {
        let names: Vec<CacheKey> = self.keys.iter().map(|key| key.key.clone()).collect();
        let entries = self.cache.get_many(&names).await;
        for (key, entry) in entries.into_iter().enumerate() {
            let content = entry.as_ref().and_then(Content::served);
            let fed: Vec<&Item> = self.keys[key].items.iter().map(|item| &self.items[*item]).collect();
            let latest: Vec<usize> = fed.iter().map(|item| item.latest()).collect();
            let stale = content.as_ref().is_some_and(|content| !content.is_as_new_as(&fed, &latest));
            self.note(Step::AtTheEnd { key, content });
            if stale {
                self.violated(Violation::StaleAtTheEnd);
            }
        }
        self.delete_all().await;
        self.outcome
    }
}
