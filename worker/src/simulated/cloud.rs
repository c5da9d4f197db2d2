//! Tables and streams as DynamoDB keeps them. Every call is answered, or refused, as the service would.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use ringtide_core::record::{SequenceNumber, Stream, ViewType, stream_of_arn};
use tokio::time::Instant;

use super::readers::Readers;
use crate::lease::StreamName;
use crate::stream::{
    Position, ShardId, ShardQuery, ShardsPage, StreamError, StreamShard, StreamStatus, TableDescription,
};

pub(super) const TABLE: &str = "products";

/// How much earlier than its parent a child may be shown.
const SKEW: Duration = Duration::from_secs(3);

/// A stream shard is forgotten only when its children have been shown for so long.
const LONG_SHOWN: Duration = Duration::from_secs(6);

/// How long iterators that have expired are still known.
const REMEMBERED: Duration = Duration::from_secs(120);

/// What this cloud is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// Stream shards on a page of a listing.
    pub(super) listing_page: usize,
    /// Records on a page of a read.
    pub(super) read_page: usize,
    pub(super) iterator_life: Duration,
    pub(super) filter: FilterRule,
    /// Whether sequence numbers have 40 digits, or 21 and soon 22.
    pub(super) long_numbers: bool,
    /// Of 16 reads that have records, so many bring none, and so many repeat the record before.
    pub(super) empty_pages: u8,
    pub(super) duplicates: u8,
}

/// What becomes of the filter for children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FilterRule {
    Supported,
    Refused,
    /// The listing is as if it had not been asked for.
    Ignored,
    /// It shows a child later than a full listing does.
    Lagging,
}

pub(super) struct Cloud {
    pub(super) rules: Rules,
    pub(super) streams: Vec<StreamState>,
    /// The iterators that were handed out, oldest first; their number is their name.
    iterators: VecDeque<Cursor>,
    /// So many older ones are not known any more.
    bygone: usize,
    /// So many of the first ones have expired, whatever their age.
    expired: usize,
    serial: u64,
    rng: fastrand::Rng,
    /// What no client of the service may do.
    pub(super) misuse: Option<String>,
}

pub(super) struct StreamState {
    pub(super) stream: Arc<Stream>,
    pub(super) name: StreamName,
    pub(super) enabled_at: Instant,
    pub(super) on: bool,
    pub(super) shards: BTreeMap<ShardId, Shard>,
}

pub(super) struct Shard {
    pub(super) parent: Option<ShardId>,
    pub(super) starting: SequenceNumber,
    pub(super) records: Vec<Record>,
    /// So many of the records are no longer kept.
    pub(super) trimmed: usize,
    pub(super) closed: Option<Instant>,
    pub(super) visible_at: Instant,
    pub(super) filter_shows_at: Instant,
    pub(super) hidden: Option<Hidden>,
    /// It is no longer listed and cannot be opened.
    pub(super) forgotten: bool,
    /// A checkpoint has covered so many records.
    pub(super) verified: usize,
    pub(super) readers: Readers,
    /// The first read of it by any worker.
    pub(super) first_read: Option<Instant>,
    /// The first read that told its end.
    pub(super) read_to_its_end: Option<Instant>,
}

/// Listings leave it out.
#[derive(Clone, Copy)]
pub(super) struct Hidden {
    /// Since when, but for moments in which not every worker may have seen it.
    since: Instant,
    until: Instant,
}

#[derive(Clone, Copy)]
pub(super) struct Record {
    pub(super) sequence: SequenceNumber,
    pub(super) serial: u64,
    pub(super) written: Instant,
    pub(super) ttl: bool,
    pub(super) delivered: bool,
}

struct Cursor {
    stream: usize,
    shard: ShardId,
    index: usize,
    handed_out: Instant,
}

/// What a read brought: indexes of records, and where to go on.
pub(super) struct Read {
    pub(super) stream: usize,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) next: Option<String>,
}

impl Cloud {
    pub(super) fn new(rules: Rules, seed: u64) -> Self {
        let rng = fastrand::Rng::with_seed(seed);
        let (streams, iterators) = (Vec::new(), VecDeque::new());
        Self { rules, streams, iterators, bygone: 0, expired: 0, serial: 0, rng, misuse: None }
    }

    /// Switches a stream on, and the one before off: its open stream shards are closed.
    pub(super) fn enable_stream(&mut self, roots: usize, enabling: Duration) {
        let now = Instant::now();
        self.disable_stream();
        let number = self.streams.len();
        let arn =
            format!("arn:aws:dynamodb:eu-west-1:123456789012:table/{TABLE}/stream/2026-01-02T03:{number:02}:05.678");
        let stream = Arc::new(stream_of_arn(&arn).unwrap());
        let name = StreamName::of(&stream).unwrap();
        self.streams.push(StreamState { stream, name, enabled_at: now + enabling, on: true, shards: BTreeMap::new() });
        for _ in 0..roots {
            self.open_shard(None, enabling, enabling);
        }
    }

    pub(super) fn disable_stream(&mut self) {
        let now = Instant::now();
        if let Some(before) = self.streams.last_mut() {
            before.on = false;
            for shard in before.shards.values_mut() {
                shard.closed.get_or_insert(now);
            }
        }
    }

    /// Opens a stream shard of the newest stream.
    pub(super) fn open_shard(&mut self, parent: Option<&ShardId>, visible: Duration, filter_lag: Duration) -> ShardId {
        let now = Instant::now();
        let starting = self.number();
        let id = ShardId::from(format!("shardId-{:020}-{:08x}", self.serial, self.rng.u32(..)).as_str());
        // A child may be shown before its parent, though not by much.
        let earliest = parent
            .and_then(|parent| self.shard(parent))
            .map(|parent| parent.visible_at.checked_sub(SKEW).unwrap_or(now));
        let visible = earliest.map_or(visible, |earliest| visible.max(earliest.saturating_duration_since(now)));
        let filter_lag = if self.rules.filter == FilterRule::Lagging { filter_lag } else { Duration::ZERO };
        let shard = Shard {
            parent: parent.cloned(),
            starting,
            records: Vec::new(),
            trimmed: 0,
            closed: None,
            visible_at: now + visible,
            filter_shows_at: now + visible + filter_lag,
            hidden: None,
            forgotten: false,
            verified: 0,
            readers: Readers::default(),
            first_read: None,
            read_to_its_end: None,
        };
        self.streams.last_mut().unwrap().shards.insert(id.clone(), shard);
        id
    }

    /// Closes a stream shard of the newest stream and opens its children.
    pub(super) fn split(&mut self, id: &ShardId, children: usize, visible: Duration, filter_lag: Duration) {
        self.shard(id).unwrap().closed = Some(Instant::now());
        for _ in 0..children {
            self.open_shard(Some(id), visible, filter_lag);
        }
    }

    pub(super) fn write(&mut self, id: &ShardId) {
        let sequence = self.number();
        let (serial, written) = (self.serial, Instant::now());
        let ttl = self.rng.u8(..16) == 0;
        let shard = self.shard(id).unwrap();
        assert!(shard.closed.is_none(), "a closed stream shard takes nothing in");
        shard.records.push(Record { sequence, serial, written, ttl, delivered: false });
    }

    /// Nothing written before `before` is kept; closed stream shards without records may be forgotten.
    pub(super) fn trim(&mut self, before: Instant, forget: bool) {
        let now = Instant::now();
        for stream in &mut self.streams {
            // A day after its end the children of a stream shard have long been shown.
            let mut fresh = BTreeSet::new();
            for shard in stream.shards.values_mut() {
                shard.trimmed += shard.records.iter().skip(shard.trimmed).take_while(|r| r.written < before).count();
            }
            let mut over = BTreeSet::new();
            for (id, shard) in stream.shards.iter().rev() {
                let ended = shard.closed.is_some_and(|closed| closed < before) && !fresh.contains(id);
                if shard.forgotten || forget && ended && shard.trimmed == shard.records.len() {
                    over.insert(id.clone());
                } else if shard.visible_at + LONG_SHOWN > now {
                    fresh.extend(shard.parent.clone());
                }
            }
            // They go by their age: none before its parent, which ended before it began.
            let mut kept = BTreeSet::new();
            for (id, shard) in &mut stream.shards {
                shard.forgotten =
                    over.contains(id) && shard.parent.as_ref().is_none_or(|parent| !kept.contains(parent));
                if !shard.forgotten {
                    kept.insert(id.clone());
                }
            }
        }
    }

    pub(super) fn open_shards(&self) -> Vec<ShardId> {
        let shards = self.streams.last().into_iter().flat_map(|stream| &stream.shards);
        shards.filter(|(_, shard)| shard.closed.is_none()).map(|(id, _)| id.clone()).collect()
    }

    /// Leaves a stream shard that was listed out of listings for a while, and tells how long it is left out, all in all.
    pub(super) fn hide(&mut self, pick: usize, until: Instant) -> Duration {
        let now = Instant::now();
        let shards = self.streams.last_mut().into_iter().flat_map(|stream| stream.shards.values_mut());
        let mut read: Vec<&mut Shard> =
            shards.filter(|shard| shard.first_read.is_some_and(|read| read < now)).collect();
        let count = read.len().max(1);
        let Some(shard) = read.get_mut(pick % count) else { return Duration::ZERO };
        let since = shard.hidden.filter(|before| before.until + LONG_SHOWN > now).map_or(now, |before| before.since);
        shard.hidden = Some(Hidden { since, until });
        until.duration_since(since)
    }

    pub(super) fn expire_iterators(&mut self) {
        self.expired = self.bygone + self.iterators.len();
    }

    pub(super) fn describe_table(&self, table: &str) -> Result<TableDescription, StreamError> {
        if table != TABLE {
            return Err(StreamError::NotFound(table.to_owned()));
        }
        let newest = self.streams.last();
        Ok(TableDescription {
            stream: newest.map(|newest| Arc::clone(&newest.stream)),
            view_type: newest.filter(|newest| newest.on).map(|_| ViewType::NewAndOldImages),
            key_schema: vec!["pk".to_owned()],
        })
    }

    pub(super) fn describe_stream(&mut self, stream: &Stream, query: &ShardQuery) -> Result<ShardsPage, StreamError> {
        let (now, rules) = (Instant::now(), self.rules);
        let state = &self.streams[self.index(stream)?];
        let filter = query.children_of.as_ref().filter(|_| rules.filter != FilterRule::Ignored);
        if filter.is_some() && rules.filter == FilterRule::Refused {
            return Err(StreamError::Invalid("ShardFilter is not supported".to_owned()));
        }
        let shows = |(_, shard): &(&ShardId, &Shard)| {
            let at = if filter.is_some() { shard.filter_shows_at } else { shard.visible_at };
            let hidden = shard.hidden.is_some_and(|hidden| hidden.until > now);
            let asked = filter.is_none_or(|parent| shard.parent.as_ref() == Some(parent));
            at <= now && !hidden && !shard.forgotten && asked
        };
        let enabling = state.enabled_at > now;
        let after = query.after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let rest = state.shards.range::<ShardId, _>((after, Bound::Unbounded));
        let mut shown = rest.filter(shows).filter(|_| !enabling);
        let shard = |(id, shard): (&ShardId, &Shard)| StreamShard {
            id: id.clone(),
            parent: shard.parent.clone(),
            starting: Some(shard.starting),
        };
        let shards: Vec<StreamShard> = shown.by_ref().take(rules.listing_page).map(shard).collect();
        let last = shown.next().and_then(|_| shards.last().map(|last| last.id.clone()));
        let status = match (enabling, state.on) {
            (true, _) => StreamStatus::Enabling,
            (false, true) => StreamStatus::Enabled,
            (false, false) => StreamStatus::Disabled,
        };
        Ok(ShardsPage { shards, status, last })
    }

    pub(super) fn iterator(
        &mut self,
        stream: &Stream,
        id: &ShardId,
        position: Position,
    ) -> Result<String, StreamError> {
        let number = self.index(stream)?;
        let shard = self.streams[number].shards.get(id).filter(|shard| !shard.forgotten);
        let Some(shard) = shard else { return Err(StreamError::NotFound(id.to_string())) };
        let first = |sought: SequenceNumber| shard.records.iter().take_while(|r| r.sequence < sought).count();
        let known = |sought| sought == shard.starting || shard.records.iter().any(|r| r.sequence == sought);
        let index = match position {
            Position::TrimHorizon => shard.trimmed,
            Position::Latest => shard.records.len(),
            Position::AtSequence(at) | Position::AfterSequence(at) => {
                if !known(at) {
                    self.misuse = Some(format!("{id} is opened at {at}, which is not one of its records"));
                    return Err(StreamError::Invalid("invalid SequenceNumber".to_owned()));
                }
                // What was kept last cannot be told from what came before it.
                if first(at) < shard.trimmed {
                    return Err(StreamError::Trimmed(at.to_string()));
                }
                let after = matches!(position, Position::AfterSequence(_)) && at != shard.starting;
                first(at) + usize::from(after)
            }
        };
        Ok(self.hand_out(number, id, index))
    }

    /// Reads one page.
    pub(super) fn read(&mut self, stream: &Stream, id: &ShardId, token: &str) -> Result<Read, StreamError> {
        let (now, rules) = (Instant::now(), self.rules);
        let handed_out: Option<usize> = token.parse().ok();
        let cursor = handed_out.and_then(|number| self.iterators.get(number.checked_sub(self.bygone)?));
        let (Some(handed_out), Some(cursor)) = (handed_out, cursor) else {
            self.misuse = Some(format!("{token:?} was never handed out as an iterator"));
            return Err(StreamError::Invalid("invalid ShardIterator".to_owned()));
        };
        let (number, index) = (cursor.stream, cursor.index);
        if self.streams[number].stream.arn != stream.arn || cursor.shard != *id {
            self.misuse = Some(format!("an iterator of {} is used for {id}", cursor.shard));
            return Err(StreamError::Invalid("invalid ShardIterator".to_owned()));
        }
        if handed_out < self.expired || now.duration_since(cursor.handed_out) >= rules.iterator_life {
            return Err(StreamError::IteratorExpired);
        }
        let Some(shard) = self.streams[number].shards.get_mut(id).filter(|shard| !shard.forgotten) else {
            return Err(StreamError::NotFound(id.to_string()));
        };
        if index < shard.trimmed {
            return Err(StreamError::Trimmed(format!("{id} from record {index}")));
        }
        shard.first_read.get_or_insert(now);
        let left = shard.records.len() - index;
        let (trimmed, closed) = (shard.trimmed, shard.closed.is_some());
        let mut count = left.min(rules.read_page);
        if count > 0 && self.rng.u8(..16) < rules.empty_pages {
            // Cut at a megabyte, or simply empty.
            count = self.rng.usize(..count);
        }
        let to = index + count;
        let repeats = count > 0 && index > trimmed && self.rng.u8(..16) < rules.duplicates;
        let ends = closed && count == left;
        if ends {
            shard.read_to_its_end.get_or_insert(now);
        }
        let next = (!ends).then(|| self.hand_out(number, id, to));
        Ok(Read { stream: number, from: index - usize::from(repeats), to, next })
    }

    pub(super) fn parent(&self, stream: &Stream, shard: &ShardId) -> Option<&ShardId> {
        let state = self.streams.iter().find(|state| state.stream.arn == stream.arn)?;
        state.shards.get(shard)?.parent.as_ref()
    }

    fn index(&self, stream: &Stream) -> Result<usize, StreamError> {
        let found = self.streams.iter().position(|state| state.stream.arn == stream.arn);
        found.ok_or_else(|| StreamError::NotFound(stream.arn.clone()))
    }

    fn hand_out(&mut self, stream: usize, shard: &ShardId, index: usize) -> String {
        let (handed_out, life) = (Instant::now(), self.rules.iterator_life);
        // Longer than anybody stands still with one, so that an expired one is told from one that never was.
        let known = life + REMEMBERED;
        while self.iterators.front().is_some_and(|oldest| handed_out.duration_since(oldest.handed_out) >= known) {
            self.iterators.pop_front();
            self.bygone += 1;
        }
        self.iterators.push_back(Cursor { stream, shard: shard.clone(), index, handed_out });
        (self.bygone + self.iterators.len() - 1).to_string()
    }

    fn shard(&mut self, id: &ShardId) -> Option<&mut Shard> {
        self.streams.last_mut()?.shards.get_mut(id)
    }

    fn number(&mut self) -> SequenceNumber {
        self.serial += 1;
        let text = if self.rules.long_numbers {
            format!("4{:039}", self.serial * 7)
        } else {
            (999_999_999_999_999_999_900 + u128::from(self.serial) * 7).to_string()
        };
        text.parse().unwrap()
    }
}
