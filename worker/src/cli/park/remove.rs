//! `ringtide park drop`.

use clap::Args;
use futures_util::TryStreamExt;
use ringtide_core::park::{Kept, ParkReader};
use serde::Serialize;

use super::super::output::{Format, Output, Progress};
use super::super::{Common, Exit};
use super::{Chosen, Failed, ended, find, reader};

/// Takes parked records away without delivering them.
#[derive(Debug, Args)]
pub(super) struct Drop {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    chosen: Chosen,
    /// Only tells what would be taken away.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Dropped {
    place: String,
    dry_run: bool,
    dropped: Vec<String>,
    missing: Vec<String>,
}

impl Drop {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        let reader = match self.common.open().await.and_then(|config| reader(&config)) {
            Ok(reader) => reader,
            Err(exit) => return Ok(exit),
        };
        let dropped = self.remove(&*reader).await;
        ended(&*reader, dropped).await
    }

    async fn remove(&self, reader: &dyn ParkReader) -> Result<Exit, Failed> {
        let mut dropped =
            Dropped { place: reader.place(), dry_run: self.dry_run, dropped: Vec::new(), missing: Vec::new() };
        let mut progress = Progress::begin("records");
        let mut one = async |kept: Kept| -> Result<(), Failed> {
            if !self.dry_run {
                reader.remove(&kept).await?;
            }
            dropped.dropped.push(kept.id);
            progress.at(dropped.dropped.len() as u64, None);
            Ok(())
        };
        if self.chosen.all {
            let mut all = reader.list();
            while let Some(kept) = all.try_next().await? {
                one(kept).await?;
            }
        }
        let mut missing = Vec::new();
        for id in &self.chosen.ids {
            match find(reader, id).await? {
                Some(found) => {
                    for kept in found {
                        one(kept).await?;
                    }
                }
                None => missing.push(id.clone()),
            }
        }
        std::mem::drop(progress);
        dropped.missing = missing;
        let out = Output::from(self.format);
        for id in &dropped.dropped {
            out.line(id)?;
        }
        let done = if self.dry_run { "would be dropped from" } else { "dropped from" };
        out.line(format!("{} {done} {}", dropped.dropped.len(), dropped.place))?;
        out.json(&dropped)?;
        Ok(if dropped.missing.is_empty() { Exit::Ok } else { Exit::Failed })
    }
}
