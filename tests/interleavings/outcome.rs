//! What is found in one schedule, and how it came about.

use ringtide_core::valkey::{FillReply, Token};

use super::cell::Cell;
use super::content::Content;
use super::process::Event;
use super::reader::Why;
use super::wire::Notice;
use super::world::World;

/// One step of a schedule.
#[derive(Debug)]
#[allow(dead_code, reason = "read by the log")]
pub(crate) enum Step {
    Commit { item: usize, commit: usize, present: bool },
    Miss { reader: usize, key: usize },
    Served { reader: usize, key: usize, content: Content },
    ServedLocally { reader: usize, key: usize, content: Content },
    ServedStale { reader: usize, key: usize },
    Granted { reader: usize, key: usize, token: Token, why: Why },
    Wait { reader: usize, key: usize, holder: Token },
    StillWaits { reader: usize, key: usize, unfilled: bool },
    Woken { reader: usize, notice: Notice },
    ServedByNotice { reader: usize, key: usize, content: Content },
    NoticesLost { process: usize },
    Loaded { reader: usize, key: usize, content: Content, strong: bool },
    Filled { reader: usize, key: usize, reply: FillReply },
    LateFill { key: usize, reply: FillReply },
    LateLease { key: usize, granted: bool },
    Extended { reader: usize, still: bool },
    Released { reader: usize, key: usize },
    Died { reader: usize },
    Delivered { items: Vec<usize>, records: Vec<(usize, usize)> },
    DeliveredAgain { item: usize, record: usize },
    DeliveredByZombie { item: usize, record: usize },
    Replay { item: usize, from: usize },
    LockExpired { key: usize },
    EntryExpired { key: usize },
    Aged { key: usize, left: i64 },
    Evicted { key: usize },
    Restarted { scripts: bool },
    Pushed { process: usize, event: Event },
    TakenIn { process: usize, key: usize, taken: bool },
    ConnectionLost { process: usize },
    Emptied,
    Replicated,
    Promoted,
    PromotionNoticed { flushed: bool },
    RingChanged { shards: Vec<usize>, owners: Vec<usize>, flushed: Vec<usize>, cut: bool },
    RingLearnt { process: usize },
    AllDelivered,
    AtTheEnd { key: usize, content: Option<Content> },
    Violation(Violation),
}

/// What the protocol must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// An entry older than a delivered commit, after everything was delivered.
    StaleAtTheEnd,
    /// A hit older than a commit whose record had been delivered.
    StaleHit,
    /// The same while a replay had not yet come back to that record.
    StaleDuringReplay,
    /// A waiter was handed what is older than a commit whose record had been delivered before it asked.
    StaleNotice,
    /// A hit in a process's own memory older than what had been delivered before anything that is still on its way.
    StaleLocally,
    /// A value that was invalidated is kept for longer than it should be.
    KeptTooLong,
    /// A hit older than an earlier hit for the same key.
    WentBack,
    /// A lease was given out while another one lived.
    TwoLeases,
}

impl Violation {
    pub(crate) const ALL: [Violation; 8] = [
        Violation::StaleAtTheEnd,
        Violation::StaleHit,
        Violation::StaleDuringReplay,
        Violation::StaleNotice,
        Violation::StaleLocally,
        Violation::KeptTooLong,
        Violation::WentBack,
        Violation::TwoLeases,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Violation::StaleAtTheEnd => "at end",
            Violation::StaleHit => "hit",
            Violation::StaleDuringReplay => "replay",
            Violation::StaleNotice => "notice",
            Violation::StaleLocally => "local",
            Violation::KeptTooLong => "kept",
            Violation::WentBack => "back",
            Violation::TwoLeases => "leases",
        }
    }

    /// Whether the protocol excludes it in this cell.
    pub(crate) fn is_a_failure(self, cell: Cell, world: World) -> bool {
        match self {
            Violation::StaleAtTheEnd
            | Violation::StaleHit
            | Violation::StaleNotice
            | Violation::StaleLocally
            | Violation::KeptTooLong => cell.is_exact(),
            // An image that is delivered once more may meet an entry without a version, or none, and is stored until
            // the replay has come to the newest one.
            Violation::StaleDuringReplay => cell.is_exact() && !cell.is_refresh(),
            // Two owners of one key know nothing of each other's versions.
            Violation::WentBack => cell.is_exact() && cell.is_versioned() && !cell.is_refresh() && world != World::Ring,
            Violation::TwoLeases => true,
        }
    }
}

/// What is counted in a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    Schedules,
    Steps,
    Hits,
    /// Fills that were stored, and those among them of items that do not exist.
    Stored,
    Negative,
    /// Fills that were refused for want of a lease, and for their version.
    Void,
    Below,
    /// Waiters that were answered by a notice.
    Woken,
    /// Loads behind a read, before a value's time is over or after it.
    Behind,
    /// Values that were served because their load failed.
    Stale,
    Local,
    /// Promotions and changes of the ring.
    Events,
}

impl Count {
    pub(crate) const NAMES: [&str; 12] = [
        "schedules",
        "steps",
        "hits",
        "stored",
        "negative",
        "void",
        "below",
        "woken",
        "behind",
        "stale",
        "local",
        "events",
    ];
}

/// What is found in one schedule.
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) cell: Cell,
    pub(crate) world: World,
    pub(crate) counts: [u64; Count::NAMES.len()],
    pub(crate) violations: Vec<Violation>,
    pub(crate) log: Vec<(u64, Step)>,
}

impl Outcome {
    pub(crate) fn new(seed: u64, cell: Cell, world: World) -> Self {
        let log = Vec::with_capacity(100);
        Self { seed, cell, world, counts: [0; Count::NAMES.len()], violations: Vec::new(), log }
    }

    pub(crate) fn count(&mut self, count: Count) {
        self.counts[count as usize] += 1;
    }

    pub(crate) fn is_a_failure(&self) -> bool {
        self.violations.iter().any(|violation| violation.is_a_failure(self.cell, self.world))
    }

    /// The whole schedule, a line a step.
    pub(crate) fn log(&self) -> String {
        let (cell, world) = (self.cell.name(), self.world.name());
        let head = format!("schedule {} ({cell}{world}): {:?}\n", self.seed, self.violations);
        self.log.iter().fold(head, |text, (at, step)| text + &format!("{at:>5}  {step:?}\n"))
    }
}
