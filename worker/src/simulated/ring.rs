//! One worker's pipeline to a ring whose shards fail, are slow, and come back.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use ringtide_core::pipeline::Abandoned;
use ringtide_core::record::{ChangeRecord, SequenceNumber, UnreadableRecord};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::flaw::Flaw;
use super::line::Line;
use crate::deliver::{Deliver, Delivery};
use crate::stream::ShardId;

pub(super) struct Ring {
    line: Line,
    shards: usize,
    /// What is under way ends with the worker.
    under_way: Mutex<JoinSet<()>>,
}

impl Ring {
    pub(super) fn new(line: Line) -> Self {
        let shards = line.world(|world| world.ring.len());
        Self { line, shards, under_way: Mutex::default() }
    }

    /// Starts work that goes on whether anybody waits for it or not, as a pipeline's does.
    fn start(&self, work: impl Future<Output = ()> + Send + 'static) -> Delivery {
        let (done, delivered) = oneshot::channel();
        let mut under_way = self.under_way.lock().unwrap();
        while under_way.try_join_next().is_some() {}
        let line = self.line.clone();
        under_way.spawn(async move {
            work.await;
            if !line.is_abandoned() {
                let _given_up = done.send(());
            }
        });
        Box::pin(async move { delivered.await.map_err(|_| Abandoned) })
    }
}

/// Waits until a ring shard has taken something; it is tried again for as long as that takes.
async fn reach(line: &Line, shard: usize) {
    loop {
        line.travel(1).await;
        let (down, delay) =
            line.world(|world| (world.ring[shard].down_until > Instant::now(), world.ring[shard].delay));
        if !down && !line.is_cut() {
            tokio::time::sleep(delay).await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

#[async_trait]
impl Deliver for Ring {
    async fn submit(&self, page: Vec<Result<ChangeRecord, UnreadableRecord>>, _: u64) -> Delivery {
        let records: Vec<ChangeRecord> = page.into_iter().map(Result::unwrap).collect();
        let Some((stream, shard)) =
            records.first().map(|first| (first.stream.arn.clone(), ShardId::from(&*first.stream_shard)))
        else {
            return Box::pin(std::future::ready(Ok(())));
        };
        self.line.world(|world| world.handed_over(&stream, &shard));
        let mut parts: BTreeMap<usize, Vec<SequenceNumber>> = BTreeMap::new();
        for record in &records {
            parts.entry(self.line.below(self.shards as u32) as usize).or_default().push(record.sequence);
        }
        let line = self.line.clone();
        let delivery = self.start(async move {
            let (line, stream, shard) = (&line, &stream, &shard);
            join_all(parts.into_iter().map(|(part, sequences)| async move {
                reach(line, part).await;
                line.world(|world| world.delivered(stream, shard, &sequences));
            }))
            .await;
        });
        match self.line.flaw {
            Flaw::CheckpointBeforeDelivery => Box::pin(std::future::ready(Ok(()))),
            _ => delivery,
        }
    }

    async fn flush_table(&self, _: &str) -> Delivery {
        let ordered = Instant::now();
        self.line.world(|world| world.flush_ordered());
        if self.line.flaw == Flaw::NewStreamWithoutFlush && self.line.world(|world| world.cloud.streams.len() > 1) {
            return Box::pin(std::future::ready(Ok(())));
        }
        let (line, shards) = (self.line.clone(), self.shards);
        let delivery = self.start(async move {
            join_all((0..shards).map(|shard| reach(&line, shard))).await;
            line.world(|world| world.flushed(ordered));
        });
        match self.line.flaw {
            Flaw::FlushNotAwaited => Box::pin(std::future::ready(Ok(()))),
            _ => delivery,
        }
    }

    fn unhealthy(&self) -> Vec<String> {
        let down =
            |world: &mut super::world::World| world.ring.iter().filter(|s| s.down_until > Instant::now()).count();
        (0..self.line.world(down)).map(|shard| shard.to_string()).collect()
    }

    fn parking_fails(&self) -> bool {
        false
    }

    fn held_up(&self) -> bool {
        !self.unhealthy().is_empty()
    }

    async fn close(&self, _: Instant) -> usize {
        self.under_way.lock().unwrap().len()
    }
}

/// So that a worker that is dropped leaves nothing behind.
pub(super) fn of(line: &Line) -> Arc<Ring> {
    Arc::new(Ring::new(line.clone()))
}
