//! What a schedule came to, and what many did.

use std::fmt;
use std::ops::AddAssign;
use std::time::Instant;

/// What happened, in numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) records: u64,
    pub(crate) invocations: u64,
    pub(crate) partial: u64,
    pub(crate) timed_out: u64,
    pub(crate) died: u64,
    pub(crate) zombies: u64,
    pub(crate) duplicates: u64,
    pub(crate) given_up: u64,
    pub(crate) reads: u64,
    pub(crate) entries: u64,
}

impl Counts {
    fn all(&mut self) -> [(&'static str, &mut u64); 10] {
        [
            ("records", &mut self.records),
            ("invocations", &mut self.invocations),
            ("partial answers", &mut self.partial),
            ("time-outs", &mut self.timed_out),
            ("crashes", &mut self.died),
            ("zombies", &mut self.zombies),
            ("duplicates", &mut self.duplicates),
            ("given up", &mut self.given_up),
            ("reads", &mut self.reads),
            ("entries audited", &mut self.entries),
        ]
    }

    /// What never happened.
    pub(crate) fn missing(mut self) -> Vec<&'static str> {
        self.all().into_iter().filter(|(_, count)| **count == 0).map(|(name, _)| name).collect()
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, mut other: Self) {
        for ((_, count), (_, more)) in self.all().into_iter().zip(other.all()) {
            *count += *more;
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = *self;
        let shown: Vec<String> = counts.all().into_iter().map(|(name, count)| format!("{count} {name}")).collect();
        f.write_str(&shown.join(", "))
    }
}

/// The end of one schedule.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) counts: Counts,
    pub(crate) violations: Vec<String>,
    /// The world cannot be used any more.
    pub(crate) hung: bool,
    begun: Instant,
    log: Vec<String>,
}

impl Outcome {
    pub(crate) fn new(seed: u64) -> Self {
        let (counts, begun) = (Counts::default(), Instant::now());
        Self { seed, counts, violations: Vec::new(), hung: false, begun, log: Vec::new() }
    }

    pub(crate) fn note(&mut self, text: impl fmt::Display) {
        self.log.push(format!("{:6.1} ms  {text}", self.begun.elapsed().as_secs_f64() * 1000.0));
    }

    pub(crate) fn violated(&mut self, violation: String) {
        self.note(format!("VIOLATION {violation}"));
        self.violations.push(violation);
    }

    /// Everything that happened, and how to run it again.
    pub(crate) fn story(&self) -> String {
        let again = format!("again: RINGTIDE_POLLER_SEED={} RINGTIDE_POLLER_SCHEDULES=1", self.seed);
        format!("{}\n{}\n{again}", self.log.join("\n"), self.violations.join("\n"))
    }
}
