//! `ringtide park list`.

use std::time::Duration;

use clap::Args;
use futures_util::TryStreamExt;
use ringtide_core::clock::unix_ms;
use ringtide_core::park::{Kept, ParkReader};
use serde::Serialize;

use super::super::output::{Format, Output, Progress, span};
use super::super::{Common, Exit};
use super::{Failed, ended, reader};

/// Lists parked records, without their content.
#[derive(Debug, Args)]
pub(super) struct List {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// The most records that are listed.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// What is told of a parked record: all but its content.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    pub(super) id: String,
    pub(super) table: Option<String>,
    pub(super) stream_arn: Option<String>,
    pub(super) stream_shard: Option<String>,
    pub(super) sequence: Option<String>,
    pub(super) reason: String,
    pub(super) parked_at_ms: Option<u64>,
    pub(super) images_omitted: bool,
    /// The length of the content; `None` where it was not kept.
    pub(super) content_bytes: Option<usize>,
    /// Whether it is a parked record at all.
    pub(super) readable: bool,
}

#[derive(Serialize)]
struct Listing {
    place: String,
    records: Vec<Summary>,
    /// Whether there are more than the limit.
    more: bool,
}

impl List {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        let reader = match self.common.open().await.and_then(|config| reader(&config)) {
            Ok(reader) => reader,
            Err(exit) => return Ok(exit),
        };
        let listed = self.list(&*reader).await;
        ended(&*reader, listed).await
    }

    async fn list(&self, reader: &dyn ParkReader) -> Result<Exit, Failed> {
        let mut listing = Listing { place: reader.place(), records: Vec::new(), more: false };
        let mut progress = Progress::begin("records");
        let mut kept = reader.list();
        while let Some(kept) = kept.try_next().await? {
            if listing.records.len() >= self.limit as usize {
                listing.more = true;
                break;
            }
            listing.records.push(Summary::of(&kept));
            progress.at(listing.records.len() as u64, None);
        }
        drop(progress);
        listing.records.sort_by(|a, b| a.id.cmp(&b.id));
        let out = Output::from(self.format);
        let now = unix_ms();
        let rows: Vec<Vec<String>> = listing.records.iter().map(|record| record.row(now)).collect();
        out.table(&["id", "parked", "content", "reason"], &rows)?;
        match (listing.records.len(), listing.more) {
            (0, _) => out.line(format!("nothing is parked in {}", listing.place))?,
            (count, false) => out.line(format!("{count} parked in {}", listing.place))?,
            (count, true) => out.line(format!("the first {count} in {}; --limit shows more", listing.place))?,
        }
        out.json(&listing)?;
        Ok(Exit::Ok)
    }
}

impl Summary {
    pub(super) fn of(kept: &Kept) -> Self {
        let id = kept.id.clone();
        match &kept.record {
            Ok(record) => Self {
                id,
                table: record.table.clone(),
                stream_arn: record.stream_arn.clone(),
                stream_shard: record.stream_shard.clone(),
                sequence: record.sequence.map(|sequence| sequence.to_string()),
                reason: record.reason.clone(),
                parked_at_ms: Some(record.parked_at_ms),
                images_omitted: record.images_omitted,
                content_bytes: record.content.as_ref().map(|content| content.get().len()),
                readable: true,
            },
            Err(error) => Self {
                id,
                table: None,
                stream_arn: None,
                stream_shard: None,
                sequence: None,
                reason: error.to_string(),
                parked_at_ms: None,
                images_omitted: false,
                content_bytes: None,
                readable: false,
            },
        }
    }

    /// How long ago it was parked.
    pub(super) fn age(&self, now_ms: u64) -> String {
        let ago = self.parked_at_ms.map(|at| span(Duration::from_millis(now_ms.saturating_sub(at))));
        ago.map_or_else(|| "-".to_owned(), |ago| format!("{ago} ago"))
    }

    /// What there is of its content.
    pub(super) fn content(&self) -> String {
        match (self.content_bytes, self.images_omitted) {
            (None, _) => "none".to_owned(),
            (Some(bytes), true) => format!("{bytes} B, no images"),
            (Some(bytes), false) => format!("{bytes} B"),
        }
    }

    fn row(&self, now_ms: u64) -> Vec<String> {
        vec![self.id.clone(), self.age(now_ms), self.content(), self.reason.clone()]
    }
}
