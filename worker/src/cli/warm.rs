//! `ringtide warm`: fills what refresh routes would store.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::Args;
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::operator::{self, Operator, Refusal};
use super::output::{Format, Output, Progress};
use super::{Common, Exit};
use crate::ceiling::Ceiling;
use crate::ring_shards::RingShards;
use crate::shutdown::Signals;
use crate::table;
use crate::warm::position::Positions;
use crate::warm::{self, Counts};

/// Keys that a dry run shows.
const SHOWN: usize = 10;

/// Fills what a table's refresh routes would store, from a scan of the table, while the stream goes on: a change that is
/// delivered meanwhile wins.
#[derive(Debug, Args)]
pub(super) struct Warm {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// The table.
    #[arg(long)]
    table: String,
    /// Parts of the table that are scanned side by side.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    segments: u32,
    /// Items in a second, over all segments. Each is read twice: by the scan, and strongly consistent.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// A file that says how far it has come, and where it goes on if the file exists. Removed at the end.
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    /// Only shows which keys the first items lead to.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Serialize)]
struct Shown {
    table: String,
    dry_run: bool,
    /// Whether every item was seen.
    complete: bool,
    /// About how many items the table has.
    about: u64,
    #[serde(flatten)]
    counts: Counts,
    /// Keys that would be filled, of the first items.
    keys: Vec<String>,
}

impl Warm {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        operator::exit(self.warm().await)
    }

    async fn warm(self) -> Result<Exit, Refusal> {
        let operator = Operator::new(&self.common).await?;
        let output = Output::from(self.format);
        operator.tables(Some(&self.table))?;
        let shards = RingShards::connect(&operator.config).map_err(Refusal::violations)?;
        let ceiling = Ceiling::new(self.rate);
        let client = &operator.clients.tables;
        let described = table::describe(client, &self.table).await.map_err(Refusal::failed)?;
        let warm = warm::Warm::new(&operator.config, &self.table, described.primary, client, &shards, &ceiling);
        let warm = warm.ok_or_else(|| {
            Refusal::Configuration(format!(
                "no route of {} stores images, so that only its readers know what to cache; a route with action = \"refresh\" can be warmed",
                self.table
            ))
        })?;
        let mut shown = Shown {
            table: self.table.clone(),
            dry_run: self.dry_run,
            complete: false,
            about: described.items,
            counts: Counts::default(),
            keys: Vec::new(),
        };
        if self.dry_run {
            let commands = warm.first_keys().await.map_err(Refusal::failed)?;
            shown.keys = commands.iter().take(SHOWN).map(|command| command.key.to_string()).collect();
            output.json(&shown)?;
            for key in &shown.keys {
                output.line(format!("{key} would be filled"))?;
            }
            output.line(format!("about {} items in all, at {} a second", shown.about, self.rate))?;
            return Ok(Exit::Ok);
        }
        let unreachable = shards.ready(std::time::Duration::from_secs(5)).await;
        if let Some(error) = unreachable.first() {
            return Err(Refusal::failed(error));
        }
        let segments = usize::try_from(self.segments).unwrap_or(1);
        let positions = Positions::open_file(self.resume.as_deref(), &self.table, segments)
            .map_err(|error| Refusal::Configuration(error.to_string()))?;
        let (signals, stop) = (Signals::listen()?, CancellationToken::new());
        let progress = Mutex::new(Progress::begin("items"));
        let told = |counts: Counts| {
            let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
            progress.at(counts.items, Some(described.items).filter(|items| *items >= counts.items));
        };
        let warmed = {
            let mut running = std::pin::pin!(warm.run(&positions, &stop, &told));
            tokio::select! {
                warmed = &mut running => warmed,
                () = signals.asked() => {
                    stop.cancel();
                    running.await
                }
            }
        };
        drop(progress);
        shown.counts = warmed.map_err(|error| Refusal::Failed(format!("{error}{}", self.go_on())))?;
        shown.complete = positions.open().is_empty();
        output.json(&shown)?;
        let Counts { items, filled, cached, loading, overtaken, without_image } = shown.counts;
        output.line(format!(
            "{items} items: {filled} filled, {cached} cached already, {loading} being loaded, {overtaken} overtaken by a change, {without_image} without an image"
        ))?;
        if !shown.complete {
            output.line(format!("stopped before the end{}", self.go_on()))?;
        }
        Ok(if shown.complete { Exit::Ok } else { Exit::Failed })
    }

    fn go_on(&self) -> String {
        match &self.resume {
            Some(file) => format!("; the same command with --resume {} goes on", file.display()),
            None => "; with --resume FILE it could be gone on with".to_owned(),
        }
    }
}
