//! The read side of a consumer: pace, iterator, one page at a time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use metrics::counter;
use ringtide_core::metrics as names;
use ringtide_core::record::SequenceNumber;
use tokio::time::Instant;

use super::Shared;
use crate::deliver::Delivery;
use crate::discovery::Sought;
use crate::lease::Checkpoint;
use crate::lease::keeper::Tenure;
use crate::lineage::Origin;
use crate::pace::{Pace, ReadOutcome};
use crate::stream::policy::{self, AfterGap, Decision};
use crate::stream::{Page, Position, ShardId, ShardIterator, StreamError};

/// What one step came to.
pub(super) enum Step {
    /// A page was read, and handed over where it had records.
    Page {
        /// The position after the page.
        reached: Checkpoint,
        /// Its delivery; `None` where it had no records.
        delivery: Option<Delivery>,
        /// Whether it is the stream shard's last one.
        last: bool,
        /// The age of its newest record; zero for a page without records.
        age: Duration,
    },
    /// A call failed; the next step tries again.
    Failed(StreamError),
    /// Records are lost. Where the next step goes on it hands over what is left after them.
    Gap(StreamError, AfterGap),
}

/// A read cursor that survives failures.
pub(super) struct Reader {
    shared: Arc<Shared>,
    shard: ShardId,
    pace: Pace,
    next_read: Instant,
    iterator: Option<ShardIterator>,
    /// Up to here everything was handed over.
    position: Checkpoint,
    /// Where the stream shard begins, as far as that is told.
    beginning: Option<SequenceNumber>,
    /// Whether every record counts from its beginning on: at TRIM_HORIZON those that are trimmed would go unnoticed.
    counts: bool,
    /// Since when no listing has shown it, so that it is not known where it begins.
    unlisted: Option<Instant>,
    /// Records are lost, and the oldest one that is kept was not read yet.
    ///
    /// The gap is told once it was: what a flush that begins before that does not cover could be trimmed meanwhile.
    lost: Option<StreamError>,
    /// The first page after a gap.
    kept: Option<Page>,
    tenure: Tenure,
}

impl Reader {
    pub(super) fn new(
        shared: Arc<Shared>,
        shard: ShardId,
        position: Checkpoint,
        origin: Origin,
        pace: Pace,
        tenure: Tenure,
    ) -> Self {
        let untouched = position == Checkpoint::TrimHorizon;
        let beginning = shared.discovery.beginning(&shard);
        let (counts, lost) = match origin {
            Origin::First => (false, None),
            Origin::Continued => (true, None),
            Origin::Orphan => (false, Some(unread(&shard, "its parent is gone unread")).filter(|_| untouched)),
        };
        let unlisted = (untouched && counts && beginning.is_none()).then(Instant::now);
        let beginning = beginning.flatten();
        let (next_read, iterator, kept) = (Instant::now(), None, None);
        Self { shared, shard, pace, next_read, iterator, position, beginning, counts, unlisted, lost, kept, tenure }
    }

    /// Waits for the pace, reads a page and hands it over.
    ///
    /// Given up in the middle it may have handed a page over that it does not count as read: nothing is lost by it.
    pub(super) async fn step(&mut self) -> Step {
        if let Some(page) = self.kept.take() {
            return self.hand_over(page).await;
        }
        if let Some(since) = self.unlisted
            && let Err(error) = Box::pin(self.look_up(since)).await
        {
            return self.after(error);
        }
        tokio::time::sleep_until(self.next_read).await;
        let began = Instant::now();
        let read = self.read().await;
        self.next_read = self.pace.next(began, Instant::now(), outcome_of(&read), fastrand::f64());
        match read {
            Ok(page) => {
                self.counts = true;
                match self.lost.take() {
                    Some(lost) => {
                        self.kept = Some(page);
                        Step::Gap(lost, AfterGap::Horizon)
                    }
                    None => self.hand_over(page).await,
                }
            }
            Err(error) => self.after(error),
        }
    }

    /// Finds out where it begins: another worker may have found it that listed later than this one.
    ///
    /// # Errors
    /// No listing is answered. Nothing is known to be lost by that, and a flush costs more than late records: it is looked
    /// for again.
    async fn look_up(&mut self, since: Instant) -> Result<(), StreamError> {
        match self.shared.discovery.look_up(&self.shard, since).await {
            Sought::Shown(beginning) => self.beginning = beginning,
            Sought::Gone => {
                self.counts = false;
                self.lost = Some(unread(&self.shard, "it is not listed, and nothing was read of it"));
            }
            Sought::Unanswered => {
                return Err(StreamError::Other(format!(
                    "{} is not listed yet, and no newer listing is answered",
                    self.shard
                )));
            }
        }
        self.unlisted = None;
        Ok(())
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
        let outcome = outcome_of(&read).as_str();
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
            Some(self.shared.deliver.submit(records, self.tenure.ends_ms()).await)
        };
        let last = next.is_none();
        self.iterator = next;
        self.position = reached;
        Step::Page { reached, delivery, last, age: newest.map_or(Duration::ZERO, age) }
    }

    fn after(&mut self, error: StreamError) -> Step {
        let table = self.shared.table.to_string();
        counter!(names::STREAM_ERRORS, names::TABLE => table.clone(), names::REASON => error.reason()).increment(1);
        match policy::reading(&error) {
            Decision::Retry => {
                tracing::warn!(table, stream_shard = %self.shard, %error, "stream shard not read, trying again");
                Step::Failed(error)
            }
            Decision::Reopen => {
                tracing::debug!(table, stream_shard = %self.shard, %error, "iterator opened again");
                self.iterator = None;
                Step::Failed(error)
            }
            Decision::Gap(AfterGap::Horizon) => {
                self.iterator = None;
                self.counts = false;
                self.position = Checkpoint::TrimHorizon;
                self.lost = Some(error.clone());
                Step::Failed(error)
            }
            Decision::Gap(AfterGap::End) => Step::Gap(error, AfterGap::End),
        }
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

fn outcome_of(read: &Result<Page, StreamError>) -> ReadOutcome {
    match read {
        Ok(page) if page.records.is_empty() => ReadOutcome::Empty,
        Ok(_) => ReadOutcome::Records,
        Err(StreamError::Throttled(_)) => ReadOutcome::Throttled,
        Err(_) => ReadOutcome::Failed,
    }
}

/// The only use of the wall clock: an age for people to look at.
fn age(approximate_time_s: u64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_secs(approximate_time_s))
}
