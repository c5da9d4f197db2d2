//! A scripted stream and a recording pipeline, for tests on a paused clock.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use ringtide_core::pipeline::Abandoned;
use ringtide_core::record::{
    Attribute, ChangeRecord, EventName, RawRecord, SequenceNumber, Stream, UnreadableRecord, ViewType, stream_of_arn,
};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::deliver::{Deliver, Delivery};
use crate::stream::{
    Page, Position, ShardId, ShardIterator, ShardQuery, ShardsPage, StreamError, StreamShard, StreamSource,
    TableDescription,
};

pub(crate) const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/products/stream/2026-01-02T03:04:05.678";

/// A stream whose shards, faults and visibility a test changes at will.
#[derive(Default)]
pub(crate) struct ScriptedStream {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    arn: Option<String>,
    shards: BTreeMap<ShardId, Shard>,
    faults: VecDeque<StreamError>,
    opened: Vec<(ShardId, Position)>,
    generation: usize,
    expired_before: usize,
    /// Every listing fails like this.
    listings_fail: Option<StreamError>,
}

#[derive(Default)]
struct Shard {
    parent: Option<ShardId>,
    records: Vec<u64>,
    trimmed_to: u64,
    /// Records that nobody can read.
    poison: Vec<u64>,
    closed: bool,
    hidden: bool,
    starting: Option<u64>,
}

const PAGE: usize = 2;

impl ScriptedStream {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn shard(&self, id: &str, parent: Option<&str>, records: &[u64]) {
        let shard = Shard { parent: parent.map(ShardId::from), records: records.to_vec(), ..Shard::default() };
        self.state().shards.insert(id.into(), shard);
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Shard)) {
        change(self.state().shards.get_mut(&ShardId::from(id)).unwrap());
    }

    pub(crate) fn append(&self, id: &str, records: &[u64]) {
        self.change(id, |shard| shard.records.extend(records));
    }

    pub(crate) fn close(&self, id: &str) {
        self.change(id, |shard| shard.closed = true);
    }

    pub(crate) fn hide(&self, id: &str, hidden: bool) {
        self.change(id, |shard| shard.hidden = hidden);
    }

    pub(crate) fn trim(&self, id: &str, to: u64) {
        self.change(id, |shard| shard.trimmed_to = to);
    }

    /// The stream shard's starting sequence number, which is not told otherwise.
    pub(crate) fn begins(&self, id: &str, at: u64) {
        self.change(id, |shard| shard.starting = Some(at));
    }

    /// These records cannot be read.
    pub(crate) fn poison(&self, id: &str, records: &[u64]) {
        self.change(id, |shard| shard.poison.extend(records));
    }

    pub(crate) fn forget(&self, id: &str) {
        self.state().shards.remove(&ShardId::from(id));
    }

    /// The next calls of iterator or read fail like this.
    pub(crate) fn fail(&self, error: StreamError) {
        self.state().faults.push_back(error);
    }

    /// Every listing fails like this, or none from now on.
    pub(crate) fn fail_listings(&self, error: Option<StreamError>) {
        self.state().listings_fail = error;
    }

    pub(crate) fn expire_iterators(&self) {
        let mut state = self.state();
        state.expired_before = state.generation;
    }

    pub(crate) fn opened(&self) -> Vec<(String, Position)> {
        self.state().opened.iter().map(|(shard, at)| (shard.to_string(), *at)).collect()
    }

    /// The table gets another stream, with other shards.
    pub(crate) fn replace_stream(&self, arn: &str) {
        let mut state = self.state();
        state.arn = Some(arn.to_owned());
    }
}

pub(crate) fn stream() -> Arc<Stream> {
    Arc::new(stream_of_arn(ARN).unwrap())
}

fn number(sequence: u64) -> SequenceNumber {
    sequence.to_string().parse().unwrap()
}

#[async_trait]
impl StreamSource for ScriptedStream {
    async fn describe_table(&self, table: &str) -> Result<TableDescription, StreamError> {
        if table != "products" {
            return Err(StreamError::NotFound(table.to_owned()));
        }
        let arn = self.state().arn.clone().unwrap_or_else(|| ARN.to_owned());
        Ok(TableDescription {
            stream: Some(Arc::new(stream_of_arn(&arn).unwrap())),
            view_type: Some(ViewType::NewAndOldImages),
            key_schema: vec!["pk".to_owned()],
        })
    }

    async fn shards_page(&self, _: &Stream, _: &ShardQuery) -> Result<ShardsPage, StreamError> {
        let state = self.state();
        if let Some(error) = &state.listings_fail {
            return Err(error.clone());
        }
        let shown = state.shards.iter().filter(|(_, shard)| !shard.hidden);
        let shards = shown
            .map(|(id, shard)| StreamShard {
                id: id.clone(),
                parent: shard.parent.clone(),
                starting: shard.starting.map(number),
            })
            .collect();
        Ok(ShardsPage { shards, ..ShardsPage::default() })
    }

    async fn iterator(
        &self,
        stream: &Arc<Stream>,
        shard: &ShardId,
        position: Position,
    ) -> Result<ShardIterator, StreamError> {
        let mut state = self.state();
        if let Some(fault) = state.faults.pop_front() {
            return Err(fault);
        }
        let Some(found) = state.shards.get(shard) else { return Err(StreamError::NotFound(shard.to_string())) };
        let trimmed = number(found.trimmed_to);
        let index = match position {
            Position::TrimHorizon => found.records.iter().take_while(|r| number(**r) < trimmed).count(),
            Position::Latest => found.records.len(),
            Position::AtSequence(at) if at < trimmed => return Err(StreamError::Trimmed(at.to_string())),
            Position::AtSequence(at) => found.records.iter().take_while(|r| number(**r) < at).count(),
            Position::AfterSequence(after) if after < trimmed => {
                return Err(StreamError::Trimmed(after.to_string()));
            }
            Position::AfterSequence(after) => found.records.iter().take_while(|r| number(**r) <= after).count(),
        };
        state.opened.push((shard.clone(), position));
        state.generation += 1;
        let token = format!("{}:{index}", state.generation);
        Ok(ShardIterator { stream: Arc::clone(stream), shard: shard.clone(), token })
    }

    async fn read(&self, iterator: &ShardIterator) -> Result<Page, StreamError> {
        let mut state = self.state();
        if let Some(fault) = state.faults.pop_front() {
            return Err(fault);
        }
        let (generation, index) = iterator.token.split_once(':').unwrap();
        if generation.parse::<usize>().unwrap() <= state.expired_before {
            return Err(StreamError::IteratorExpired);
        }
        let Some(shard) = state.shards.get(&iterator.shard) else {
            return Err(StreamError::NotFound(iterator.shard.to_string()));
        };
        let index: usize = index.parse().unwrap();
        let read = |r: &u64| if shard.poison.contains(r) { Err(unreadable(*r)) } else { Ok(record(iterator, *r)) };
        let records: Vec<_> = shard.records.iter().skip(index).take(PAGE).map(read).collect();
        let reached = index + records.len();
        let more = !shard.closed || reached < shard.records.len();
        let token = format!("{generation}:{reached}");
        Ok(Page { records, next: more.then(|| ShardIterator { token, ..iterator.clone() }) })
    }
}

fn record(iterator: &ShardIterator, sequence: u64) -> ChangeRecord {
    ChangeRecord {
        stream: Arc::clone(&iterator.stream),
        stream_shard: iterator.shard.shared(),
        event: EventName::Modify,
        keys: Box::new(BTreeMap::from([("pk".to_owned(), Attribute::S(sequence.to_string()))])),
        old: None,
        new: None,
        sequence: number(sequence),
        approximate_time_s: None,
        ttl_deletion: false,
    }
}

fn unreadable(sequence: u64) -> UnreadableRecord {
    let content = RawRecord::parse(format!(r#"{{"dynamodb":{{"SequenceNumber":"{sequence}"}}}}"#));
    UnreadableRecord {
        sequence: Some(number(sequence)),
        table: Some("products".to_owned()),
        reason: "it has no keys".to_owned(),
        content,
        ..UnreadableRecord::default()
    }
}

/// Takes pages down, and delivers them at once or when it is told to.
#[derive(Default)]
pub(crate) struct Recorder {
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    pages: Vec<(String, Vec<u64>)>,
    deadlines: Vec<u64>,
    flushed: Vec<String>,
    held: Option<BTreeMap<usize, oneshot::Sender<()>>>,
    held_flushes: Option<Vec<oneshot::Sender<()>>>,
    down: bool,
    flushed_now: bool,
    waited_for: bool,
    full: bool,
}

impl Recorder {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap()
    }

    /// From now on pages are delivered only by [`Recorder::deliver`].
    pub(crate) fn hold(&self) {
        self.taken().held = Some(BTreeMap::new());
    }

    /// Delivers the held page with this index among all pages.
    pub(crate) fn deliver(&self, page: usize) {
        let sender = self.taken().held.as_mut().unwrap().remove(&page).unwrap();
        let _given_up = sender.send(());
    }

    /// From now on flushes are acknowledged only by [`Recorder::deliver_flushes`].
    pub(crate) fn hold_flushes(&self) {
        self.taken().held_flushes = Some(Vec::new());
    }

    /// Acknowledges the flushes that are held, and those that come.
    pub(crate) fn deliver_flushes(&self) {
        for flush in self.taken().held_flushes.take().unwrap() {
            let _given_up = flush.send(());
        }
    }

    /// The pipeline ends: what is held will never be delivered.
    pub(crate) fn abandon(&self) {
        self.taken().held.as_mut().unwrap().clear();
    }

    pub(crate) fn shard_down(&self, down: bool) {
        self.taken().down = down;
    }

    /// A ring shard that is up is being flushed from now on, or not any more.
    pub(crate) fn shard_flushed(&self, flushed: bool) {
        self.taken().flushed_now = flushed;
    }

    /// A ring shard that is up is being flushed from now on, which is waited for, or not any more.
    pub(crate) fn shard_waited_for(&self, waited_for: bool) {
        self.taken().waited_for = waited_for;
    }

    /// From now on pages are taken only once there is room, or at once again.
    pub(crate) fn full(&self, full: bool) {
        self.taken().full = full;
    }

    /// Stream shard and sequence numbers of every page, in the order of their submission.
    pub(crate) fn pages(&self) -> Vec<(String, Vec<u64>)> {
        self.taken().pages.clone()
    }

    /// Until when refreshes of each page may be stored, in unix ms.
    pub(crate) fn deadlines(&self) -> Vec<u64> {
        self.taken().deadlines.clone()
    }

    /// Every sequence number, in the order of submission.
    pub(crate) fn records(&self) -> Vec<u64> {
        self.pages().into_iter().flat_map(|(_, records)| records).collect()
    }

    pub(crate) fn flushed(&self) -> Vec<String> {
        self.taken().flushed.clone()
    }
}

#[async_trait]
impl Deliver for Recorder {
    async fn submit(&self, page: Vec<Result<ChangeRecord, UnreadableRecord>>, deadline_ms: u64) -> Delivery {
        while self.taken().full {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut taken = self.taken();
        taken.deadlines.push(deadline_ms);
        let shard = page.iter().flatten().map(|record| record.stream_shard.to_string()).next().unwrap_or_default();
        let records = page.iter().flatten().map(|record| record.sequence.to_string().parse().unwrap()).collect();
        let index = taken.pages.len();
        taken.pages.push((shard, records));
        match taken.held.as_mut() {
            Some(held) => {
                let (sender, delivered) = oneshot::channel();
                held.insert(index, sender);
                Box::pin(async move { delivered.await.map_err(|_| Abandoned) })
            }
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }

    async fn flush_table(&self, table: &str) -> Delivery {
        let mut taken = self.taken();
        taken.flushed.push(table.to_owned());
        match taken.held_flushes.as_mut() {
            Some(held) => {
                let (sender, delivered) = oneshot::channel();
                held.push(sender);
                Box::pin(async move { delivered.await.map_err(|_| Abandoned) })
            }
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }

    fn unhealthy(&self) -> Vec<String> {
        if self.taken().down { vec!["a".to_owned()] } else { Vec::new() }
    }

    fn parking_fails(&self) -> bool {
        false
    }

    fn held_up(&self) -> bool {
        let taken = self.taken();
        taken.down || taken.flushed_now
    }

    fn stands_still(&self) -> bool {
        self.held_up() || self.taken().waited_for
    }

    async fn close(&self, _: Instant) -> usize {
        0
    }
}
