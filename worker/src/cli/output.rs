//! What commands say: text for people or one JSON document on standard output, progress on standard error.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::Args;
use serde::Serialize;

/// How a command's answer is written.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Format {
    /// Prints one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

/// Where a command's answer goes: every method writes in one of the two forms only, so that a command calls them
/// without asking which was chosen.
#[derive(Clone, Copy, Debug)]
pub(super) struct Output {
    json: bool,
}

impl From<Format> for Output {
    fn from(format: Format) -> Self {
        Self { json: format.json }
    }
}

impl Output {
    /// Prints a line of text; nothing where JSON was asked for.
    pub(super) fn line(self, text: impl AsRef<str>) -> io::Result<()> {
        if self.json { Ok(()) } else { print(&printable(text.as_ref(), true)) }
    }

    /// Prints columns below their headers, and nothing without rows or where JSON was asked for.
    pub(super) fn table(self, headers: &[&str], rows: &[Vec<String>]) -> io::Result<()> {
        if self.json || rows.is_empty() { Ok(()) } else { print(&columns(headers, rows)) }
    }

    /// Prints a value as one JSON document; nothing where text was asked for.
    pub(super) fn json(self, value: &impl Serialize) -> io::Result<()> {
        if self.json { print(&serde_json::to_string_pretty(value)?) } else { Ok(()) }
    }
}

/// The one place that writes to standard output. Whoever stops reading has read enough.
fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// Aligns the columns; the last one is not padded.
fn columns(headers: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |row: &[String]| row.iter().map(|cell| printable(cell, false)).collect::<Vec<_>>();
    let headers: Vec<String> = headers.iter().map(|header| header.to_uppercase()).collect();
    let rows: Vec<Vec<String>> = std::iter::once(headers).chain(rows.iter().map(|row| cells(row))).collect();
    let widest = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..rows.iter().map(Vec::len).max().unwrap_or_default()).map(widest).collect();
    let lines = rows.iter().map(|row| {
        let padded = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Escapes control characters: keys and reasons come from elsewhere, and a terminal obeys them.
fn printable(text: &str, lines: bool) -> String {
    let escaped = |c: char| c.is_control() && !(lines && matches!(c, '\n' | '\t'));
    if !text.contains(escaped) {
        return text.to_owned();
    }
    let escape = |c: char| if escaped(c) { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(escape).collect()
}

/// A time span in one or two units, for people: `5s`, `3h 12m`.
pub(super) fn span(time: Duration) -> String {
    let s = time.as_secs();
    let two = |large: u64, large_unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large}{large_unit}"),
        small => format!("{large}{large_unit} {small}{small_unit}"),
    };
    match s {
        0 => format!("{}ms", time.as_millis()),
        1..60 => format!("{s}s"),
        60..3600 => two(s / 60, "m", s % 60, "s"),
        3600..86_400 => two(s / 3600, "h", s % 3600 / 60, "m"),
        _ => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

/// Shows on standard error how far something has come: a line that is rewritten on a terminal, a line now and then
/// elsewhere. Says nothing of what takes less than a second.
#[derive(Debug)]
pub(super) struct Progress {
    what: String,
    begun: Instant,
    said: Instant,
    terminal: bool,
    shown: bool,
}

impl Progress {
    /// Begins; `what` is said before each count.
    pub(super) fn begin(what: impl Into<String>) -> Self {
        let now = Instant::now();
        Self { what: what.into(), begun: now, said: now, terminal: io::stderr().is_terminal(), shown: false }
    }

    /// Tells how much is done, of how much where that is known. May be called as often as one likes.
    pub(super) fn at(&mut self, done: u64, of: Option<u64>) {
        self.say(|what, taken| progress(what, done, of, taken));
    }

    fn say(&mut self, text: impl FnOnce(&str, Duration) -> String) {
        let pause = match (self.terminal, self.shown) {
            (true, true) => Duration::from_millis(200),
            (false, true) => Duration::from_secs(5),
            (_, false) => Duration::from_secs(1),
        };
        if self.said.elapsed() < pause {
            return;
        }
        (self.said, self.shown) = (Instant::now(), true);
        let text = text(&self.what, self.begun.elapsed());
        let mut out = io::stderr().lock();
        let said = if self.terminal { write!(out, "\r\x1b[K{text}") } else { writeln!(out, "{text}") };
        // A closed standard error keeps nobody from working.
        let _unseen = said.and_then(|()| out.flush());
    }
}

/// Waits for work that tells nothing of how far it has come, and says for how long it has been at it.
pub(super) async fn waiting<T>(what: &str, work: impl Future<Output = T>) -> T {
    let mut progress = Progress::begin(what);
    let mut work = std::pin::pin!(work);
    loop {
        match tokio::time::timeout(Duration::from_millis(250), &mut work).await {
            Ok(done) => return done,
            Err(_) => progress.say(|what, taken| format!("{what}: {}s so far", taken.as_secs())),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.terminal && self.shown {
            let mut out = io::stderr().lock();
            let _unseen = write!(out, "\r\x1b[K").and_then(|()| out.flush());
        }
    }
}

fn progress(what: &str, done: u64, of: Option<u64>, taken: Duration) -> String {
    let rate = done as f64 / taken.as_secs_f64().max(0.001);
    let Some(of) = of.filter(|of| *of > 0) else {
        return format!("{what}: {done} ({rate:.0}/s, {}s)", taken.as_secs());
    };
    let part = done.min(of) as f64 / of as f64;
    let left =
        if rate > 0.0 { format!("{:.0}s left", of.saturating_sub(done) as f64 / rate) } else { "waiting".into() };
    format!("{what}: {done} of {of}, {:.0}% ({rate:.0}/s, {left})", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), "12".to_owned()], vec!["longer".to_owned(), "3".to_owned()]];
        assert_eq!(columns(&["key", "n"], &rows), "KEY     N\na       12\nlonger  3");
    }

    #[test]
    fn no_cell_commands_the_terminal() {
        let rows = [vec!["a\x1b[2Jb\n".to_owned()]];
        assert_eq!(columns(&["key"], &rows), "KEY\na\\u{1b}[2Jb\\n");
        assert_eq!(printable("two\nlines\x07", true), "two\nlines\\u{7}");
    }

    #[test]
    fn a_span_has_at_most_two_units() {
        let spans = [(20, "20ms"), (5_000, "5s"), (90_000, "1m 30s"), (11_520_000, "3h 12m"), (172_800_000, "2d")];
        for (ms, expected) in spans {
            assert_eq!(span(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn progress_tells_the_pace_and_what_is_left() {
        let taken = Duration::from_secs(2);
        assert_eq!(progress("keys", 10, None, taken), "keys: 10 (5/s, 2s)");
        assert_eq!(progress("keys", 10, Some(40), taken), "keys: 10 of 40, 25% (5/s, 6s left)");
        assert_eq!(progress("keys", 0, Some(40), taken), "keys: 0 of 40, 0% (0/s, waiting)");
    }
}
