//! `ringtide resume`: lets the workers go on after `ringtide pause`.

use clap::Args;
use serde::Serialize;

use super::operator::{self, Operator, Refusal, leases};
use super::output::{Format, Output};
use super::{Common, Exit};
use crate::pausing;

/// Lets the workers go on where they were when `ringtide pause` stopped them.
#[derive(Debug, Args)]
pub(super) struct Resume {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// Only this table.
    #[arg(long)]
    table: Option<String>,
    /// Only shows what would be given back.
    #[arg(long)]
    dry_run: bool,
}

/// What became of one stream.
#[derive(Debug, Serialize)]
struct Line {
    table: String,
    stream: String,
    leases: usize,
}

#[derive(Debug, Serialize)]
struct Shown {
    dry_run: bool,
    resumed: Vec<Line>,
}

impl Resume {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        operator::exit(self.resume().await)
    }

    async fn resume(self) -> Result<Exit, Refusal> {
        let operator = Operator::new(&self.common).await?;
        let output = Output::from(self.format);
        let mut shown = Shown { dry_run: self.dry_run, resumed: Vec::new() };
        for found in operator.streams_of(self.table.as_deref()).await? {
            let leases = if self.dry_run {
                let all = pausing::leases_of(&operator.leases, &found.name).await.map_err(Refusal::failed)?;
                all.values().filter(|lease| lease.is_paused()).count()
            } else {
                pausing::resume(&operator.leases, &found.name).await?
            };
            shown.resumed.push(Line { table: found.table.to_string(), stream: found.stream.arn.clone(), leases });
        }
        output.json(&shown)?;
        for line in &shown.resumed {
            output.line(match (self.dry_run, line.leases) {
                (_, 0) => format!("{}: was not paused", line.table),
                (true, count) => format!("{}: {} would be given back", line.table, leases(count)),
                (false, count) => format!("{}: goes on ({} given back)", line.table, leases(count)),
            })?;
        }
        Ok(Exit::Ok)
    }
}
