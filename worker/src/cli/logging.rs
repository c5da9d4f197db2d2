//! Where log lines go, and how they look.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Begins to log to standard error; `RINGTIDE_LOG`, or else `RUST_LOG`, chooses levels, `info` without them. Once more is
/// a no-op.
pub(super) fn begin(format: LogFormat) {
    begin_at(format, "info");
}

/// As [`begin`], for commands whose output says what they do: `warn` where nothing else is chosen.
pub(super) fn begin_quietly(format: LogFormat) {
    begin_at(format, "warn");
}

fn begin_at(format: LogFormat, level: &str) {
    let chosen = EnvFilter::try_from_env("RINGTIDE_LOG").or_else(|_| EnvFilter::try_from_default_env());
    let filter = chosen.unwrap_or_else(|_| EnvFilter::new(level));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let begun = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    if let Err(error) = begun {
        tracing::debug!(error, "somebody else logs already");
    }
}
