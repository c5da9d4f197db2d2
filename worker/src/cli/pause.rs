//! `ringtide pause`: stops the deliveries of a table, or of all, through the lease table alone.

use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::operator::{self, Operator, Refusal, leases};
use super::output::{Format, Output, Progress};
use super::{Common, Exit};
use crate::lease::Lease;
use crate::pausing;

/// Stops the deliveries of a table, or of all tables, until `ringtide resume`.
///
/// The records stay in the stream for 24 hours: a pause that is longer loses some of them, which is a gap.
#[derive(Debug, Args)]
pub(super) struct Pause {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// Only this table.
    #[arg(long)]
    table: Option<String>,
    /// Takes the leases without asking their holders, so that some deliveries are repeated after the pause. Without it they
    /// have worker.lease_timeout to hand over.
    #[arg(long)]
    force: bool,
    /// Does not wait, where a lease had to be taken by force, until its holder cannot act under it any more: for
    /// worker.lease_timeout.
    #[arg(long)]
    no_wait: bool,
    /// Only shows what would be taken.
    #[arg(long)]
    dry_run: bool,
}

/// What became of one table.
#[derive(Debug, Serialize)]
struct Line {
    table: String,
    stream: String,
    leases: usize,
    /// Leases that were not handed over in time.
    forced: usize,
    already_paused: bool,
}

#[derive(Debug, Serialize)]
struct Shown {
    dry_run: bool,
    paused: Vec<Line>,
}

impl Pause {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        operator::exit(self.pause().await)
    }

    async fn pause(self) -> Result<Exit, Refusal> {
        let operator = Operator::new(&self.common).await?;
        let output = Output::from(self.format);
        let mut shown = Shown { dry_run: self.dry_run, paused: Vec::new() };
        let timeout = operator.config.worker.lease_timeout;
        let patience = if self.force { Duration::ZERO } else { timeout };
        for found in operator.streams_of(self.table.as_deref()).await? {
            let (table, stream) = (found.table.to_string(), found.stream.arn.clone());
            let line = if self.dry_run {
                let found = pausing::leases_of(&operator.leases, &found.name).await.map_err(Refusal::failed)?;
                let already_paused = found.values().any(Lease::is_paused);
                Line { table, stream, leases: found.len(), forced: 0, already_paused }
            } else {
                let listing = operator.listing(&found.stream).await?;
                let (began, mut progress) =
                    (Instant::now(), Progress::begin("waiting for workers to hand over, seconds"));
                let mut told = |_| progress.at(began.elapsed().as_secs(), Some(patience.as_secs()));
                let paused = pausing::pause(&operator.leases, &found.name, &listing, patience, &mut told).await?;
                Line { table, stream, leases: paused.held.len(), forced: paused.forced, already_paused: paused.already }
            };
            shown.paused.push(line);
        }
        if !self.no_wait && shown.paused.iter().any(|line| line.forced > 0) {
            settle(timeout).await;
        }
        output.json(&shown)?;
        for line in &shown.paused {
            output.line(match (self.dry_run, line.already_paused) {
                (_, true) => format!("{}: was paused already ({})", line.table, leases(line.leases)),
                (true, false) => format!("{}: {} would be taken", line.table, leases(line.leases)),
                (false, false) => format!("{}: paused ({})", line.table, leases(line.leases)),
            })?;
            if line.forced > 0 {
                output.line(format!(
                    "{}: not handed over in time, and taken by force: {}",
                    line.table,
                    leases(line.forced)
                ))?;
            }
        }
        if !self.dry_run {
            output.line("`ringtide resume` goes on; the stream keeps its records for 24 hours")?;
        }
        Ok(Exit::Ok)
    }
}

/// Waits until no worker takes a lease that it lost for its own.
async fn settle(timeout: Duration) {
    let began = Instant::now();
    let mut progress = Progress::begin("waiting for workers to notice, seconds");
    while began.elapsed() < timeout {
        tokio::time::sleep(Duration::from_millis(100)).await;
        progress.at(began.elapsed().as_secs(), Some(timeout.as_secs()));
    }
}
