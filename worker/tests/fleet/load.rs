//! Writers and readers, and what the readers must see in the end.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::AttributeValue;
use ringtide::dynamodb::ItemLoader;
use ringtide::{Cache, Space};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::LONG;
use crate::world::{TABLES, World, table};

const ITEMS: usize = 20;
const READERS: usize = 3;
/// The emulator looks through every record that was ever written at each call, so that no run may write many more.
const WRITES: u32 = 15_000;
/// The mean pause between writes where that leaves room for it.
const PAUSE: Duration = Duration::from_millis(4);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Item {
    pk: String,
    rev: u64,
}

/// Reads and writes that go on until the audit.
pub(crate) struct Load {
    going: Arc<AtomicBool>,
    tables: Arc<[Table]>,
    history: History,
    writer: tokio::task::JoinHandle<usize>,
    readers: JoinSet<usize>,
    /// How far behind its table an entry was read at most, in ms.
    oldest_ms: Arc<AtomicU64>,
    _cache: Cache,
}

/// What the audit found, where nothing was stale and nothing lost.
pub(crate) struct Audited {
    pub(crate) writes: usize,
    pub(crate) reads: usize,
    /// How far behind its table an entry was read at most, while faults lasted.
    pub(crate) oldest: Duration,
}

/// The revisions of each item, in the order in which they were written; none is written again for the audit, which would
/// hide a loss.
type History = Arc<Mutex<BTreeMap<(usize, usize), Vec<Written>>>>;

#[derive(Clone, Copy)]
struct Written {
    rev: u64,
    at: Instant,
}

/// Since when another revision than the one that was read has been in the table; `None` where it is the newest.
fn outdated(written: &[Written], read: Option<u64>) -> Option<Instant> {
    let newer = written.partition_point(|written| Some(written.rev) <= read);
    written.get(newer).map(|newer| newer.at)
}

struct Table {
    space: Space<Item>,
    loader: ItemLoader,
}

impl Table {
    async fn read(&self, item: usize) -> Option<u64> {
        let (loader, pk) = (self.loader.clone(), item.to_string());
        let key = pk.clone();
        let load = move || loader.clone().load::<Item>(key.clone());
        let read = self.space.get_or_load(pk.as_str(), load);
        let read = tokio::time::timeout(LONG, read).await.expect("no read hangs");
        read.expect("no fault of a worker fails a read").map(|item| item.rev)
    }
}

impl Load {
    /// Starts a load for about this time.
    pub(crate) async fn start(world: &World, time: Duration, random: &mut fastrand::Rng) -> Self {
        let cache = Cache::from_config(world.readers()).await.unwrap();
        let table_of = |n: usize| Table {
            space: cache.space::<Item>(&table(n)).unwrap(),
            loader: ItemLoader::new(world.tables.clone(), table(n)).partition_key("pk").version_attribute("rev"),
        };
        let tables: Arc<[Table]> = (0..TABLES).map(table_of).collect();
        let (going, history) = (Arc::new(AtomicBool::new(true)), History::default());
        let pause = PAUSE.max(time / WRITES);
        let writer = {
            let (going, history, client, mut random) =
                (going.clone(), history.clone(), world.tables.clone(), random.fork());
            tokio::spawn(async move {
                let mut rev = 0;
                while going.load(Ordering::Relaxed) {
                    let (n, item) = (random.usize(0..TABLES), random.usize(0..ITEMS));
                    rev += 1;
                    let put = client.put_item().table_name(table(n)).item("pk", AttributeValue::S(item.to_string()));
                    put.item("rev", AttributeValue::N(rev.to_string())).send().await.unwrap();
                    let written = Written { rev, at: Instant::now() };
                    history.lock().unwrap().entry((n, item)).or_default().push(written);
                    tokio::time::sleep(pause.mul_f64(2.0 * random.f64())).await;
                }
                usize::try_from(rev).unwrap()
            })
        };
        let (mut readers, oldest_ms) = (JoinSet::new(), Arc::new(AtomicU64::new(0)));
        for _ in 0..READERS {
            let (going, tables, mut random) = (going.clone(), tables.clone(), random.fork());
            let (history, oldest_ms) = (history.clone(), oldest_ms.clone());
            readers.spawn(async move {
                let mut reads = 0;
                while going.load(Ordering::Relaxed) {
                    let (n, item) = (random.usize(0..TABLES), random.usize(0..ITEMS));
                    let (read, began) = (tables[n].read(item), Instant::now());
                    let read = read.await;
                    let since = outdated(history.lock().unwrap().get(&(n, item)).map_or(&[], Vec::as_slice), read);
                    if let Some(since) = since {
                        let behind = u64::try_from(began.saturating_duration_since(since).as_millis()).unwrap();
                        oldest_ms.fetch_max(behind, Ordering::Relaxed);
                    }
                    reads += 1;
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                reads
            });
        }
        Self { going, tables, history, writer, readers, oldest_ms, _cache: cache }
    }

    /// Ends the writing, waits until every item is read as it was written last, and reads each once more.
    pub(crate) async fn audit(mut self) -> Audited {
        self.going.store(false, Ordering::Relaxed);
        let writes = self.writer.await.unwrap();
        let mut reads = 0;
        while let Some(reader) = self.readers.join_next().await {
            reads += reader.unwrap();
        }
        let history = self.history.lock().unwrap().clone();
        let newest = history.iter().filter_map(|(item, written)| Some((*item, written.last()?.rev)));
        let newest: BTreeMap<(usize, usize), u64> = newest.collect();
        let began = Instant::now();
        for ((n, item), rev) in &newest {
            loop {
                let read = self.tables[*n].read(*item).await;
                if read == Some(*rev) {
                    break;
                }
                assert!(began.elapsed() < LONG, "item {item} of {} is still read as {read:?}, not as {rev}", table(*n));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        println!("after the last write the caches were true within {} ms", began.elapsed().as_millis());
        for ((n, item), rev) in &newest {
            assert_eq!(self.tables[*n].read(*item).await, Some(*rev), "item {item} of {} is stale", table(*n));
        }
        Audited { writes, reads, oldest: Duration::from_millis(self.oldest_ms.load(Ordering::Relaxed)) }
    }
}
