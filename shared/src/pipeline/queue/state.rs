//! What waits for a ring shard, in which order, and whether anything is still delivered.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::recent::Recent;
use crate::command::{Action, Command};
use crate::pipeline::limits::Limits;
use crate::pipeline::status::LastFlush;
use crate::pipeline::ticket::Part;
use crate::valkey::{BATCH, ShardError};

/// What waits, and what is known of what was delivered.
pub(super) struct State {
    pub(super) waiting: VecDeque<Item>,
    /// What waits for its time, by that.
    pub(super) delayed: BTreeMap<(Instant, u64), Item>,
    /// Commands that wait or are under way.
    pub(super) commands: usize,
    pub(super) flush: Option<Flush>,
    /// Items and flushes that are under way.
    pub(super) under_way: usize,
    pub(super) recent: Recent,
    /// Batches that are delivered again and that nobody else knows of, also those that settle.
    pub(super) redelivered: usize,
    /// A flush stands for what another server may lack.
    pub(super) recovering: bool,
    /// When something was found to be lost last.
    pub(super) failed_over: Option<Instant>,
    /// The number of the next item.
    pub(super) next: u64,
    pub(super) stage: Stage,
    /// Why a flush is under way.
    pub(super) flushing: Option<&'static str>,
    pub(super) last_flush: Option<LastFlush>,
}

/// Whether anything is still delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Everything.
    Open,
    /// Nothing more: the ring shard has left every membership that counts, so that nothing is served from it.
    Retired,
    /// Nothing more: there is no task that could.
    Broken,
}

/// A batch that waits.
pub(in crate::pipeline) struct Item {
    pub(super) commands: Arc<[Command]>,
    /// What waits for it; `None` where it is delivered again and nobody does.
    pub(super) part: Option<Part>,
    /// Refreshes are not stored past it, by the ring shard's clock (unix ms; 0 for no deadline).
    pub(super) deadline_ms: u64,
    /// Its place in the order of what was queued.
    pub(super) number: u64,
}

/// Key spaces to be flushed before anything else is delivered.
pub(super) struct Flush {
    pub(super) prefixes: BTreeSet<String>,
    pub(super) parts: Vec<Part>,
    pub(super) reason: &'static str,
    /// The names that it has removed, where it was carried out and nobody knows yet by which server.
    pub(super) removed: Option<u64>,
}

impl Item {
    pub(in crate::pipeline) fn new(commands: Arc<[Command]>, part: Part, deadline_ms: u64) -> Self {
        Self { commands, part: Some(part), deadline_ms, number: 0 }
    }

    pub(super) fn is_refresh(&self) -> bool {
        self.commands.iter().any(|command| matches!(command.action, Action::Refresh { .. }))
    }

    pub(super) fn given_up(&self) -> bool {
        self.part.as_ref().is_some_and(Part::given_up)
    }

    pub(super) fn done(self) {
        if let Some(part) = self.part {
            part.done();
        }
    }

    /// What to send after an error: a refresh that the server refuses (it is out of memory, say) becomes a drop, which
    /// is always right; anything else is sent again.
    pub(super) fn after(self, error: &ShardError) -> Self {
        let about_it = matches!(error, ShardError::Rejected { code, .. } if &**code != "NOREPLICAS");
        if !about_it || !self.is_refresh() {
            return self;
        }
        let drops = self.commands.iter().map(|c| Command::drop_entry(c.key.clone(), c.space.clone()));
        Self { commands: drops.collect(), ..self }
    }
}

impl State {
    /// Nothing waits, and nothing is known of what was before `now`.
    pub(super) fn new(limits: &Limits, now: Instant) -> Self {
        Self {
            waiting: VecDeque::new(),
            delayed: BTreeMap::new(),
            commands: 0,
            flush: None,
            under_way: 0,
            recent: Recent::new(limits.redelivery.window, limits.redelivery.keys, now),
            redelivered: 0,
            recovering: false,
            failed_over: None,
            next: 1,
            stage: Stage::Open,
            flushing: None,
            last_flush: None,
        }
    }

    /// Passes an item on where it can be delivered.
    pub(super) fn admit(&mut self, item: Item) -> Option<Item> {
        match self.stage {
            Stage::Open => Some(item),
            Stage::Retired => {
                item.done();
                None
            }
            // Its ticket resolves to an error.
            Stage::Broken => None,
        }
    }

    pub(super) fn enqueue(&mut self, mut item: Item) {
        item.number = self.next;
        self.next += 1;
        self.commands += item.commands.len();
        self.waiting.push_back(item);
    }

    pub(super) fn delay(&mut self, item: Item, at: Instant) {
        self.delayed.insert((at, self.next), item);
        self.next += 1;
    }

    /// Queues what has waited for its time until `now`.
    pub(super) fn wake(&mut self, now: Instant) {
        while let Some(first) = self.delayed.first_entry()
            && first.key().0 <= now
        {
            let item = first.remove();
            self.enqueue(item);
        }
    }

    /// Drops batches at the head that nobody waits for; tells whether there were any.
    pub(super) fn drop_given_up(&mut self) -> bool {
        let mut dropped = false;
        while let Some(item) = self.waiting.pop_front_if(|item| item.given_up()) {
            self.commands -= item.commands.len();
            dropped = true;
        }
        dropped
    }

    /// Drops all batches that nobody waits for; tells whether there were any.
    pub(super) fn drop_all_given_up(&mut self) -> bool {
        let before = self.commands;
        let commands = &mut self.commands;
        self.waiting.retain(|item| {
            let given_up = item.given_up();
            *commands -= if given_up { item.commands.len() } else { 0 };
            !given_up
        });
        self.commands < before
    }

    /// Queues commands ahead of everything else, and once more later where they settle.
    pub(super) fn redeliver(&mut self, commands: &[Command], now: Instant) {
        let item = |commands: Vec<Command>| Item { commands: commands.into(), part: None, deadline_ms: 0, number: 0 };
        for batch in commands.chunks(BATCH).rev() {
            self.redelivered += 1;
            self.commands += batch.len();
            self.waiting.push_front(item(batch.to_vec()));
        }
        let mut later: BTreeMap<Instant, Vec<Command>> = BTreeMap::new();
        for command in commands {
            if let Some(after) = command.repeated_after() {
                later.entry(now + after).or_default().push(command.clone());
            }
        }
        for (at, commands) in later {
            for batch in commands.chunks(BATCH) {
                self.redelivered += 1;
                self.delay(item(batch.to_vec()), at);
            }
        }
    }

    pub(super) fn add_flush(&mut self, more: Flush) {
        match &mut self.flush {
            Some(flush) => {
                flush.prefixes.extend(more.prefixes);
                flush.parts.extend(more.parts);
                // What was carried out before does not stand for what came after it.
                flush.removed = None;
            }
            None => self.flush = Some(more),
        }
    }

    /// Whether a flush waits or is under way.
    pub(super) fn is_flushed(&self) -> bool {
        self.flush.is_some() || self.flushing.is_some()
    }

    /// Takes everything out that waits.
    pub(super) fn end(&mut self, stage: Stage) -> (Vec<Item>, Option<Flush>) {
        self.stage = stage;
        self.commands = 0;
        self.under_way = 0;
        (self.redelivered, self.recovering) = (0, false);
        let delayed = std::mem::take(&mut self.delayed);
        let items = std::mem::take(&mut self.waiting).into_iter().chain(delayed.into_values()).collect();
        (items, self.flush.take())
    }
}
