//! The read side of a consumer: pace, iterator, one page at a time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::counter;
use ringtide_core::metrics as names;
use ringtide_core::record::{ChangeRecord, SequenceNumber, UnreadableRecord};
use tokio::time::Instant;

use super::{HOLD_UP_CHECK, Shared};
use crate::deliver::Delivery;
use crate::discovery::Sought;
use crate::health::Line;
use crate::lease::Checkpoint;
use crate::lease::keeper::Tenure;
use crate::lineage::Origin;
use crate::pace::{Pace, ReadOutcome};
use crate::stream::policy::{self, AfterGap, Decision};
use crate::stream::{Page, Position, ShardId, ShardIterator, StreamError};

/// What a step came to that is to be told.
pub(super) enum Step {
    /// A page that has records, which were handed over, or is the first one after a gap, or the last one.
    Page {
        /// The position after the page.
        reached: Checkpoint,
        /// Its delivery; `None` where it had no records.
        delivery: Option<Delivery>,
        /// Whether it is the stream shard's last one.
        last: bool,
    },
    /// Records are lost. Where the next step goes on it hands over what is left after them.
    Gap(StreamError, AfterGap),
}

/// A read cursor that survives failures.
pub(super) struct Reader {
    shared: Arc<Shared>,
    shard: ShardId,
    line: Line,
    pace: Pace,
    iterator: Option<ShardIterator>,
    ahead: Ahead,
    /// Up to here everything was handed over.
    position: Checkpoint,
    /// Whether every record counts from its beginning on: at TRIM_HORIZON those that are trimmed would go unnoticed.
    counts: bool,
    /// Where the stream shard begins, as far as that is told.
    beginning: Option<SequenceNumber>,
    tenure: Tenure,
}

/// What comes before the next page counts.
enum Ahead {
    Nothing,
    /// No listing has shown it since then, so that it is not known where it begins.
    Unlisted(Instant),
    /// Records are lost, and the oldest one that is kept was not read yet.
    ///
    /// The gap is told once it was: what a flush that begins before that does not cover could be trimmed meanwhile.
    Lost(StreamError),
    /// The first page after a gap is to be handed over.
    Kept(Box<Page>),
}

impl Reader {
    pub(super) fn new(
        shared: Arc<Shared>,
        shard: ShardId,
        position: Checkpoint,
        origin: Origin,
        line: Line,
        tenure: Tenure,
    ) -> Self {
        let now = Instant::now();
        let untouched = position == Checkpoint::TrimHorizon;
        let listed = shared.discovery.beginning(&shard);
        let ahead = match origin {
            Origin::Continued if untouched && listed.is_none() => Ahead::Unlisted(now),
            Origin::Orphan if untouched => Ahead::Lost(unread(&shard, "its parent is gone unread")),
            Origin::First | Origin::Continued | Origin::Orphan => Ahead::Nothing,
        };
        let (beginning, counts) = (listed.flatten(), origin == Origin::Continued);
        let pace = Pace::new(shared.settings.idle_poll, shared.settings.max_reads_per_second, now);
        let iterator = None;
        Self { shared, shard, line, pace, iterator, ahead, position, counts, beginning, tenure }
    }

    /// Reads pages at their pace until there is something to tell; what has records is handed over.
    ///
    /// Most reads of most stream shards have nothing to tell: they touch the reader and its line, and nothing else of theirs.
    /// Given up in the middle it may have handed a page over that it does not count as read: nothing is lost by it.
    pub(super) async fn step(&mut self) -> Step {
        loop {
            match std::mem::replace(&mut self.ahead, Ahead::Nothing) {
                Ahead::Kept(page) => return Box::pin(self.hand_over(*page)).await,
                Ahead::Unlisted(since) => match Box::pin(self.look_up(since)).await {
                    Ok(ahead) => self.ahead = ahead,
                    Err(error) => {
                        self.ahead = Ahead::Unlisted(since);
                        if let Some(step) = self.after(error) {
                            return step;
                        }
                        continue;
                    }
                },
                ahead @ (Ahead::Nothing | Ahead::Lost(_)) => self.ahead = ahead,
            }
            tokio::time::sleep_until(self.pace.due()).await;
            let began = Instant::now();
            let read = self.read().await;
            self.pace.after(began, Instant::now(), ReadOutcome::of(&read), fastrand::f64());
            let page = match read {
                Ok(page) => page,
                Err(error) => match self.after(error) {
                    Some(step) => return step,
                    None => continue,
                },
            };
            self.counts = true;
            if let Ahead::Lost(lost) = std::mem::replace(&mut self.ahead, Ahead::Nothing) {
                self.ahead = Ahead::Kept(Box::new(page));
                return Step::Gap(lost, AfterGap::Horizon);
            }
            if !page.records.is_empty() || page.next.is_none() {
                return Box::pin(self.hand_over(page)).await;
            }
            self.line.read(Duration::ZERO);
            self.iterator = page.next;
        }
    }

    /// Finds out where it begins: another worker may have found it that listed later than this one.
    ///
    /// # Errors
    /// No listing is answered. Nothing is known to be lost by that, and a flush costs more than late records: it is looked
    /// for again.
    async fn look_up(&mut self, since: Instant) -> Result<Ahead, StreamError> {
        match self.shared.discovery.look_up(&self.shard, since).await {
            Sought::Shown(beginning) => {
                self.beginning = beginning;
                Ok(Ahead::Nothing)
            }
            Sought::Gone => {
                self.counts = false;
                Ok(Ahead::Lost(unread(&self.shard, "it is not listed, and nothing was read of it")))
            }
            Sought::Unanswered => {
                let shard = &self.shard;
                Err(StreamError::Other(format!("{shard} is not listed yet, and no newer listing is answered")))
            }
        }
    }

    async fn read(&mut self) -> Result<Page, StreamError> {
        let Shared { source, stream, table, .. } = &*self.shared;
        let iterator = match &self.iterator {
            Some(iterator) => iterator,
            None => {
                let position = match self.position {
                    // An ended stream shard is never read; its oldest records would do no harm.
                    Checkpoint::TrimHorizon | Checkpoint::ShardEnd => {
                        let beginning = self.beginning.filter(|_| self.counts);
                        beginning.map_or(Position::TrimHorizon, Position::AtSequence)
                    }
                    Checkpoint::Latest => Position::Latest,
                    Checkpoint::At(sequence) => Position::AfterSequence(sequence),
                };
                let opened = source.iterator(stream, &self.shard, position).await;
                if let (Position::AtSequence(_), Err(StreamError::Invalid(_))) = (position, &opened) {
                    // Not every endpoint takes a beginning that no record stands at.
                    self.beginning = None;
                }
                let iterator = opened?;
                self.iterator.insert(iterator)
            }
        };
        let read = source.read(iterator).await;
        let outcome = ReadOutcome::of(&read).as_str();
        counter!(names::STREAM_READS, names::TABLE => table.to_string(), names::OUTCOME => outcome).increment(1);
        read
    }

    async fn hand_over(&mut self, page: Page) -> Step {
        let Page { records, next } = page;
        let numbers = records.iter().filter_map(|record| match record {
            Ok(record) => Some(record.sequence),
            Err(unreadable) => unreadable.sequence,
        });
        // A page whose records have no number at all still has to be delivered before the next one counts.
        let reached = numbers.max().map_or(self.position, |newest| further(self.position, newest));
        let newest = records.iter().flatten().filter_map(|record| record.approximate_time_s).max();
        let delivery = if records.is_empty() {
            None
        } else {
            let table = self.shared.table.to_string();
            counter!(names::STREAM_RECORDS, names::TABLE => table).increment(records.len() as u64);
            Some(self.submit(records).await)
        };
        let last = next.is_none();
        self.iterator = next;
        self.position = reached;
        self.line.read(newest.map_or(Duration::ZERO, age));
        Step::Page { reached, delivery, last }
    }

    /// Hands records over, and tells where that has to wait for what stands still, which no restart mends.
    async fn submit(&self, records: Vec<Result<ChangeRecord, UnreadableRecord>>) -> Delivery {
        let deliver = &self.shared.deliver;
        let mut submitting = deliver.submit(records, self.tenure.ends_ms());
        let mut waits = false;
        loop {
            let submitted = tokio::select! {
                biased;
                delivery = &mut submitting => Some(delivery),
                () = tokio::time::sleep(HOLD_UP_CHECK) => None,
            };
            let still = submitted.is_none() && deliver.stands_still();
            if std::mem::replace(&mut waits, still) != still {
                self.line.waits(still);
            }
            if let Some(delivery) = submitted {
                return delivery;
            }
        }
    }

    /// Takes in that a call failed, so that it is tried again; or tells what does not get better by that.
    fn after(&mut self, error: StreamError) -> Option<Step> {
        let table = self.shared.table.to_string();
        counter!(names::STREAM_ERRORS, names::TABLE => table.clone(), names::REASON => error.reason()).increment(1);
        match policy::reading(&error) {
            Decision::Retry => {
                tracing::warn!(table, stream_shard = %self.shard, %error, "stream shard not read, trying again");
            }
            Decision::Reopen => {
                tracing::debug!(table, stream_shard = %self.shard, %error, "iterator opened again");
                self.iterator = None;
            }
            Decision::Gap(AfterGap::Horizon) => {
                self.iterator = None;
                self.counts = false;
                self.position = Checkpoint::TrimHorizon;
                self.ahead = Ahead::Lost(error.clone());
            }
            Decision::Gap(AfterGap::End) => return Some(Step::Gap(error, AfterGap::End)),
        }
        self.line.failed(&error);
        None
    }
}

fn unread(shard: &ShardId, why: &str) -> StreamError {
    StreamError::Trimmed(format!("{shard}: {why}"))
}

/// A page that repeats older records does not lead back.
fn further(position: Checkpoint, newest: SequenceNumber) -> Checkpoint {
    match position {
        Checkpoint::At(reached) => Checkpoint::At(reached.max(newest)),
        Checkpoint::TrimHorizon | Checkpoint::Latest | Checkpoint::ShardEnd => Checkpoint::At(newest),
    }
}

/// The only use of the wall clock: an age for people to look at.
fn age(approximate_time_s: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_secs(approximate_time_s))
}
