//! Readers: the flight of one process for the key, each step one call of the protocol.
//!
//! A hit is no step: whatever can be served from the entry is taken to be served to somebody at once. So a reader here
//! is one whose `GET` missed. That `GET` and the lease that is asked for after it are one step, because the script looks
//! at the entry again: what happens between the two is as if it had happened before them.

use super::cell::{Bounds, Cell, Flaw};
use super::database::{Commit, Version};
use super::shard::{Fill, FillReply, LeaseReply, Message, Notice, Shard};

/// Attempts after which a reader loads past the cache.
const MAX_ATTEMPTS: u8 = 2;

/// A reader process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Reader {
    pub(crate) stage: Stage,
    /// The last notice that was published to its inbox and has not arrived. An earlier one is lost, as any may be.
    pub(crate) inbox: Option<Letter>,
    /// How many reads are still to come; of no meaning where they are endless.
    pub(crate) flights: u8,
}

/// Where a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Has its answer, or has not asked yet.
    Idle,
    /// Waits for the lease that was there when it asked.
    Waiting { attempts: u8 },
    /// Has been given the lease, and loads.
    Loading(Held),
    /// Has loaded the state after a commit and answered with it, and is about to fill.
    Loaded(Held, Commit),
}

/// A lease as its holder knows it: `reader/src/lease/held.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Held {
    /// The floor that the load is known to have seen.
    pub(crate) proven: Version,
    /// This is the second load, which has to be strong.
    pub(crate) again: bool,
    /// The lease was taken away, by an invalidation or by the loss of the lock; the holder does not know.
    pub(crate) taken: bool,
}

/// A notice on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Letter {
    pub(crate) message: Message,
    pub(crate) about: About,
}

/// Which lease a notice is about, as its receiver sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum About {
    /// The one that it waits for.
    Holder,
    /// One that it waited for before.
    Earlier,
    /// The same, and a newer state had been delivered before the reader's present read began.
    Outdated,
}

/// One turn of a reader, with what its calls reach.
pub(crate) struct Turn<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) id: u8,
    pub(crate) reader: &'a mut Reader,
    pub(crate) shard: &'a mut Shard,
}

impl Reader {
    pub(crate) const fn new(flights: u8) -> Self {
        Self { stage: Stage::Idle, inbox: None, flights }
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.stage == Stage::Idle
    }

    /// Whether it loads under a lease that nothing has taken away.
    pub(crate) fn loads_under_lease(&self) -> bool {
        matches!(self.stage, Stage::Loading(held) | Stage::Loaded(held, _) if !held.taken)
    }

    /// Whether the notice on its way will answer it with a state that was outdated when its read began.
    pub(crate) fn will_be_misled(&self, cell: &Cell) -> bool {
        let is_waiting = matches!(self.stage, Stage::Waiting { .. });
        is_waiting && self.inbox.is_some_and(|letter| letter.about == About::Outdated && letter.is_believed(cell))
    }

    pub(crate) fn publish(&mut self, message: Message) {
        self.inbox = Some(Letter { message, about: About::Holder });
    }
}

impl Letter {
    /// Whether a waiter takes the entry that it carries for its answer: `lease::fly` compares the token.
    fn is_believed(self, cell: &Cell) -> bool {
        let carries = matches!(self.message, Message::Filled(_));
        carries && (self.about == About::Holder || cell.flaw == Flaw::AnyNoticeBelieved)
    }
}

impl Turn<'_> {
    /// A `GET` misses, and the lease is asked for: `Inner::answer_miss`.
    pub(crate) fn miss(&mut self, bound: Commit) {
        if self.cell.bounds != Bounds::Endless {
            self.reader.flights -= 1;
        }
        if let Some(letter) = &mut self.reader.inbox
            && matches!(letter.message, Message::Filled(commit) if commit < bound)
        {
            *letter = Letter { message: Message::Filled(0), about: About::Outdated };
        }
        self.ask(0);
    }

    /// Asks for the lease, or goes past the cache after too many attempts: the loop of `lease::fly`.
    fn ask(&mut self, attempts: u8) {
        if attempts >= MAX_ATTEMPTS {
            return self.reader.stage = Stage::Idle;
        }
        // Where reads come for ever, one that is told to wait is one that has not asked yet.
        let waits = self.cell.bounds != Bounds::Endless;
        self.reader.stage = match self.shard.lease(self.cell, self.id, u8::from(waits) << self.id) {
            LeaseReply::Hit => Stage::Idle,
            LeaseReply::Wait if waits => Stage::Waiting { attempts },
            LeaseReply::Wait => Stage::Idle,
            LeaseReply::Granted { floor } => {
                let proves = !self.cell.eventual || self.cell.flaw == Flaw::ProofClaimed;
                let proven = if proves { floor } else { Version::NONE };
                Stage::Loading(Held { proven, again: false, taken: false })
            }
        };
    }

    /// A notice arrives: `Waiters::wake`, and what `lease::fly` does about it.
    pub(crate) fn receive(&mut self, attempts: u8, letter: Letter) {
        self.reader.inbox = None;
        match letter.message {
            Message::Filled(_) if letter.is_believed(self.cell) => self.reader.stage = Stage::Idle,
            Message::Filled(_) => self.ask(attempts),
            // A failure elsewhere is looked into, as a lease that was taken away is.
            Message::Voided | Message::Failed => self.ask(attempts + 1),
        }
    }

    /// Whether the lock that it waits for is gone, so that the timer set to the lock's end brings something new. One
    /// that finds the same lock extended waits on: no step.
    pub(crate) fn timer_is_due(cell: &Cell, id: u8, shard: &Shard) -> bool {
        let is_registered = shard.lock.is_some_and(|lock| lock.waiters >> id & 1 == 1);
        !is_registered && cell.flaw != Flaw::NoTimer
    }

    /// The timer: `lease::wait`. A notice that is still on its way is now about an earlier lease.
    pub(crate) fn look_again(&mut self, attempts: u8) {
        self.reader.inbox = match self.reader.inbox {
            Some(Letter { message: message @ Message::Filled(_), about: About::Holder }) => {
                Some(Letter { message, about: About::Earlier })
            }
            Some(letter @ Letter { message: Message::Filled(_), .. }) => Some(letter),
            // No more than a reason to look again, which the timer is too.
            _ => None,
        };
        self.ask(attempts);
    }

    /// Fills: `load_and_fill`.
    pub(crate) fn fill(&mut self, held: Held, commit: Commit) -> Option<Notice> {
        let (reply, notice) = self.shard.fill(self.cell, self.id, Fill { commit, proven: held.proven });
        match reply {
            FillReply::Below { floor } if !held.again => {
                self.reader.stage = Stage::Loading(Held { proven: floor, again: true, ..held });
                notice
            }
            FillReply::Below { .. } => self.give_back(Message::Voided),
            FillReply::Stored | FillReply::Void | FillReply::Older => {
                self.reader.stage = Stage::Idle;
                notice
            }
        }
    }

    /// Gives the lease back: `HeldLease::release_failed`, or its drop.
    pub(crate) fn give_back(&mut self, message: Message) -> Option<Notice> {
        self.reader.stage = Stage::Idle;
        self.shard.release(self.cell, self.id, message)
    }

    /// Dies with its process; the lock is left to its time to live. Another process takes its place.
    pub(crate) fn die(&mut self) {
        self.reader.stage = Stage::Idle;
        if let Some(lock) = &mut self.shard.lock
            && lock.holder == Some(self.id)
        {
            lock.holder = None;
        }
    }
}
