//! One worker's streams.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use ringtide_core::record::{Attribute, ChangeRecord, EventName, Stream};

use super::cloud::{Read, Record};
use super::flaw::Flaw;
use super::line::Line;
use super::world::{Service, World};
use crate::stream::{
    Page, Position, ShardId, ShardIterator, ShardQuery, ShardsPage, StreamError, StreamSource, TableDescription,
};

pub(super) struct Source(pub(super) Line);

impl Source {
    /// Fails as calls do that have nothing to do with what is asked for.
    fn fault(&self, world: &World, service: Service) -> Result<(), StreamError> {
        if self.0.is_cut() {
            return Err(StreamError::Unreachable("the network is cut".to_owned()));
        }
        if world.is_disturbed(service) && !self.0.chance(8) {
            return Err(StreamError::Throttled("rate exceeded".to_owned()));
        }
        if world.flaky > 0 && self.0.chance(world.flaky) {
            return Err(match self.0.below(4) {
                0 => StreamError::Throttled("rate exceeded".to_owned()),
                1 => StreamError::Unreachable("connection reset".to_owned()),
                2 => StreamError::Denied("the token has expired".to_owned()),
                _ => StreamError::Other("internal server error".to_owned()),
            });
        }
        Ok(())
    }
}

#[async_trait]
impl StreamSource for Source {
    async fn describe_table(&self, table: &str) -> Result<TableDescription, StreamError> {
        let describe = |world: &mut World| {
            // A denial would end a start: credentials are not this simulation's matter.
            match self.fault(world, Service::Listings) {
                Err(StreamError::Denied(text)) => return Err(StreamError::Other(text)),
                faulty => faulty?,
            }
            world.cloud.describe_table(table)
        };
        self.0.call(describe).await
    }

    async fn shards_page(&self, stream: &Stream, query: &ShardQuery) -> Result<ShardsPage, StreamError> {
        let list = |world: &mut World| {
            let fault = self.fault(world, Service::Listings);
            if fault.is_err() {
                world.ledger.note("listing failed", String::new);
            }
            match (self.0.flaw, fault) {
                (Flaw::SilenceIsAbsence, Err(_)) => return Ok(ShardsPage::default()),
                (_, fault) => fault?,
            }
            let mut page = world.cloud.describe_stream(stream, query)?;
            world.ledger.note("listing page", || format!("by {}: {} shards", self.0.worker, page.shards.len()));
            let forgotten = |id: &ShardId| {
                let state = world.cloud.streams.iter().find(|state| state.stream.arn == stream.arn);
                state.and_then(|state| state.shards.get(id)).is_some_and(|shard| shard.forgotten)
            };
            for shard in &mut page.shards {
                match self.0.flaw {
                    Flaw::ParentOrderIgnored => shard.parent = None,
                    Flaw::BeginningUnchecked => shard.starting = None,
                    Flaw::OrphanUnnoticed => shard.parent = shard.parent.take().filter(|parent| !forgotten(parent)),
                    _ => {}
                }
            }
            Ok(page)
        };
        self.0.call(list).await
    }

    async fn iterator(
        &self,
        stream: &Arc<Stream>,
        shard: &ShardId,
        position: Position,
    ) -> Result<ShardIterator, StreamError> {
        let open = |world: &mut World| {
            self.fault(world, Service::Reads)?;
            if position == Position::Latest {
                world.ledger.breaks(format!("{shard} is opened at LATEST"));
            }
            let child = world.cloud.parent(stream, shard).is_some();
            let position = match (self.0.flaw, position) {
                (Flaw::LatestForChild, Position::TrimHorizon | Position::AtSequence(_)) if child => Position::Latest,
                (_, position) => position,
            };
            let opened = match (self.0.flaw, world.cloud.iterator(stream, shard, position)) {
                (Flaw::SkipOnTrim, Err(StreamError::Trimmed(_))) => {
                    world.cloud.iterator(stream, shard, Position::TrimHorizon)
                }
                (_, opened) => opened,
            };
            world.ledger.note("opened", || format!("{shard} by {} at {position:?}", self.0.worker));
            Ok(ShardIterator { stream: Arc::clone(stream), shard: shard.clone(), token: opened? })
        };
        self.0.call(open).await
    }

    async fn read(&self, iterator: &ShardIterator) -> Result<Page, StreamError> {
        let read = |world: &mut World| {
            self.fault(world, Service::Reads).inspect_err(|_| world.ledger.note("read failed", String::new))?;
            let ShardIterator { stream, shard, token } = iterator;
            world.read_by(&self.0, stream, shard);
            let again = |world: &mut World, position| {
                let token = world.cloud.iterator(stream, shard, position)?;
                world.cloud.read(stream, shard, &token)
            };
            let read = match (self.0.flaw, world.cloud.read(stream, shard, token)) {
                (Flaw::SkipOnTrim, Err(StreamError::Trimmed(_))) => again(world, Position::TrimHorizon),
                (Flaw::ExpiredAtLatest, Err(StreamError::IteratorExpired)) => again(world, Position::Latest),
                (_, read) => read,
            };
            match &read {
                Err(StreamError::Trimmed(_)) => world.ledger.note("trimmed", || shard.to_string()),
                Err(StreamError::IteratorExpired) => world.ledger.note("expired", || shard.to_string()),
                Err(_) => world.ledger.note("read refused", || shard.to_string()),
                Ok(read) if read.from == read.to => world.ledger.note("empty page", || shard.to_string()),
                Ok(read) => world.ledger.note("page", || format!("{}..{} of {shard}", read.from, read.to)),
            }
            Ok(self.page(world, iterator, read?))
        };
        self.0.call(read).await
    }
}

impl Source {
    fn page(&self, world: &World, iterator: &ShardIterator, read: Read) -> Page {
        let shard = &world.cloud.streams[read.stream].shards[&iterator.shard];
        let dropped = self.0.flaw == Flaw::LastPageDropped && read.next.is_none();
        let from = if dropped { read.to } else { read.from };
        let records = shard.records[from..read.to].iter().map(|kept| Ok(record(iterator, kept))).collect();
        Page { records, next: read.next.map(|token| ShardIterator { token, ..iterator.clone() }) }
    }
}

fn record(iterator: &ShardIterator, kept: &Record) -> ChangeRecord {
    let keys = BTreeMap::from([("pk".to_owned(), Attribute::S(kept.serial.to_string()))]);
    ChangeRecord {
        stream: Arc::clone(&iterator.stream),
        stream_shard: iterator.shard.shared(),
        event: if kept.ttl { EventName::Remove } else { EventName::Modify },
        keys: Box::new(keys),
        old: None,
        new: None,
        sequence: kept.sequence,
        approximate_time_s: None,
        ttl_deletion: kept.ttl,
    }
}
