//! The transitions: who can do what, and what becomes of it.

use stateright::{Model, Property};

use super::cell::{Bounds, Cell, Flaw};
use super::database::{Commit, WRITES};
use super::guarantees;
use super::invalidator::Invalidator;
use super::progress;
use super::reader::{Stage, Turn};
use super::shard::{Entry, Message, READERS};
use super::world::World;

/// Which invalidator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Holder,
    Zombie,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Commit,
    /// The longest lag has passed since the next commit: no load that begins from now on misses it.
    LagPasses,
    Trim,
    Read(Who),
    Deliver(Who, Commit),
    DeliverAgain(Who, Commit),
    Overflow,
    FlushFirstHalf,
    FlushSecondHalf,
    StoreCheckpoint,
    TakeOver,
    LoseEntry,
    LoseLock,
    Miss(u8),
    NoticeArrives(u8),
    Timer(u8),
    Load(u8, Commit),
    Fill(u8),
    LoadFails(u8),
    Die(u8),
}

impl Cell {
    fn steps_of_invalidators(&self, world: &World, steps: &mut Vec<Step>) {
        for who in [Who::Holder, Who::Zombie] {
            let worker = world.invalidator(who);
            if worker.can_read(self, world.database.latest) {
                steps.push(Step::Read(who));
            }
            if worker.can_deliver() {
                steps.extend(worker.under_way.iter().map(|record| Step::Deliver(who, record)));
                let due = worker.again.iter().filter(|record| *record <= world.database.horizon);
                steps.extend(due.map(|record| Step::DeliverAgain(who, record)));
            }
        }
        if self.gaps {
            if world.stream.trimmed < world.database.latest {
                steps.push(Step::Trim);
            }
            if !world.holder.under_way.is_empty() && world.holder.can_deliver() {
                steps.push(Step::Overflow);
            }
        }
        if let Some(flush) = world.holder.flush {
            if flush.half {
                steps.push(Step::FlushSecondHalf);
            } else {
                steps.push(Step::FlushFirstHalf);
            }
        }
        if world.holder.watermark(self) > world.stream.checkpoint {
            steps.push(Step::StoreCheckpoint);
        }
        if self.bounds == Bounds::Endless || world.takeovers > 0 {
            steps.push(Step::TakeOver);
        }
    }

    fn steps_of_reader(&self, world: &World, id: u8, steps: &mut Vec<Step>) {
        let reader = &world.readers[usize::from(id)];
        match reader.stage {
            Stage::Idle => {
                let comes = self.bounds == Bounds::Endless || reader.flights > 0;
                if comes && world.shard.entry.served().is_none() {
                    steps.push(Step::Miss(id));
                }
            }
            Stage::Waiting { .. } => {
                if reader.inbox.is_some() {
                    steps.push(Step::NoticeArrives(id));
                }
                if Turn::timer_is_due(self, id, &world.shard) {
                    steps.push(Step::Timer(id));
                }
            }
            Stage::Loading(held) => {
                let oldest = if self.eventual && !held.again { world.database.horizon } else { world.database.latest };
                steps.extend((oldest..=world.database.latest).map(|commit| Step::Load(id, commit)));
                steps.push(Step::Die(id));
                // As if it had died and its lock had been lost, but for the notice.
                if self.bounds != Bounds::Endless {
                    steps.push(Step::LoadFails(id));
                }
            }
            // One who dies now might as well have died before.
            Stage::Loaded(..) => steps.push(Step::Fill(id)),
        }
    }

    fn take_turn(&self, world: &mut World, step: Step, id: u8) {
        let bound = world.bound(self);
        let World { shard, readers, .. } = world;
        let reader = &mut readers[usize::from(id)];
        let (stage, inbox) = (reader.stage, reader.inbox);
        let mut turn = Turn { cell: self, id, reader, shard };
        let mut notice = None;
        match (step, stage) {
            (Step::Miss(_), Stage::Idle) => turn.miss(bound),
            (Step::NoticeArrives(_), Stage::Waiting { attempts }) => {
                inbox.into_iter().for_each(|letter| turn.receive(attempts, letter));
            }
            (Step::Timer(_), Stage::Waiting { attempts }) => turn.look_again(attempts),
            (Step::Load(_, commit), Stage::Loading(held)) => turn.reader.stage = Stage::Loaded(held, commit),
            (Step::Fill(_), Stage::Loaded(held, commit)) => notice = turn.fill(held, commit),
            (Step::LoadFails(_), Stage::Loading(_)) => notice = turn.give_back(Message::Failed),
            (Step::Die(_), _) => turn.die(),
            _ => {}
        }
        world.publish(notice);
    }

    fn take(&self, world: &mut World, step: Step) {
        match step {
            Step::Commit => world.database.latest += 1,
            Step::LagPasses => world.database.horizon += 1,
            Step::Trim => world.stream.trimmed += 1,
            Step::Read(who) => {
                let trimmed = world.stream.trimmed;
                world.invalidator_mut(who).read(self, trimmed);
            }
            Step::Deliver(who, record) => {
                world.deliver(self, who, record);
                world.invalidator_mut(who).under_way.take(record);
                if self.settles {
                    world.invalidator_mut(who).again.add(record);
                } else {
                    world.stream.delivered.add(record);
                }
            }
            Step::DeliverAgain(who, record) => {
                world.deliver(self, who, record);
                world.invalidator_mut(who).again.take(record);
                world.stream.delivered.add(record);
            }
            Step::Overflow => world.holder.overflow(),
            Step::FlushFirstHalf | Step::FlushSecondHalf => {
                let locks_first = self.flaw != Flaw::FlushEntriesFirst;
                if (step == Step::FlushFirstHalf) == locks_first {
                    world.shard.lock = None;
                    world.note_taken();
                } else {
                    world.shard.entry = Entry::Absent;
                }
                match (step, &mut world.holder.flush) {
                    (Step::FlushFirstHalf, Some(flush)) => flush.half = true,
                    (_, flush) => {
                        let records = flush.take().map(|flush| flush.records).unwrap_or_default();
                        world.stream.delivered.add_all(records);
                    }
                }
            }
            Step::StoreCheckpoint => world.stream.checkpoint = world.holder.watermark(self),
            Step::TakeOver => {
                world.former = world.holder.deposed();
                world.holder = Invalidator::after(world.stream.checkpoint);
                world.takeovers = world.takeovers.saturating_sub(1);
            }
            Step::LoseEntry => world.shard.entry = Entry::Absent,
            Step::LoseLock => {
                world.shard.lock = None;
                world.note_taken();
            }
            Step::Miss(id)
            | Step::NoticeArrives(id)
            | Step::Timer(id)
            | Step::Load(id, _)
            | Step::Fill(id)
            | Step::LoadFails(id)
            | Step::Die(id) => self.take_turn(world, step, id),
        }
    }
}

impl Model for Cell {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.database.latest < WRITES {
            steps.push(Step::Commit);
        }
        if (self.eventual || self.settles) && world.database.horizon < world.database.latest {
            steps.push(Step::LagPasses);
        }
        self.steps_of_invalidators(world, steps);
        if world.can_lose_entry(self) {
            steps.push(Step::LoseEntry);
        }
        if world.shard.lock.is_some() && self.flaw != Flaw::LockWithoutExpiry {
            steps.push(Step::LoseLock);
        }
        for id in 0..READERS as u8 {
            self.steps_of_reader(world, id, steps);
        }
    }

    fn next_state(&self, last: &World, step: Step) -> Option<World> {
        let mut next = *last;
        self.take(&mut next, step);
        next.note_served(self);
        if self.bounds != Bounds::Endless {
            progress::assert_forward(last, &next, step);
        }
        if self.flaw == Flaw::None {
            next = next.with_readers_in_order();
        }
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        guarantees::all()
    }
}
