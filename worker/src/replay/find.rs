//! Where a replay begins: the last record before a time or a number, found by reading each stream shard from its oldest record.
//!
//! What a descendant shows spares its ancestors: where a stream shard begins before the place looked for, all that it
//! continues lies before it, too; where it begins after it, it is replayed from its beginning.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use ringtide_core::backoff::Backoff;
use ringtide_core::record::{ChangeRecord, Stream, UnreadableRecord};

use super::From;
use crate::lease::Checkpoint;
use crate::stream::policy::{self, AfterGap, Decision};
use crate::stream::{Listing, Page, Position, ShardId, ShardIterator, StreamError, StreamSource};

/// Stream shards that are read at once.
const AT_ONCE: usize = 4;
/// Empty pages in a row after which an open stream shard is taken as read up to now. Being wrong about it costs a longer
/// replay, never a lost one.
const EMPTY_PAGES: usize = 10;
/// Between two reads that bring nothing.
const IDLE: Duration = Duration::from_millis(100);
/// Tries of one call before its failure is told.
const TRIES: u32 = 8;

/// What a stream shard begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum First {
    /// A record before the place.
    Before,
    /// A record at the place or after it; or none yet, in a stream shard that is open.
    NotBefore,
    /// No record at all, and there will be none.
    Nothing,
}

/// Finds for each stream shard the checkpoint after which the place lies; those that hold nothing from there on are left out.
///
/// `told` is called with the records read so far. Each stream shard that needs it is read once, and one page of all others.
///
/// # Errors
/// A call that fails again and again.
pub(crate) async fn find(
    source: &dyn StreamSource,
    stream_: &Arc<Stream>,
    listing: &Listing,
    only: Option<&ShardId>,
    from: From,
    told: &(dyn Fn(u64) + Sync),
) -> Result<BTreeMap<ShardId, Checkpoint>, StreamError> {
    let search = Search { source, stream: stream_, from, told, read: std::sync::atomic::AtomicU64::new(0) };
    let wanted = listing.shards.iter().filter(|shard| only.is_none_or(|only| *only == shard.id));
    let wanted: Vec<ShardId> = wanted.map(|shard| shard.id.clone()).collect();
    let search = &search;
    let firsts: BTreeMap<ShardId, First> = stream::iter(wanted)
        .map(|shard| async move { Ok::<_, StreamError>((shard.clone(), search.first(&shard).await?)) })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let begins_before = |shard: &ShardId| firsts.get(shard) == Some(&First::Before);
    let mut targets = BTreeMap::new();
    let mut to_read = Vec::new();
    for (shard, first) in &firsts {
        match first {
            First::NotBefore => {
                targets.insert(shard.clone(), Checkpoint::TrimHorizon);
            }
            First::Before if !descendants(listing, shard).iter().any(begins_before) => to_read.push(shard.clone()),
            First::Before | First::Nothing => {}
        }
    }
    let found: Vec<(ShardId, Option<Checkpoint>)> = stream::iter(to_read)
        .map(|shard| async move { Ok::<_, StreamError>((shard.clone(), search.last_before(&shard).await?)) })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    targets.extend(found.into_iter().filter_map(|(shard, at)| Some((shard, at?))));
    Ok(targets)
}

fn descendants(listing: &Listing, shard: &ShardId) -> BTreeSet<ShardId> {
    let mut found = BTreeSet::new();
    let mut open = vec![shard.clone()];
    while let Some(next) = open.pop() {
        for child in crate::lineage::children(listing, &next) {
            if child != *shard && found.insert(child.clone()) {
                open.push(child);
            }
        }
    }
    found
}

impl From {
    /// Whether the place lies after a record; `None` where the record does not tell.
    fn lies_after(&self, record: &Result<ChangeRecord, UnreadableRecord>) -> Option<bool> {
        match (self, record) {
            (From::Second(second), Ok(record)) => Some(record.approximate_time_s? < *second),
            (From::Second(_), Err(_)) => None,
            (From::Sequence(number), Ok(record)) => Some(record.sequence < *number),
            (From::Sequence(number), Err(record)) => Some(record.sequence? < *number),
        }
    }
}

struct Search<'a> {
    source: &'a dyn StreamSource,
    stream: &'a Arc<Stream>,
    from: From,
    told: &'a (dyn Fn(u64) + Sync),
    read: std::sync::atomic::AtomicU64,
}

impl Search<'_> {
    async fn first(&self, shard: &ShardId) -> Result<First, StreamError> {
        let mut pages = Pages::new(self, shard);
        while let Some(records) = pages.next().await? {
            if let Some(before) = records.iter().find_map(|record| self.from.lies_after(record)) {
                return Ok(if before { First::Before } else { First::NotBefore });
            }
        }
        Ok(if pages.ended { First::Nothing } else { First::NotBefore })
    }

    /// The last record before the place; `None` where the stream shard ends before it.
    async fn last_before(&self, shard: &ShardId) -> Result<Option<Checkpoint>, StreamError> {
        let mut pages = Pages::new(self, shard);
        let mut last = Checkpoint::TrimHorizon;
        while let Some(records) = pages.next().await? {
            for record in &records {
                let sequence = match record {
                    Ok(record) => Some(record.sequence),
                    Err(unreadable) => unreadable.sequence,
                };
                match (self.from.lies_after(record), sequence) {
                    (Some(true), Some(sequence)) => last = Checkpoint::At(sequence),
                    (Some(true) | None, _) => {}
                    (Some(false), _) => return Ok(Some(last)),
                }
            }
        }
        Ok((!pages.ended).then_some(last))
    }
}

/// The pages of one stream shard from its oldest record to its end, or up to now.
struct Pages<'a> {
    search: &'a Search<'a>,
    shard: &'a ShardId,
    position: Position,
    iterator: Option<ShardIterator>,
    empty: usize,
    ended: bool,
}

impl<'a> Pages<'a> {
    fn new(search: &'a Search<'a>, shard: &'a ShardId) -> Self {
        Self { search, shard, position: Position::TrimHorizon, iterator: None, empty: 0, ended: false }
    }

    /// The records of the next page; `None` at the end, or where nothing has come for a while.
    async fn next(&mut self) -> Result<Option<Vec<Result<ChangeRecord, UnreadableRecord>>>, StreamError> {
        let (mut tries, mut backoff) = (0, Backoff::new(Duration::from_millis(100), Duration::from_secs(2)));
        while !self.ended && self.empty < EMPTY_PAGES {
            match self.read().await {
                Ok(Page { records, next }) => {
                    self.ended = next.is_none();
                    self.iterator = next;
                    if records.is_empty() {
                        self.empty += 1;
                        tokio::time::sleep(IDLE).await;
                        continue;
                    }
                    self.empty = 0;
                    let numbers = records.iter().filter_map(|record| match record {
                        Ok(record) => Some(record.sequence),
                        Err(unreadable) => unreadable.sequence,
                    });
                    self.position = numbers.max().map_or(self.position, Position::AfterSequence);
                    let read = &self.search.read;
                    let count = records.len() as u64;
                    (self.search.told)(read.fetch_add(count, std::sync::atomic::Ordering::Relaxed) + count);
                    return Ok(Some(records));
                }
                Err(error) => {
                    tries += 1;
                    self.iterator = None;
                    match policy::reading(&error) {
                        Decision::Gap(AfterGap::End) => self.ended = true,
                        Decision::Gap(AfterGap::Horizon) if tries < TRIES => self.position = Position::TrimHorizon,
                        Decision::Retry | Decision::Reopen if tries < TRIES => {
                            tracing::debug!(stream_shard = %self.shard, %error, "stream shard not read, trying again");
                            tokio::time::sleep(backoff.next_pause()).await;
                        }
                        Decision::Gap(AfterGap::Horizon) | Decision::Retry | Decision::Reopen => return Err(error),
                    }
                }
            }
        }
        Ok(None)
    }

    async fn read(&mut self) -> Result<Page, StreamError> {
        let source = self.search.source;
        let iterator = match &self.iterator {
            Some(iterator) => iterator,
            None => self.iterator.insert(source.iterator(self.search.stream, self.shard, self.position).await?),
        };
        source.read(iterator).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{ScriptedStream, stream as scripted};

    async fn targets(source: &ScriptedStream, from: u64, only: Option<&str>) -> String {
        let listing = source.list_shards(&scripted()).await.unwrap();
        let from = From::Sequence(from.to_string().parse().unwrap());
        let only = only.map(ShardId::from);
        let found = find(source, &scripted(), &listing, only.as_ref(), from, &|_| {}).await.unwrap();
        found.iter().map(|(shard, at)| format!("{shard}={at}")).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_record_before_the_place_is_found() {
        let source = ScriptedStream::new();
        source.shard("a", None, &[10, 20, 30, 40, 50]);
        assert_eq!(targets(&source, 35, None).await, "a=30");
        assert_eq!(targets(&source, 40, None).await, "a=30", "the record itself is delivered again");
        assert_eq!(targets(&source, 5, None).await, "a=TRIM_HORIZON");
        assert_eq!(targets(&source, 99, None).await, "a=50", "what comes next may be it");
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_shard_that_ends_before_the_place_has_nothing_to_replay() {
        let source = ScriptedStream::new();
        source.shard("a", None, &[10, 20]);
        source.close("a");
        source.shard("b", Some("a"), &[30, 40]);
        assert_eq!(targets(&source, 35, None).await, "b=30");
        assert_eq!(targets(&source, 15, None).await, "a=10 b=TRIM_HORIZON");
        assert_eq!(targets(&source, 25, None).await, "b=TRIM_HORIZON");
        assert_eq!(targets(&source, 15, Some("b")).await, "b=TRIM_HORIZON");
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_descendant_shows_spares_its_ancestors_the_reading() {
        let source = ScriptedStream::new();
        source.shard("a", None, &[10, 20, 25]);
        source.close("a");
        source.shard("b", Some("a"), &[30, 40]);
        targets(&source, 35, None).await;
        let opened = source.opened().into_iter().filter(|(shard, _)| shard == "a").count();
        assert_eq!(opened, 1, "one look at its first record");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_passing_unless_they_stay() {
        let source = ScriptedStream::new();
        source.shard("a", None, &[10, 20, 30]);
        source.fail(StreamError::Throttled(String::new()));
        source.fail(StreamError::IteratorExpired);
        assert_eq!(targets(&source, 25, None).await, "a=20");
        for _ in 0..20 {
            source.fail(StreamError::Denied("no".to_owned()));
        }
        let listing = source.list_shards(&scripted()).await.unwrap();
        let found = find(&*source, &scripted(), &listing, None, From::Second(1), &|_| {}).await;
        assert_eq!(found, Err(StreamError::Denied("no".to_owned())));
    }
}
