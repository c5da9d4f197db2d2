//! `ringtide park show`.

use clap::Args;
use ringtide_core::clock::unix_ms;
use ringtide_core::park::{Kept, ParkReader};
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::output::{Format, Output};
use super::super::{Common, Exit};
use super::list::Summary;
use super::{Failed, ended, find, reader};

/// Shows one parked record: its position, the reason and its primary key.
#[derive(Debug, Args)]
pub(super) struct Show {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// Its id, as `park list` shows it.
    id: String,
    /// Shows the whole record too, which holds the item's values.
    #[arg(long)]
    content: bool,
}

#[derive(Serialize)]
struct Shown<'k> {
    #[serde(flatten)]
    summary: Summary,
    /// The record's primary key in DynamoDB's JSON.
    keys: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'k RawValue>,
}

impl Show {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        let reader = match self.common.open().await.and_then(|config| reader(&config)) {
            Ok(reader) => reader,
            Err(exit) => return Ok(exit),
        };
        let shown = self.show(&*reader).await;
        ended(&*reader, shown).await
    }

    async fn show(&self, reader: &dyn ParkReader) -> Result<Exit, Failed> {
        let Some(found) = find(reader, &self.id).await? else { return Ok(Exit::Failed) };
        // The same record, where a queue holds it more than once.
        let Some(kept) = found.first() else { return Ok(Exit::Failed) };
        let content = kept.record.as_ref().ok().and_then(|record| record.content.as_ref());
        let shown = Shown {
            summary: Summary::of(kept),
            keys: keys_of(kept),
            content: content.filter(|_| self.content).map(|content| content.as_raw()),
        };
        let out = Output::from(self.format);
        let summary = &shown.summary;
        let unknown = || "unknown".to_owned();
        let lines = [
            ("id", summary.id.clone()),
            ("table", summary.table.clone().unwrap_or_else(unknown)),
            ("stream", summary.stream_arn.clone().unwrap_or_else(unknown)),
            ("stream shard", summary.stream_shard.clone().unwrap_or_else(unknown)),
            ("sequence", summary.sequence.clone().unwrap_or_else(unknown)),
            ("parked", summary.age(unix_ms())),
            ("reason", summary.reason.clone()),
            ("keys", shown.keys.as_ref().map_or_else(unknown, |keys| keys.get().to_owned())),
            ("content", summary.content()),
        ];
        for (name, value) in lines {
            out.line(format!("{name:<14}{value}"))?;
        }
        if found.len() > 1 {
            out.line(format!("{:<14}{} times", "kept", found.len()))?;
        }
        if let Some(content) = shown.content {
            out.line(content.get())?;
        }
        out.json(&shown)?;
        Ok(Exit::Ok)
    }
}

/// The primary key of a record that may have no other readable part.
fn keys_of(kept: &Kept) -> Option<Box<RawValue>> {
    #[derive(serde::Deserialize)]
    struct Record {
        dynamodb: Change,
    }
    #[derive(serde::Deserialize)]
    struct Change {
        #[serde(rename = "Keys")]
        keys: Box<RawValue>,
    }
    let content = kept.record.as_ref().ok()?.content.as_ref()?;
    serde_json::from_str::<Record>(content.get()).ok().map(|record| record.dynamodb.keys)
}
