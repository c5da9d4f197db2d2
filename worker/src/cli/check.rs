//! `ringtide check`: the configuration against the live tables and ring shards, everything that is wrong at once.

mod ring;
mod tables;

use std::fmt;

use clap::Args;
use ringtide_core::aws;
use ringtide_core::config::{Config, Violation};
use serde::Serialize;

use super::output::{Format, Output, waiting};
use super::{Common, Exit};

/// Checks the configuration against the live tables and ring shards; everything that is wrong at once.
///
/// Reads only: descriptions, one page of each stream, what servers tell about themselves. Permissions to write to the lease
/// table are tried with writes whose conditions cannot hold. Exits with 1 where there is an error, and with 2 where the
/// configuration itself cannot be used.
#[derive(Debug, Args)]
pub(super) struct Check {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// Takes warnings for errors.
    #[arg(long)]
    strict: bool,
}

/// Something that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    severity: Severity,
    /// What it is about: `table products`, `ring shard a`.
    place: String,
    finding: String,
    /// What to do about it; empty for a note.
    #[serde(skip_serializing_if = "String::is_empty")]
    remedy: String,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Severity {
    /// It does not work.
    Error,
    /// It works, and something may be lost or slow one day.
    Warning,
    /// Good to know.
    Note,
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    errors: usize,
    warnings: usize,
    findings: Vec<Finding>,
}

impl Check {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        let config = match self.common.open().await {
            Ok(config) => config,
            Err(exit) => return Ok(exit),
        };
        let checking = async { tokio::join!(tables::check(&config), ring::check(&config), park(&config)) };
        let (tables, shards, park) = waiting("asking tables and ring shards", checking).await;
        let mut findings: Vec<Finding> = [tables, shards, park].concat();
        // The worst first, otherwise in the order in which they were found.
        findings.sort_by_key(|finding| finding.severity);
        let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let ok = errors == 0 && (warnings == 0 || !self.strict);
        let report = Report { ok, errors, warnings, findings };
        self.print(&report)?;
        Ok(if ok { Exit::Ok } else { Exit::Failed })
    }

    fn print(&self, report: &Report) -> std::io::Result<()> {
        let out = Output::from(self.format);
        for Finding { severity, place, finding, remedy } in &report.findings {
            let remedy = if remedy.is_empty() { String::new() } else { format!("; {remedy}") };
            out.line(format!("{severity:<8}{place}: {finding}{remedy}"))?;
        }
        let plural = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
        out.line(format!("{}, {}", plural(report.errors, "error"), plural(report.warnings, "warning")))?;
        out.json(report)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

impl Finding {
    fn error(place: impl Into<String>, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Error, place: place.into(), finding: finding.into(), remedy: remedy.into() }
    }

    fn warning(place: impl Into<String>, finding: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(place, finding, remedy) }
    }

    fn note(place: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { severity: Severity::Note, ..Self::error(place, finding, "") }
    }
}

impl From<Violation> for Finding {
    fn from(Violation { place, problem, remedy }: Violation) -> Self {
        Self::error(place, problem, remedy)
    }
}

/// The most parked records that are counted.
const MOST_PARKED: u64 = 1000;

/// Whether the place for parked records can be read, and how many are there.
async fn park(config: &Config) -> Vec<Finding> {
    let Some(reader) = aws::park_reader(config) else {
        let finding = "there is no place for records that cannot be used: they are logged, and their content is lost";
        return vec![Finding::warning("park.to", finding, "name a queue, a bucket, a table or a directory")];
    };
    let place = format!("park.to, {}", reader.place());
    match reader.count(MOST_PARKED).await {
        Ok(0) => Vec::new(),
        Ok(count) => {
            let more = if count == MOST_PARKED { "or more " } else { "" };
            let remedy = "look at them with `ringtide park list`";
            vec![Finding::warning(place, format!("{count} {more}records are parked"), remedy)]
        }
        Err(error) => {
            vec![Finding::error(place, error.to_string(), "create it, or check the credentials and what they allow")]
        }
    }
}
