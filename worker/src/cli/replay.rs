//! `ringtide replay`: delivers a table's records again, from a time or a sequence number on.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodbstreams::primitives::{DateTime, DateTimeFormat};
use clap::{ArgGroup, Args};
use ringtide_core::clock::unix_ms;
use ringtide_core::config::parse_duration;
use ringtide_core::record::SequenceNumber;
use ringtide_core::route::RouteAction;

use super::leases::{print, set_back};
use super::operator::{self, Operator, Refusal};
use super::output::{Format, Output, Progress};
use super::{Common, Exit};
use crate::lease::Checkpoint;
use crate::replay::{From, find};
use crate::stream::ShardId;

/// How long a stream keeps its records.
const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// Delivers a table's records again: pauses it, sets its checkpoints back, and lets its workers go on from there.
///
/// Invalidations that are repeated cost misses and nothing else. A route that refreshes may show an older image for a moment,
/// until the replay has reached the newest record: where its key space has no version attribute, over "does not exist", and
/// where it populates.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("from").required(true).args(["since", "from_sequence"])))]
pub(super) struct Replay {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    /// The table.
    #[arg(long)]
    table: String,
    /// From this time on (2026-11-21T10:00:00Z), or so long before now (30m). Streams tell whole seconds.
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<u64>,
    /// From this sequence number on, that record included.
    #[arg(long, value_name = "NUMBER", value_parser = sequence)]
    from_sequence: Option<SequenceNumber>,
    /// Only this stream shard and all that continues it.
    #[arg(long, value_name = "SHARD")]
    shard: Option<String>,
    /// Only shows what would be written; the stream is read all the same.
    #[arg(long)]
    dry_run: bool,
}

/// Reads a time, or a duration before now, as unix seconds.
fn since(text: &str) -> Result<u64, String> {
    if let Some(ago) = parse_duration(text) {
        return Ok(unix_ms().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)) / 1000);
    }
    let time = DateTime::from_str(text, DateTimeFormat::DateTimeWithOffset).ok();
    let second = time.and_then(|time| u64::try_from(time.secs()).ok());
    second.ok_or_else(|| "write a time such as 2026-11-21T10:00:00Z, or a duration such as 30m, 2h or 90s".to_owned())
}

fn sequence(text: &str) -> Result<SequenceNumber, String> {
    text.parse().map_err(|error: ringtide_core::record::InvalidSequenceNumber| error.to_string())
}

impl Replay {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        operator::exit(self.replay().await)
    }

    async fn replay(self) -> Result<Exit, Refusal> {
        let operator = Operator::new(&self.common).await?;
        let output = Output::from(self.format);
        operator.tables(Some(&self.table))?;
        let from = match (self.since, self.from_sequence) {
            (Some(second), _) => From::Second(second),
            (None, Some(number)) => From::Sequence(number),
            (None, None) => return Err(Refusal::Configuration("say --since or --from-sequence".to_owned())),
        };
        if let From::Second(second) = from {
            let now = unix_ms() / 1000;
            if second > now {
                return Err(Refusal::Configuration("--since lies in the future".to_owned()));
            }
            if now - second > RETENTION.as_secs() {
                tracing::warn!(
                    "the stream keeps records for 24 hours: what is older is not delivered again; flush the table's key spaces for it"
                );
            }
        }
        operator.known_leases().await?;
        let found = operator.stream(&self.table).await?;
        let listing = operator.listing(&found.stream).await?;
        let only = self.shard.as_deref().map(ShardId::from);
        if let Some(only) = only.as_ref().filter(|only| !listing.shards.iter().any(|shard| shard.id == **only)) {
            let known: Vec<&str> = listing.shards.iter().map(|shard| shard.id.as_str()).collect();
            let known = known.join(", ");
            return Err(Refusal::Configuration(format!("the stream lists no shard {only}; it lists: {known}")));
        }
        self.warn_of_refreshes(&operator);
        let targets: BTreeMap<ShardId, Checkpoint> = {
            let progress = Mutex::new(Progress::begin("records read"));
            let told = |read| progress.lock().unwrap_or_else(PoisonError::into_inner).at(read, None);
            let search = find::find(&operator.source, &found.stream, &listing, only.as_ref(), from, &told);
            search.await.map_err(|error| Refusal::Failed(format!("the stream cannot be read: {error}")))?
        };
        let written = set_back(&operator, &found, &targets, self.dry_run).await?;
        print(output, &written, self.dry_run)?;
        Ok(Exit::Ok)
    }

    /// Says what a replay means where images are stored.
    fn warn_of_refreshes(&self, operator: &Operator) {
        let refreshes = |action: &RouteAction| matches!(action, RouteAction::Refresh { .. });
        let routes = operator.config.routes.iter().filter(|route| route.table == self.table);
        let places: Vec<&str> =
            routes.filter(|route| refreshes(&route.action)).map(|route| route.place.as_str()).collect();
        if !places.is_empty() {
            tracing::warn!(
                routes = places.join(", "),
                "these routes store images: until the replay has reached the newest record, an older one may be served for a moment"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_read_in_either_form() {
        assert_eq!(since("2026-11-21T10:00:00Z"), Ok(1_795_255_200));
        assert_eq!(since("2026-11-21T11:00:00.5+01:00"), Ok(1_795_255_200));
        let ago = since("30m").unwrap();
        assert!((unix_ms() / 1000 - ago).abs_diff(1800) <= 1);
        assert!(since("yesterday").unwrap_err().contains("30m"));
    }
}
