//! Settings that every request needs, kept in this process's memory and never old:
//! `cargo run --release --example tracked_local -- 127.0.0.1:6379`.
//!
//! A `tracked` key space is answered from memory until the server tells that the entry has changed. The example reads one
//! key some million times, changes it as another process would, and shows how soon the new value is read.

#![allow(clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ringtide::{BoxError, Cache, Error, LocalTier, Space, SpaceSettings};
use serde::{Deserialize, Serialize};

const READS: u32 = 1_000_000;

#[derive(Debug, Serialize, Deserialize)]
struct Tariff {
    revision: u64,
    cents_per_hour: Vec<u64>,
}

/// Stands for the table.
#[derive(Clone, Default)]
struct Table {
    revision: Arc<AtomicU64>,
}

impl Table {
    async fn get(&self) -> Result<Option<Tariff>, std::io::Error> {
        let revision = self.revision.load(Ordering::SeqCst);
        Ok(Some(Tariff { revision, cents_per_hour: (0..24).map(|hour| 100 + hour + revision).collect() }))
    }
}

async fn read(tariffs: &Space<Tariff>, key: &ringtide::CacheKey, table: &Table) -> Result<Option<Arc<Tariff>>, Error> {
    let table = table.clone();
    let load = move || {
        let table = table.clone();
        async move { table.get().await }
    };
    tariffs.get_or_load_shared(key, load).await
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:6379".to_owned());
    let build = || {
        let settings = SpaceSettings::new("tariff", "tariff:{pk}").local(LocalTier::Tracked(Duration::from_secs(60)));
        Cache::builder().shard("a", address.clone()).space(settings).build()
    };
    // The second stands for another process.
    let (cache, other) = (build().await?, build().await?);
    let (tariffs, elsewhere) = (cache.space::<Tariff>("tariff")?, other.space::<Tariff>("tariff")?);
    let (table, key) = (Table::default(), tariffs.key("eu")?);

    read(&tariffs, &key, &table).await?;
    cache.settled().await;
    read(&tariffs, &key, &table).await?;
    let began = Instant::now();
    for _ in 0..READS {
        std::hint::black_box(read(&tariffs, &key, &table).await?);
    }
    println!("{READS} reads, {} ns each", began.elapsed().as_nanos() / u128::from(READS));

    for revision in 1..=3 {
        table.revision.store(revision, Ordering::SeqCst);
        let done = elsewhere.invalidate("eu").await?;
        let (told, mut old) = (Instant::now(), 0_u64);
        while read(&tariffs, &key, &table).await?.is_none_or(|tariff| tariff.revision < revision) {
            old += 1;
        }
        let (after, sure) = (told.elapsed(), done.is_done());
        println!(
            "revision {revision} is read {after:?} after its invalidation (acknowledged: {sure}), {old} old reads"
        );
    }
    cache.close().await;
    other.close().await;
    Ok(())
}
