//! Why every run of a bounded cell comes to an end: each step lowers a rank that cannot fall for ever.

use super::database::WRITES;
use super::invalidator::Invalidator;
use super::reader::{Reader, Stage};
use super::shard::Entry;
use super::step::Step;
use super::world::World;

/// What each step lowers, the most significant first.
type Rank = [u32; 8];

/// Checks that a step lowers the rank. So no run goes round in circles, and one that ends without an answer for
/// somebody is found as a state without a next step.
pub(crate) fn assert_forward(last: &World, next: &World, step: Step) {
    assert!(rank(next) < rank(last), "{step:?} is no progress: {last:?}, {next:?}");
}

fn rank(world: &World) -> Rank {
    let unwritten = u32::from(2 * (WRITES - world.database.latest) + (WRITES - world.database.horizon))
        + u32::from(WRITES - world.stream.trimmed);
    let undelivered = work(&world.holder) + work(&world.former) + u32::from(WRITES - world.stream.checkpoint);
    let readers = || world.readers.iter();
    [
        unwritten,
        u32::from(world.takeovers),
        undelivered,
        readers().map(leases_to_come).sum(),
        u32::from(world.shard.lock.is_some()),
        readers().enumerate().map(|(id, reader)| way_to_go(world, id, reader)).sum(),
        readers().filter(|reader| reader.inbox.is_some()).count() as u32,
        u32::from(world.shard.entry != Entry::Absent),
    ]
}

/// What an invalidator has to do until it has delivered everything.
fn work(worker: &Invalidator) -> u32 {
    let flush = worker.flush.map_or(0, |flush| if flush.half { 1 } else { 2 });
    6 * u32::from(WRITES + 1 - worker.next) + 4 * worker.under_way.count() + worker.again.count() + flush
}

/// How often a reader may still be given the lease: once in every flight.
fn leases_to_come(reader: &Reader) -> u32 {
    let this = matches!(reader.stage, Stage::Waiting { .. });
    u32::from(reader.flights) + u32::from(this)
}

/// How far a reader is from its answer while nobody is given the lease and no lock is lost.
fn way_to_go(world: &World, id: usize, reader: &Reader) -> u32 {
    let is_registered = world.shard.lock.is_some_and(|lock| lock.waiters >> id & 1 == 1);
    let this = match reader.stage {
        Stage::Idle => 0,
        Stage::Loaded(held, _) => {
            if held.again {
                1
            } else {
                3
            }
        }
        Stage::Loading(held) => {
            if held.again {
                2
            } else {
                4
            }
        }
        Stage::Waiting { attempts } if is_registered => 9 - u32::from(attempts),
        Stage::Waiting { attempts } => 13 - u32::from(attempts),
    };
    20 * u32::from(reader.flights) + this
}
