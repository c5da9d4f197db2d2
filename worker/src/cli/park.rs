//! `ringtide park`: what lies among the parked records, and what becomes of it.

mod list;
mod remove;
mod requeue;
mod show;

use std::sync::Arc;

use clap::{Args, Subcommand};
use ringtide_core::aws;
use ringtide_core::config::Config;
use ringtide_core::park::{Kept, ParkError, ParkReader};

use super::Exit;
use super::output::waiting;

/// Lists, shows, requeues and drops parked records.
#[derive(Debug, Args)]
pub(super) struct Park {
    #[command(subcommand)]
    command: ParkCommand,
}

#[derive(Debug, Subcommand)]
enum ParkCommand {
    /// Lists parked records, without their content.
    List(list::List),
    /// Shows one parked record: its position, the reason and its primary key.
    Show(show::Show),
    /// Delivers parked records again, as invalidations, and takes them away.
    Requeue(requeue::Requeue),
    /// Takes parked records away without delivering them.
    Drop(remove::Drop),
}

/// Which parked records a command is about.
#[derive(Debug, Args)]
struct Chosen {
    /// Ids, as `park list` shows them.
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<String>,
    /// All parked records.
    #[arg(long, conflicts_with = "ids")]
    all: bool,
}

impl Park {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        match self.command {
            ParkCommand::List(list) => list.run().await,
            ParkCommand::Show(show) => show.run().await,
            ParkCommand::Requeue(requeue) => requeue.run().await,
            ParkCommand::Drop(drop) => drop.run().await,
        }
    }
}

/// The place where the configuration has records parked.
fn reader(config: &Config) -> Result<Arc<dyn ParkReader>, Exit> {
    aws::park_reader(config).ok_or_else(|| {
        tracing::error!("no record is parked anywhere: set park.to, see docs/parking.md");
        Exit::Configuration
    })
}

/// Finds what is parked under an id; `None`, and a line of the log, where there is nothing.
async fn find(reader: &dyn ParkReader, id: &str) -> Result<Option<Vec<Kept>>, ParkError> {
    let found = waiting("looking for the record", reader.find(id)).await?;
    if found.is_empty() {
        tracing::error!(id, place = reader.place(), "nothing is parked under this id; `ringtide park list` shows all");
        return Ok(None);
    }
    Ok(Some(found))
}

/// Ends the reading, and tells what the work came to.
async fn ended(reader: &dyn ParkReader, outcome: Result<Exit, Failed>) -> std::io::Result<Exit> {
    if let Err(error) = reader.done().await {
        tracing::warn!(%error, "what was read comes back to its queue only after a while");
    }
    match outcome {
        Ok(exit) => Ok(exit),
        Err(Failed::Park(error)) => {
            tracing::error!("{error}; check park.to, and that the credentials allow reading it");
            Ok(Exit::Failed)
        }
        Err(Failed::Exit(exit)) => Ok(exit),
        Err(Failed::Output(error)) => Err(error),
    }
}

/// Why a command on parked records broke off.
#[derive(Debug)]
enum Failed {
    Park(ParkError),
    Exit(Exit),
    Output(std::io::Error),
}

impl From<ParkError> for Failed {
    fn from(error: ParkError) -> Self {
        Self::Park(error)
    }
}

impl From<Exit> for Failed {
    fn from(exit: Exit) -> Self {
        Self::Exit(exit)
    }
}

impl From<std::io::Error> for Failed {
    fn from(error: std::io::Error) -> Self {
        Self::Output(error)
    }
}
