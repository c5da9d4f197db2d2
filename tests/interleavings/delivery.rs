//! The invalidators: who delivers which records, in which order, to which servers.

use ringtide_core::command::Command;

use super::cell::Cell;
use super::database::Item;
use super::feed::Feed;
use super::flaw::Flaw;
use super::outcome::Step;
use super::schedule::{LAG, Schedule};
use super::world::World;

/// The settle time, in steps.
const SETTLE: u64 = LAG + 1;

/// The deadline of a worker whose stream lease has long ended.
const PASSED: u64 = 1;

/// Who delivers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Holder,
    /// A worker that lost its stream lease.
    Zombie,
}

impl Schedule<'_> {
    /// Delivers the next records of one item or several, as one page.
    pub(crate) async fn deliver(&mut self) {
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
        self.apply(&records, By::Holder).await;
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
    pub(crate) async fn deliver_again(&mut self) {
        let now = self.now;
        let due = |feed: &Feed| feed.settling.iter().position(|(_, due)| *due <= now);
        let Some((item, place)) = (0..self.feeds.len()).find_map(|item| Some((item, due(&self.feeds[item])?))) else {
            return self.deliver().await;
        };
        let (record, _) = self.feeds[item].settling.swap_remove(place);
        self.apply(&[(item, (record, record))], By::Holder).await;
        let feed = &mut self.feeds[item];
        feed.settled = feed.settled.max(record);
        self.note(Step::DeliveredAgain { item, record });
    }

    /// A worker that lost its stream lease delivers one more record, old or new.
    pub(crate) async fn deliver_as_zombie(&mut self) {
        let item = self.rng.usize(..self.items.len());
        let latest = self.items[item].latest();
        if latest > 0 {
            let record = self.rng.usize(1..=latest);
            self.apply(&[(item, (record, record))], By::Zombie).await;
            self.note(Step::DeliveredByZombie { item, record });
        }
    }

    /// A new worker begins at an older checkpoint.
    pub(crate) fn replay(&mut self) {
        let item = self.rng.usize(..self.items.len());
        let from = self.rng.usize(1..=self.feeds[item].next);
        self.feeds[item].next = from;
        self.note(Step::Replay { item, from });
    }

    async fn apply(&mut self, records: &[(usize, (usize, usize))], by: By) {
        let mut commands: Vec<Command> = Vec::new();
        let mut keys = Vec::new();
        for (item, span) in records {
            for (index, key) in self.keys.iter().enumerate().filter(|(_, key)| key.items.contains(item)) {
                let command = self.feeds[*item].command(self.cell, (&key.key, &self.space), &self.items[*item], *span);
                // One command a key, as in a page.
                match commands.iter_mut().find(|earlier| earlier.key == command.key) {
                    Some(earlier) => *earlier = earlier.clone().merge(command),
                    None => {
                        keys.push(index);
                        commands.push(command);
                    }
                }
            }
        }
        // Where each key goes is settled before the first command is sent.
        let owners: Vec<Vec<usize>> = keys.iter().map(|key| self.addressees(*key, by)).collect();
        let mut sent = false;
        for server in 0..self.servers.len() {
            let here = |at: &usize| owners[*at].contains(&server);
            let there: Vec<usize> = (0..keys.len()).filter(here).collect();
            if there.is_empty() || self.membership.is_cut(server) {
                continue;
            }
            // Servers are told one after the other, and readers go on in between.
            if sent && self.rng.u8(..3) == 0 {
                self.read().await;
            }
            sent = true;
            // An earlier owner is told to drop: an image that it stored would outlive the time for which it is told.
            let told = |at: &usize| match owners[*at].first() {
                Some(current) if *current != server => commands[*at].clone().without_image(),
                _ => commands[*at].clone(),
            };
            let batch: Vec<Command> = there.iter().map(told).collect();
            for at in &there {
                self.touch(keys[*at], server);
            }
            let deadline_ms = if by == By::Zombie { PASSED } else { 0 };
            self.servers[server].apply(&batch, deadline_ms).await;
            self.hear(server).await;
        }
    }

    fn touch(&mut self, key: usize, server: usize) {
        let voids = !self.cell.is_versioned() || self.cell.is_refresh();
        let (now, refresh) = (self.now, self.cell.is_refresh());
        let place = &mut self.keys[key].places[server];
        place.touched = now;
        if voids {
            place.live = None;
        }
        if refresh {
            place.kept = None;
            place.stored = place.stored.or(Some(now));
        }
    }

    /// The servers that are told of a change of this key.
    fn addressees(&self, key: usize, by: By) -> Vec<usize> {
        if self.world == World::Ring {
            self.membership.addressees(&self.keys[key].key, self.now, by == By::Zombie)
        } else {
            vec![0]
        }
    }

    /// Goes on until every record is delivered, also for the second time where that is asked for.
    pub(crate) async fn deliver_all(&mut self) {
        loop {
            // Single steps, where each counts against the time within which processes learn of a change.
            self.now += if self.world == World::Ring { 1 } else { self.rng.u64(1..8) };
            self.let_time_pass().await;
            if self.replica.is_unnoticed() {
                self.notice_promotion().await;
            }
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
}
