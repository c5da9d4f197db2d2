//! The whole state, and what of it is not one participant's own.

use super::cell::{Bounds, Cell, Entries, Order};
use super::database::{Commit, Database};
use super::invalidator::{Invalidator, Stream};
use super::reader::{Reader, Stage};
use super::shard::{Entry, Notice, READERS, Shard};
use super::step::Who;

/// Everything there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct World {
    pub(crate) database: Database,
    pub(crate) stream: Stream,
    /// The worker that has the stream lease.
    pub(crate) holder: Invalidator,
    /// The one that had it before, and may still read and deliver: the zombie.
    pub(crate) former: Invalidator,
    /// Take-overs that are still to come; of no meaning where they are endless.
    pub(crate) takeovers: u8,
    pub(crate) shard: Shard,
    pub(crate) readers: [Reader; READERS],
    /// The highest commit that has been served, where that matters.
    pub(crate) seen: Commit,
}

impl World {
    pub(crate) fn new(cell: &Cell) -> Self {
        let (flights, takeovers) = match cell.bounds {
            Bounds::Endless => (0, 0),
            Bounds::Ending { flights, takeovers } => (flights, takeovers),
        };
        Self {
            database: Database { latest: 0, horizon: 0 },
            stream: Stream::default(),
            holder: Invalidator::after(0),
            former: Invalidator::nobody(),
            takeovers,
            shard: Shard::EMPTY,
            readers: [Reader::new(flights); READERS],
            seen: 0,
        }
    }

    /// No entry older than this commit is to be served.
    ///
    /// A refresh that is delivered once more may bring back an older state until the replay has come to the newest.
    pub(crate) fn bound(&self, cell: &Cell) -> Commit {
        let delivered = self.stream.delivered.last();
        if cell.is_refresh() { delivered.min(self.holder.watermark(cell)) } else { delivered }
    }

    pub(crate) fn invalidator(&self, who: Who) -> &Invalidator {
        match who {
            Who::Holder => &self.holder,
            Who::Zombie => &self.former,
        }
    }

    pub(crate) fn invalidator_mut(&mut self, who: Who) -> &mut Invalidator {
        match who {
            Who::Holder => &mut self.holder,
            Who::Zombie => &mut self.former,
        }
    }

    pub(crate) fn publish(&mut self, notice: Option<Notice>) {
        let Some(Notice { to, message }) = notice else { return };
        for (id, reader) in self.readers.iter_mut().enumerate() {
            if to >> id & 1 == 1 {
                reader.publish(message);
            }
        }
    }

    /// Notes whose lease was taken away by what has just happened.
    pub(crate) fn note_taken(&mut self) {
        let holder = self.shard.lock.and_then(|lock| lock.holder);
        for (id, reader) in self.readers.iter_mut().enumerate() {
            if let Stage::Loading(held) | Stage::Loaded(held, _) = &mut reader.stage {
                held.taken |= holder != Some(id as u8);
            }
        }
    }

    pub(crate) fn deliver(&mut self, cell: &Cell, who: Who, record: Commit) {
        let notice = self.shard.apply(cell, record, who == Who::Zombie);
        self.publish(notice);
        self.note_taken();
    }

    /// Whether an entry can be lost now.
    pub(crate) fn can_lose_entry(&self, cell: &Cell) -> bool {
        let newest = match self.shard.entry {
            Entry::Absent => return false,
            Entry::Fresh { commit, .. } | Entry::Stale { commit, .. } => commit,
            Entry::Tombstone { .. } => 0,
        };
        match cell.entries {
            Entries::Evicted => true,
            Entries::OutliveLag => self.database.horizon >= newest.max(self.stream.delivered.last()),
        }
    }

    /// The same state with its readers in order: they differ in nothing but their names.
    pub(crate) fn with_readers_in_order(mut self) -> Self {
        let [first, second] = self.readers;
        if second < first {
            self.readers = [second, first];
            if let Some(lock) = &mut self.shard.lock {
                lock.holder = lock.holder.map(|holder| 1 - holder);
                lock.waiters = (lock.waiters & 1) << 1 | lock.waiters >> 1;
            }
        }
        self
    }

    /// Notes what can be served now, where nothing older may be from now on.
    pub(crate) fn note_served(&mut self, cell: &Cell) {
        match (cell.order, self.shard.entry.served()) {
            (Order::Always, Some(commit)) => self.seen = self.seen.max(commit),
            (Order::AfterValues, Some(commit)) if cell.item.is_present(commit) => self.seen = self.seen.max(commit),
            _ => {}
        }
    }
}
