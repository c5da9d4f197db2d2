//! The ring shard: one entry, its lock, and the scripts, each of which is one step.

use super::cell::{Cell, Flaw, Route};
use super::database::{Commit, Version};

/// Number of reader processes.
pub(crate) const READERS: usize = 2;

/// What stands under the key: `shared/src/entry.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Entry {
    Absent,
    /// The item's value after a commit, or a negative entry where that deleted it. Anybody may be served with it.
    Fresh {
        commit: Commit,
        version: Version,
        floor: Version,
    },
    /// A value that was invalidated and is kept.
    Stale {
        commit: Commit,
        version: Version,
        floor: Version,
    },
    Tombstone {
        floor: Version,
    },
}

/// The lease on the entry: `shared/src/valkey/scripts/lock.lua`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lock {
    /// The reader whose attempt has this token; nobody where that attempt has ended. Tokens are new for every attempt
    /// and compared for nothing but equality, so that this tells as much as they do.
    pub(crate) holder: Option<u8>,
    pub(crate) floor: Version,
    /// The inboxes to be told, a bit for each reader.
    pub(crate) waiters: u8,
}

/// All that the ring shard holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Shard {
    pub(crate) entry: Entry,
    pub(crate) lock: Option<Lock>,
}

/// What waiters are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Message {
    Filled(Commit),
    /// The lease was taken away or given back.
    Voided,
    Failed,
}

/// What a script has published, and to which readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    pub(crate) to: u8,
    pub(crate) message: Message,
}

pub(crate) enum LeaseReply {
    Hit,
    Granted { floor: Version },
    Wait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FillReply {
    Stored,
    Void,
    Below { floor: Version },
    Older,
}

/// What a fill stores.
#[derive(Clone, Copy)]
pub(crate) struct Fill {
    pub(crate) commit: Commit,
    pub(crate) proven: Version,
}

impl Entry {
    /// The commit of what readers are served with.
    pub(crate) fn served(self) -> Option<Commit> {
        match self {
            Entry::Fresh { commit, .. } => Some(commit),
            Entry::Absent | Entry::Stale { .. } | Entry::Tombstone { .. } => None,
        }
    }

    /// The highest of version and floor.
    pub(crate) fn known(self) -> Version {
        match self {
            Entry::Absent => Version::NONE,
            Entry::Fresh { version, floor, .. } | Entry::Stale { version, floor, .. } => version.max(floor),
            Entry::Tombstone { floor } => floor,
        }
    }

    fn floor(self) -> Version {
        match self {
            Entry::Absent => Version::NONE,
            Entry::Fresh { floor, .. } | Entry::Stale { floor, .. } | Entry::Tombstone { floor } => floor,
        }
    }
}

impl Shard {
    pub(crate) const EMPTY: Shard = Shard { entry: Entry::Absent, lock: None };

    /// `lease.lua`; `inbox` has the bit of the reader's inbox, or none where it will not wait.
    pub(crate) fn lease(&mut self, cell: &Cell, reader: u8, inbox: u8) -> LeaseReply {
        if self.entry.served().is_some() {
            return LeaseReply::Hit;
        }
        match &mut self.lock {
            Some(lock) if cell.flaw != Flaw::LeaseWithoutNx => {
                lock.waiters |= inbox;
                LeaseReply::Wait
            }
            Some(_) | None => {
                let floor = self.entry.known();
                self.lock = Some(Lock { holder: Some(reader), floor, waiters: 0 });
                LeaseReply::Granted { floor }
            }
        }
    }

    /// `fill.lua`.
    pub(crate) fn fill(&mut self, cell: &Cell, reader: u8, fill: Fill) -> (FillReply, Option<Notice>) {
        let Fill { commit, proven } = fill;
        let version = cell.loaded_version(commit);
        if matches!(cell.flaw, Flaw::Textbook | Flaw::FillWithoutToken) {
            self.entry = Entry::Fresh { commit, version, floor: Version::NONE };
            return (FillReply::Stored, self.unlock(Message::Filled(commit)));
        }
        let Some(lock) = self.lock.filter(|lock| lock.holder == Some(reader)) else {
            return (FillReply::Void, None);
        };
        let floor = lock.floor.max(self.entry.floor());
        if floor.is_higher_than(version.max(proven)) {
            return (FillReply::Below { floor }, None);
        }
        if let Entry::Fresh { commit, version: there, .. } = self.entry
            && version != Version::NONE
            && there.is_higher_than(version)
        {
            return (FillReply::Older, self.unlock(Message::Filled(commit)));
        }
        self.entry = Entry::Fresh { commit, version, floor };
        (FillReply::Stored, self.unlock(Message::Filled(commit)))
    }

    /// `release.lua`.
    pub(crate) fn release(&mut self, cell: &Cell, reader: u8, message: Message) -> Option<Notice> {
        let is_held = self.lock.is_some_and(|lock| lock.holder == Some(reader));
        if is_held || cell.flaw == Flaw::Textbook { self.unlock(message) } else { None }
    }

    /// Carries out a record's command.
    pub(crate) fn apply(&mut self, cell: &Cell, record: Commit, past_deadline: bool) -> Option<Notice> {
        match cell.route {
            Route::Drop => self.invalidate(cell),
            Route::Versioned => self.invalidate_up_to(cell, record),
            Route::RefreshByVersion { populate } | Route::RefreshByPosition { populate } => {
                self.refresh(cell, record, populate, past_deadline)
            }
        }
    }

    /// `invalidate_set.lua`, and `invalidate_loop.lua` without a version where values are kept.
    fn invalidate(&mut self, cell: &Cell) -> Option<Notice> {
        self.entry = match self.entry {
            Entry::Fresh { commit, version, floor } | Entry::Stale { commit, version, floor }
                if cell.keep_stale && cell.item.is_present(commit) =>
            {
                Entry::Stale { commit, version, floor }
            }
            _ => Entry::Absent,
        };
        match cell.flaw {
            Flaw::Textbook | Flaw::DropWithoutVoiding => None,
            _ => self.unlock(Message::Voided),
        }
    }

    /// `invalidate_loop.lua` with a version.
    fn invalidate_up_to(&mut self, cell: &Cell, record: Commit) -> Option<Notice> {
        let change = cell.command_version(record);
        let is_new_enough = self.entry != Entry::Absent && !change.is_higher_than(self.entry.known());
        if !is_new_enough {
            self.entry = match self.entry {
                Entry::Fresh { commit, version, .. } | Entry::Stale { commit, version, .. }
                    if cell.keep_stale && cell.item.is_present(commit) =>
                {
                    Entry::Stale { commit, version, floor: change }
                }
                Entry::Tombstone { .. } => Entry::Tombstone { floor: change },
                _ => self.entombed(cell, change),
            };
        }
        self.raise(cell, change);
        None
    }

    /// `refresh.lua`.
    fn refresh(&mut self, cell: &Cell, record: Commit, populate: bool, past_deadline: bool) -> Option<Notice> {
        let change = cell.command_version(record);
        let is_new_enough = self.entry != Entry::Absent && !change.is_higher_than(self.entry.known());
        if is_new_enough && cell.flaw != Flaw::RefreshWithoutComparing {
            self.raise(cell, change);
            return None;
        }
        if past_deadline && cell.flaw != Flaw::RefreshWithoutDeadline {
            self.entry = self.entombed(cell, change);
            return self.unlock(Message::Voided);
        }
        match self.entry {
            Entry::Absent | Entry::Tombstone { .. } if !populate => {
                self.entry = match self.entry {
                    Entry::Tombstone { .. } => Entry::Tombstone { floor: change },
                    _ => self.entombed(cell, change),
                };
                self.raise(cell, change);
                None
            }
            _ => {
                self.entry = Entry::Fresh { commit: record, version: change, floor: change };
                self.unlock(Message::Filled(record))
            }
        }
    }

    fn entombed(&self, cell: &Cell, floor: Version) -> Entry {
        if cell.tombstones { Entry::Tombstone { floor } } else { Entry::Absent }
    }

    /// Makes the fill that is under way prove `floor`.
    fn raise(&mut self, cell: &Cell, floor: Version) {
        if let Some(lock) = &mut self.lock
            && cell.flaw != Flaw::FloorInEntryAlone
        {
            lock.floor = lock.floor.max(floor);
        }
    }

    fn unlock(&mut self, message: Message) -> Option<Notice> {
        let lock = self.lock.take()?;
        (lock.waiters != 0).then_some(Notice { to: lock.waiters, message })
    }
}
