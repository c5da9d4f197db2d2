//! The guarantees of `docs/protocol.md`, as properties of single states.

use stateright::{Model, Property};

use super::cell::{Bounds, Cell};
use super::database::WRITES;
use super::reader::{About, Reader, Stage};
use super::world::World;

pub(crate) const NOTHING_STALE: &str = "1: no entry older than a delivered commit is served";
pub(crate) const NO_STALE_NOTICE: &str = "1: no waiter is told what is older than its read";
pub(crate) const ONE_LOAD: &str = "2: at most one load under a lease";
pub(crate) const CHECKPOINT: &str = "3: the checkpoint passes nothing undelivered";
pub(crate) const NO_SILENT_GAP: &str = "4: no gap is passed without a flush";
pub(crate) const NEVER_BACK: &str = "5: served versions never go back";
pub(crate) const NOBODY_HANGS: &str = "6: nobody hangs";

pub(crate) fn all() -> Vec<Property<Cell>> {
    vec![
        Property::always(NOTHING_STALE, |cell: &Cell, world: &World| {
            world.shard.entry.served().is_none_or(|commit| commit >= world.bound(cell))
        }),
        Property::always(NO_STALE_NOTICE, |cell: &Cell, world: &World| {
            !world.readers.iter().any(|reader| reader.will_be_misled(cell))
        }),
        Property::always(ONE_LOAD, |_: &Cell, world: &World| {
            world.readers.iter().filter(|reader| reader.loads_under_lease()).count() <= 1
        }),
        Property::always(CHECKPOINT, |_: &Cell, world: &World| {
            let kept = world.stream.trimmed + 1..=world.stream.checkpoint;
            kept.into_iter().all(|record| world.stream.delivered.has(record))
        }),
        Property::always(NO_SILENT_GAP, |_: &Cell, world: &World| {
            let past = 1..=world.stream.trimmed.min(world.holder.next - 1);
            let outstanding = world.holder.outstanding();
            past.into_iter().all(|record| {
                let delivered = world.stream.delivered.has(record);
                delivered || outstanding.has(record) && record > world.stream.checkpoint
            })
        }),
        Property::always(NEVER_BACK, |_: &Cell, world: &World| {
            world.shard.entry.served().is_none_or(|commit| commit >= world.seen)
        }),
        Property::always(NOBODY_HANGS, nobody_hangs),
        Property::sometimes("the last write is served when everything is delivered", |_: &Cell, world: &World| {
            world.stream.delivered.count() == u32::from(WRITES) && world.shard.entry.served() == Some(WRITES)
        }),
        Property::sometimes("a load runs on whose lease was taken away", |_: &Cell, world: &World| {
            let mut loads = world.readers.iter().filter(|reader| !reader.is_answered());
            loads.any(|reader| !reader.loads_under_lease())
        }),
        Property::sometimes("a zombie holds what everybody else has done with", |cell: &Cell, world: &World| {
            let takes_over = !matches!(cell.bounds, Bounds::Ending { takeovers: 0, .. });
            !takes_over || world.former.under_way.first().is_some_and(|record| record <= world.stream.checkpoint)
        }),
        Property::sometimes("a notice finds its waiter", |cell: &Cell, world: &World| {
            let finds = |reader: &Reader| reader.inbox.is_some_and(|letter| letter.about == About::Holder);
            cell.bounds == Bounds::Endless || world.readers.iter().any(finds)
        }),
        Property::sometimes("a load is done again, strongly, for a floor", |cell: &Cell, world: &World| {
            let again = |reader: &Reader| matches!(reader.stage, Stage::Loading(held) if held.again);
            !cell.raises_floors() || world.readers.iter().any(again)
        }),
    ]
}

/// Where every run comes to an end, whoever has not been answered at that end never is.
fn nobody_hangs(cell: &Cell, world: &World) -> bool {
    if cell.bounds == Bounds::Endless || world.readers.iter().all(|reader| reader.is_answered()) {
        return true;
    }
    !cell.next_states(world).is_empty()
}
