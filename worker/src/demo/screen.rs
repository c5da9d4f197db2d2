//! What the demo shows: announcements, and once a second the numbers: redrawn on a terminal, a line elsewhere.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::lag::{Spread, lock};

/// Standard output.
pub(super) struct Screen {
    began: Instant,
    terminal: bool,
    /// The lines of the numbers as they were drawn last; empty where nothing has to be erased.
    drawn: Mutex<Vec<String>>,
}

/// The numbers of a second.
#[derive(Clone, Debug, Default)]
pub(super) struct Frame {
    pub(super) reads: u64,
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) loads: u64,
    pub(super) writes: u64,
    pub(super) invalidations: u64,
    pub(super) invalidations_in_all: u64,
    pub(super) lag: Spread,
    /// Names and sizes of the ring shards; no size for one that is down.
    pub(super) entries: Vec<(String, Option<u64>)>,
    pub(super) worker: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), terminal: std::io::stdout().is_terminal(), drawn: Mutex::default() }
    }

    /// Marks a promise: kept or broken.
    pub(super) fn mark(&self, kept: bool) -> &'static str {
        match (self.terminal, kept) {
            (true, true) => "\x1b[32m✓\x1b[0m",
            (true, false) => "\x1b[31m✗\x1b[0m",
            (false, true) => "ok    ",
            (false, false) => "BROKEN",
        }
    }

    /// Begins an act.
    pub(super) fn act(&self, title: &str) {
        let seconds = self.began.elapsed().as_secs_f64();
        let title = if self.terminal { format!("\x1b[1m{title}\x1b[0m") } else { title.to_owned() };
        self.say(&format!("\n[{seconds:5.1} s] {title}"));
    }

    /// Says a line that stays.
    pub(super) fn say(&self, line: &str) {
        let mut drawn = lock(&self.drawn);
        self.write(&mut drawn, &format!("{line}\n"), &[]);
    }

    /// Shows the numbers of the last second.
    pub(super) fn show(&self, frame: &Frame) {
        let mut drawn = lock(&self.drawn);
        if self.terminal {
            let lines = frame.lines();
            self.write(&mut drawn, "", &lines);
        } else {
            let line = format!("  {:5.1} s  {}\n", self.began.elapsed().as_secs_f64(), frame.line());
            self.write(&mut drawn, &line, &[]);
        }
    }

    /// Erases what was drawn last, writes `text`, draws `lines`. A terminal that has gone is nobody's error.
    fn write(&self, drawn: &mut Vec<String>, text: &str, lines: &[String]) {
        let mut out = String::new();
        if !drawn.is_empty() {
            let _ = write!(out, "\x1b[{}A\x1b[J", drawn.len());
        }
        out.push_str(text);
        for line in lines {
            // Without wrapping, a narrow window cuts the line, and its rows are still counted right.
            let _ = writeln!(out, "\x1b[?7l{line}\x1b[?7h");
        }
        *drawn = lines.to_vec();
        let mut stdout = std::io::stdout().lock();
        let _gone = stdout.write_all(out.as_bytes()).and_then(|()| stdout.flush());
    }
}

impl Frame {
    fn hit_ratio(&self) -> f64 {
        100.0 * self.hits as f64 / (self.hits + self.misses).max(1) as f64
    }

    fn sizes(&self) -> String {
        let sizes = self.entries.iter().map(|(name, size)| match size {
            Some(size) => format!("{name} {size}"),
            None => format!("{name} down"),
        });
        sizes.collect::<Vec<_>>().join(" · ")
    }

    fn line(&self) -> String {
        format!(
            "{} reads/s, {:.1}% hits, {} loads/s, {} writes/s, {} invalidations/s, lag p50 {} p99 {} max {}, {}{}",
            self.reads,
            self.hit_ratio(),
            self.loads,
            self.writes,
            self.invalidations,
            ms(self.lag.p50),
            ms(self.lag.p99),
            ms(self.lag.max),
            self.sizes(),
            if self.worker { "" } else { ", worker down" },
        )
    }

    fn lines(&self) -> Vec<String> {
        vec![
            format!("  ├ reads          {:>8}/s   hits {:.1}%", self.reads, self.hit_ratio()),
            format!("  ├ origin loads   {:>8}/s   writes {}/s", self.loads, self.writes),
            format!("  ├ invalidations  {:>8}/s   {} in all", self.invalidations, self.invalidations_in_all),
            format!(
                "  ├ lag, 10 s      p50 {}   p99 {}   max {}",
                ms(self.lag.p50),
                ms(self.lag.p99),
                ms(self.lag.max)
            ),
            format!("  ├ entries        {}", self.sizes()),
            format!("  └ worker         {}", if self.worker { "up" } else { "down" }),
        ]
    }
}

/// Writes a duration with the precision that its length deserves.
pub(super) fn ms(duration: Duration) -> String {
    match duration.as_micros() {
        0..10_000 => format!("{:.1} ms", duration.as_secs_f64() * 1000.0),
        10_000..10_000_000 => format!("{} ms", duration.as_millis()),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}
