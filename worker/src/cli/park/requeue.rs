//! `ringtide park requeue`: parked records through the pipeline again, as invalidations, since newer records have
//! overtaken them; what is delivered is taken away.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use futures_util::TryStreamExt;
use ringtide_core::config::Config;
use ringtide_core::park::{Kept, ParkReader};
use ringtide_core::record::{ChangeRecord, RawRecord, UnreadableRecord, record_from_json};
use ringtide_core::route::{Router, WhyNot};
use serde::Serialize;

use super::super::output::{Format, Output, Progress};
use super::super::ring::{Delivery, ShardReport};
use super::super::{Common, Exit};
use super::{Chosen, Failed, ended, find, reader};

/// Records that are delivered at once.
const PAGE: usize = 100;

/// Delivers parked records again, as invalidations, and takes them away.
#[derive(Debug, Args)]
pub(super) struct Requeue {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    chosen: Chosen,
    /// A mended record in DynamoDB's JSON, that is delivered in place of the one that is parked under the only ID.
    #[arg(long = "as", value_name = "FILE", conflicts_with = "all")]
    mended: Option<PathBuf>,
    /// Only tells what would be delivered.
    #[arg(long)]
    dry_run: bool,
    /// How long a delivery may take, in seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

#[derive(Serialize)]
struct Report {
    place: String,
    dry_run: bool,
    records: Vec<Outcome>,
    ring_shards: Vec<ShardReport>,
}

/// What became of one record.
#[derive(Serialize)]
struct Outcome {
    id: String,
    fate: Fate,
    /// The keys that were invalidated, or would be.
    keys: Vec<String>,
    /// Why it stays where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Fate {
    /// Delivered and taken away.
    Requeued,
    /// It would be delivered and taken away.
    WouldBeRequeued,
    /// It stays parked.
    Kept,
    /// There is no such record.
    Missing,
}

/// A record that can be delivered.
struct Ready {
    kept: Kept,
    record: ChangeRecord,
    keys: Vec<String>,
}

/// What the work goes through.
struct Work<'a> {
    requeue: &'a Requeue,
    reader: &'a dyn ParkReader,
    router: Router,
    delivery: Delivery,
    waiting: Vec<Ready>,
    outcomes: Vec<Outcome>,
    progress: Progress,
}

impl Requeue {
    pub(super) async fn run(self) -> std::io::Result<Exit> {
        let opened = async {
            let config = self.common.open().await?;
            let mended = self.mended_record()?;
            Ok::<_, Exit>((reader(&config)?, config, mended))
        };
        let (reader, config, mended) = match opened.await {
            Ok(opened) => opened,
            Err(exit) => return Ok(exit),
        };
        let done = self.requeue(&config, &*reader, mended).await;
        ended(&*reader, done).await
    }

    /// Reads the file that stands for the parked content.
    fn mended_record(&self) -> Result<Option<RawRecord>, Exit> {
        let Some(path) = &self.mended else { return Ok(None) };
        let path_shown = path.display();
        if self.chosen.ids.len() != 1 {
            tracing::error!("--as stands for the content of one record: give one ID");
            return Err(Exit::Configuration);
        }
        let text = std::fs::read_to_string(path).map_err(|error| {
            tracing::error!("{path_shown} cannot be read: {error}");
            Exit::Configuration
        })?;
        let record = RawRecord::parse(text.trim().to_owned()).ok_or_else(|| {
            tracing::error!("{path_shown} is no JSON; give a record as `park show --content` shows it");
            Exit::Configuration
        })?;
        Ok(Some(record))
    }

    async fn requeue(
        &self,
        config: &Config,
        reader: &dyn ParkReader,
        mended: Option<RawRecord>,
    ) -> Result<Exit, Failed> {
        let mut work = Work {
            requeue: self,
            reader,
            router: Router::new(config.routes.clone()),
            delivery: Delivery::start(config, config.routes.clone())?,
            waiting: Vec::new(),
            outcomes: Vec::new(),
            progress: Progress::begin("records"),
        };
        if self.chosen.all {
            let mut all = reader.list();
            while let Some(kept) = all.try_next().await? {
                work.take(kept, None).await;
            }
        }
        for id in &self.chosen.ids {
            match find(reader, id).await? {
                Some(found) => {
                    for kept in found {
                        work.take(kept, mended.as_ref()).await;
                    }
                }
                None => {
                    work.tell(id.clone(), Fate::Missing, Vec::new(), Some("nothing is parked under this id".into()))
                }
            }
        }
        work.deliver().await;
        let Work { delivery, outcomes, progress, .. } = work;
        drop(progress);
        let report = Report {
            place: reader.place(),
            dry_run: self.dry_run,
            records: outcomes,
            ring_shards: delivery.end().await,
        };
        self.print(&report)?;
        let bad = report.records.iter().any(|outcome| matches!(outcome.fate, Fate::Kept | Fate::Missing));
        Ok(if bad { Exit::Failed } else { Exit::Ok })
    }

    fn print(&self, report: &Report) -> std::io::Result<()> {
        let out = Output::from(self.format);
        let rows = report.records.iter().map(|outcome| {
            let fate = match outcome.fate {
                Fate::Requeued => "requeued",
                Fate::WouldBeRequeued => "would be requeued",
                Fate::Kept => "stays",
                Fate::Missing => "missing",
            };
            let what = outcome.reason.clone().unwrap_or_else(|| match outcome.keys.as_slice() {
                [] => "no key is concerned".to_owned(),
                keys => keys.join(" "),
            });
            vec![outcome.id.clone(), fate.to_owned(), what]
        });
        out.table(&["id", "fate", "keys or reason"], &rows.collect::<Vec<_>>())?;
        let shards: Vec<Vec<String>> = report.ring_shards.iter().map(ShardReport::row).collect();
        if !shards.is_empty() {
            out.line("")?;
        }
        out.table(&ShardReport::HEADERS, &shards)?;
        if report.records.is_empty() {
            out.line(format!("nothing is parked in {}", report.place))?;
        }
        out.json(report)
    }
}

impl Work<'_> {
    /// Takes one record; delivers what waits where that is enough.
    async fn take(&mut self, kept: Kept, mended: Option<&RawRecord>) {
        match prepare(&self.router, &kept, mended) {
            Ok((_, keys)) if self.requeue.dry_run => self.tell(kept.id, Fate::WouldBeRequeued, keys, None),
            Ok((record, keys)) => self.waiting.push(Ready { kept, record, keys }),
            Err(reason) => self.tell(kept.id, Fate::Kept, Vec::new(), Some(reason)),
        }
        if self.waiting.len() >= PAGE {
            self.deliver().await;
        }
    }

    async fn deliver(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let (mut readies, mut page) = (Vec::new(), Vec::<Result<ChangeRecord, UnreadableRecord>>::new());
        for Ready { kept, record, keys } in std::mem::take(&mut self.waiting) {
            readies.push((kept, keys));
            page.push(Ok(record));
        }
        let delivered = self.delivery.deliver(&page, Duration::from_secs(self.requeue.timeout)).await;
        // Everything from the first record on that was not delivered in time may be undelivered.
        let sure = delivered.first_undelivered.unwrap_or(readies.len());
        let why = || {
            let errors = self.delivery.errors().into_values().collect::<Vec<_>>();
            let why = if errors.is_empty() { "no ring shard answered in time".to_owned() } else { errors.join("; ") };
            format!("not delivered: {why}; requeue it when the ring shard is back")
        };
        let reason = (sure < readies.len()).then(why);
        for (index, (kept, keys)) in readies.into_iter().enumerate() {
            if index >= sure {
                self.tell(kept.id, Fate::Kept, keys, reason.clone());
                continue;
            }
            match self.reader.remove(&kept).await {
                Ok(()) => self.tell(kept.id, Fate::Requeued, keys, None),
                Err(error) => {
                    let reason = format!("delivered, and not taken away: {error}; drop it, or requeue it once more");
                    self.tell(kept.id, Fate::Kept, keys, Some(reason));
                }
            }
        }
    }

    fn tell(&mut self, id: String, fate: Fate, keys: Vec<String>, reason: Option<String>) {
        self.outcomes.push(Outcome { id, fate, keys, reason });
        self.progress.at(self.outcomes.len() as u64, None);
    }
}

/// Reads a parked record, and tells the keys that it leads to; an error is why it has to stay parked. Pure.
fn prepare(router: &Router, kept: &Kept, mended: Option<&RawRecord>) -> Result<(ChangeRecord, Vec<String>), String> {
    let parked = kept.record.as_ref().map_err(|error| format!("{error}; `ringtide park drop` takes it away"))?;
    let mend = "give a mended one with --as, or invalidate its keys and drop it";
    let content = mended.or(parked.content.as_ref());
    let content = content.ok_or_else(|| format!("its content was not kept; {mend}"))?;
    let record = record_from_json(content.as_raw()).map_err(|error| format!("{}; {mend}", error.reason))?;
    let explanation = router.explain(&record);
    if explanation.routes.is_empty() {
        return Err(format!("no route names the table {}; mend the routes, or drop it", record.stream.table));
    }
    let mut keys = Vec::new();
    for route in &explanation.routes {
        match &route.why_not {
            Some(why @ WhyNot::Unreachable(_)) => return Err(format!("{}: {why}; {mend}", route.route.place)),
            // The images are missing because they were too long, and not because the stream has none.
            Some(WhyNot::NoImage(_)) if parked.images_omitted && mended.is_none() => {
                let space = &route.route.space.name;
                return Err(format!(
                    "{}: its images were too long to be kept, so that its key cannot be told; \
                     flush the key space (`ringtide flush --space {space}`) and drop it, or give a whole one with --as",
                    route.route.place
                ));
            }
            _ => keys.extend(route.commands.iter().map(|command| command.key.to_string())),
        }
    }
    keys.sort_unstable();
    keys.dedup();
    Ok((record, keys))
}

#[cfg(test)]
mod tests {
    use ringtide_core::park::ParkedRecord;

    use super::*;

    const CONFIG: &str = r#"
        ring = { shards = [{ name = "a", address = "h:1" }] }
        spaces = { item = { key = "item:{pk}" }, group = { key = "group:{group}" } }
        routes = [{ table = "t", space = "item" }, { table = "t", space = "group" }]
    "#;

    fn kept(table: &str, images: &str, omitted: bool) -> Kept {
        let content = format!(
            r#"{{"eventName":"MODIFY","eventSourceARN":"arn:aws:dynamodb:r:1:table/{table}/stream/2026-01-02T03:04:05.678","dynamodb":{{"Keys":{{"pk":{{"S":"1"}}}},{images}"SequenceNumber":"7"}}}}"#
        );
        let record = ParkedRecord {
            reason: "bad".into(),
            images_omitted: omitted,
            content: RawRecord::parse(content),
            ..ParkedRecord::default()
        };
        Kept { id: "id".into(), record: Ok(record), handle: "id".into() }
    }

    fn prepared(kept: &Kept, mended: Option<&RawRecord>) -> Result<Vec<String>, String> {
        let router = Router::new(Config::parse(CONFIG, []).unwrap().routes);
        prepare(&router, kept, mended).map(|(_, keys)| keys)
    }

    const WHOLE: &str = r#""OldImage":{"group":{"S":"a"}},"NewImage":{"group":{"S":"b"}},"#;

    #[test]
    fn a_record_is_requeued_only_where_all_of_its_keys_can_be_told() {
        assert_eq!(prepared(&kept("t", WHOLE, false), None).unwrap(), ["group:a", "group:b", "item:1"]);
        let bad = r#""OldImage":{"group":{"Q":"a"}},"NewImage":{"group":{"S":"b"}},"#;
        for (kept, reason) in [
            (kept("t", bad, false), "routes[1]"),
            (kept("other", WHOLE, false), "no route names the table other"),
            (kept("t", "", true), "flush --space group"),
            (kept("t", r#""SequenceNumber":[],"#, false), "--as"),
        ] {
            let error = prepared(&kept, None).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let mended = kept("t", WHOLE, false).record.unwrap().content;
        assert_eq!(prepared(&kept("t", "", true), mended.as_ref()).unwrap().len(), 3);
    }

    #[test]
    fn without_images_a_record_of_a_stream_of_keys_is_requeued() {
        assert_eq!(prepared(&kept("t", "", false), None).unwrap(), ["item:1"]);
    }
}
