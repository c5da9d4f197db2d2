//! What is found in one schedule, and how it came about.

use ringtide_core::valkey::{FillReply, Token};

use super::cell::Cell;
use super::content::Content;

/// One step of a schedule.
#[derive(Debug)]
#[allow(dead_code, reason = "read by the log")]
pub(crate) enum Step {
    Commit { item: usize, commit: usize, present: bool },
    Miss { reader: usize, key: usize },
    Served { reader: usize, key: usize, content: Content },
    Granted { reader: usize, key: usize, token: Token, early: bool },
    Wait { reader: usize, key: usize },
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
    Evicted { key: usize },
    Restarted { scripts: bool },
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
    StaleHitDuringReplay,
    /// A hit older than an earlier hit for the same key.
    WentBack,
    /// A lease was given out while another one lived.
    TwoLeases,
}

impl Violation {
    pub(crate) const ALL: [Violation; 5] = [
        Violation::StaleAtTheEnd,
        Violation::StaleHit,
        Violation::StaleHitDuringReplay,
        Violation::WentBack,
        Violation::TwoLeases,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Violation::StaleAtTheEnd => "stale at end",
            Violation::StaleHit => "stale hit",
            Violation::StaleHitDuringReplay => "..in replay",
            Violation::WentBack => "went back",
            Violation::TwoLeases => "two leases",
        }
    }

    /// Whether the protocol excludes it in this cell.
    pub(crate) fn is_a_failure(self, cell: Cell) -> bool {
        match self {
            Violation::StaleAtTheEnd | Violation::StaleHit => cell.is_exact(),
            // An image that is delivered once more may meet an entry without a version, or none, and is stored until
            // the replay has come to the newest one.
            Violation::StaleHitDuringReplay => cell.is_exact() && !cell.is_refresh(),
            Violation::WentBack => cell.is_exact() && cell.is_versioned() && !cell.is_refresh(),
            Violation::TwoLeases => true,
        }
    }
}

/// What is found in one schedule.
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) cell: Cell,
    pub(crate) hits: u64,
    /// Fills that were stored, refused for want of a lease, and refused for their version.
    pub(crate) stored: u64,
    pub(crate) void: u64,
    pub(crate) below: u64,
    pub(crate) violations: Vec<Violation>,
    pub(crate) log: Vec<(u64, Step)>,
}

impl Outcome {
    pub(crate) fn new(seed: u64, cell: Cell) -> Self {
        let log = Vec::with_capacity(100);
        Self { seed, cell, hits: 0, stored: 0, void: 0, below: 0, violations: Vec::new(), log }
    }

    pub(crate) fn is_a_failure(&self) -> bool {
        self.violations.iter().any(|violation| violation.is_a_failure(self.cell))
    }

    /// The whole schedule, a line a step.
    pub(crate) fn log(&self) -> String {
        let head = format!("schedule {} ({}): {:?}\n", self.seed, self.cell.name(), self.violations);
        self.log.iter().fold(head, |text, (at, step)| text + &format!("{at:>5}  {step:?}\n"))
    }
}
