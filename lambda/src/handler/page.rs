//! A page of change records: its streams, its age, and its delivery.

use std::collections::BTreeMap;

use metrics::{counter, gauge};
use ringtide_core::clock::unix_ms;
use ringtide_core::metrics as names;
use ringtide_core::pipeline::Delivered;
use ringtide_core::record::{ChangeRecord, UnreadableRecord};
use tokio::time::Instant;

use super::Handler;
use crate::streams::Seen;

/// A record of a page.
pub(super) type Record = Result<ChangeRecord, UnreadableRecord>;

/// Records older than this come close to the 24 hours for which DynamoDB keeps them, in seconds.
const EXPIRING_S: u64 = 23 * 3600;

impl Handler {
    /// Delivers a page until `until`, and before it the flush of each table whose stream has changed.
    pub(super) async fn page(&self, page: &[Record], until: Instant) -> Delivered {
        self.flush_and(page, until, self.pipeline.deliver(page, until)).await
    }

    /// As [`Handler::page`], for a page that newer ones may have overtaken.
    pub(super) async fn overtaken(&self, page: &[Record], until: Instant) -> Delivered {
        self.flush_and(page, until, self.pipeline.deliver_overtaken(page, until)).await
    }

    async fn flush_and(&self, page: &[Record], until: Instant, deliver: impl Future<Output = Delivered>) -> Delivered {
        self.note_streams(page);
        let owed = self.owed(page);
        if Instant::now() >= until {
            return Delivered { first_undelivered: (!page.is_empty()).then_some(0), parked: 0 };
        }
        let mut flushes = Vec::new();
        for (table, first) in owed {
            flushes.push((table, first, self.pipeline.flush_table(table).await));
        }
        let mut delivered = deliver.await;
        for (table, first, flush) in flushes {
            if matches!(tokio::time::timeout_at(until, flush).await, Ok(Ok(()))) {
                self.streams().flushed(table);
            } else {
                // The batch comes again, and with it the flush.
                delivered.first_undelivered = Some(delivered.first_undelivered.map_or(first, |other| other.min(first)));
            }
        }
        note_age(page, unix_ms() / 1000);
        delivered
    }

    /// Finds the streams that are not the newest ones of their tables, or that have just become so.
    fn note_streams(&self, page: &[Record]) {
        let mut last: Option<(&str, Seen)> = None;
        for record in page.iter().flatten() {
            let (stream, table) = (&record.stream, || record.stream.table.clone());
            let seen = match last {
                Some((arn, Seen::Superseded)) if arn == stream.arn => Seen::Superseded,
                Some((arn, _)) if arn == stream.arn => continue,
                Some(_) | None => self.streams().see(stream),
            };
            last = Some((&stream.arn, seen));
            match seen {
                Seen::Newest => {}
                Seen::Changed => {
                    tracing::error!(
                        table = table(),
                        stream = stream.arn,
                        "the table's stream has changed, changes in between may be lost, its key spaces are flushed"
                    );
                    counter!(names::GAPS, names::TABLE => table(), names::REASON => "new_stream").increment(1);
                }
                Seen::Superseded => {
                    counter!(names::STREAM_SUPERSEDED, names::TABLE => table()).increment(1);
                }
            }
        }
    }

    /// The tables of a page that are to be flushed, with the first record of each.
    fn owed<'p>(&self, page: &'p [Record]) -> BTreeMap<&'p str, usize> {
        let mut owed = BTreeMap::new();
        let streams = self.streams();
        let mut last = None;
        for (index, record) in page.iter().enumerate() {
            let Ok(record) = record else { continue };
            let table = record.stream.table.as_str();
            if last != Some(table) && streams.owes_flush(table) && self.has_routes(table) {
                owed.entry(table).or_insert(index);
            }
            last = Some(table);
        }
        owed
    }

    /// Whether some route names the table.
    pub(super) fn has_routes(&self, table: &str) -> bool {
        self.pipeline.router().routes(table).next().is_some()
    }
}

/// How old the newest record of each table is, and which records come close to being lost.
fn note_age(page: &[Record], now_s: u64) {
    let mut ages: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for record in page.iter().flatten() {
        let Some(time) = record.approximate_time_s else { continue };
        let (newest, expiring) = ages.entry(&record.stream.table).or_default();
        *newest = time.max(*newest);
        *expiring += u64::from(now_s.saturating_sub(time) > EXPIRING_S);
    }
    for (table, (newest, expiring)) in ages {
        gauge!(names::STREAM_AGE, names::TABLE => table.to_owned()).set(now_s.saturating_sub(newest) as f64);
        if expiring > 0 {
            tracing::warn!(table, records = expiring, "records are close to the 24 hours after which they are lost");
            counter!(names::STREAM_EXPIRING, names::TABLE => table.to_owned()).increment(expiring);
        }
    }
}
