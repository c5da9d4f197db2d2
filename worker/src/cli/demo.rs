//! `ringtide demo`: the whole job on real servers; and the processes of its herd.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::Exit;
use crate::demo::{self, Settings};

/// Runs the whole job on real servers for about a minute, kills some of them on the way, and audits the cache.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// How long it takes.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(15..=3600))]
    seconds: u64,
    /// Ring shards.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=32))]
    shards: u16,
    /// Readers at once.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=1000))]
    readers: u16,
    /// Writers at once.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=100))]
    writers: u16,
    /// Seeds what is read and written; the order of events stays the machine's.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keeps a route from the worker, so that promises break.
    #[arg(long = "break", hide = true)]
    broken: bool,
}

/// A process of the demo's herd.
#[derive(Debug, Args)]
pub(super) struct DemoHerd {
    #[arg(long)]
    config: PathBuf,
    #[arg(long)]
    endpoint_url: String,
    #[arg(long)]
    pk: String,
    #[arg(long)]
    readers: usize,
}

impl Demo {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        let settings = Settings {
            length: Duration::from_secs(self.seconds),
            shards: self.shards.into(),
            readers: self.readers.into(),
            writers: self.writers.into(),
            seed: self.seed,
            broken: self.broken,
        };
        let (mut interrupt, mut terminate, mut hang_up) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        // Whatever comes first, the servers end with the play.
        let played = tokio::select! {
            played = demo::play(&settings) => Some(played),
            _ = interrupt.recv() => None,
            _ = terminate.recv() => None,
            _ = hang_up.recv() => None,
        };
        match played {
            Some(Ok(true)) => return Ok(Exit::Ok),
            Some(Ok(false)) => {}
            Some(Err(error)) => say(&format!("the demo cannot go on: {error}"))?,
            None => say("interrupted: the servers are ended")?,
        }
        Ok(Exit::Failed)
    }
}

impl DemoHerd {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        match demo::join_herd(&self.config, &self.endpoint_url, &self.pk, self.readers).await {
            Ok(()) => Ok(Exit::Ok),
            Err(error) => {
                say(&error.to_string())?;
                Ok(Exit::Failed)
            }
        }
    }
}

fn say(text: &str) -> std::io::Result<()> {
    writeln!(std::io::stderr(), "{text}")
}
