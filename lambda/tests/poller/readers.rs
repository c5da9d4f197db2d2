//! Readers of the cache: real ones, with loads from the model of the table that may be slow.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use ringtide::{Cache, Loaded, Space};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use super::table::{Item, Mirror, Table};

/// Longer than any read takes; reaching it is a failure.
const HUNG: Duration = Duration::from_secs(30);

/// The key spaces, typed.
#[derive(Clone)]
pub(crate) struct Spaces {
    cache: Cache,
    versioned: Space<Item>,
    plain: Space<Item>,
    category: Space<Vec<String>>,
    price: Space<u64>,
    copy: Space<Item>,
    mirror: Space<Mirror>,
    table: Arc<Mutex<Table>>,
}

impl Spaces {
    pub(crate) fn new(cache: &Cache, table: Arc<Mutex<Table>>) -> Self {
        Self {
            cache: cache.clone(),
            versioned: cache.space("versioned").unwrap(),
            plain: cache.space("plain").unwrap(),
            category: cache.space("category").unwrap(),
            price: cache.space("price").unwrap(),
            copy: cache.space("copy").unwrap(),
            mirror: cache.space("mirror").unwrap(),
            table,
        }
    }

    /// Reads every key once, and returns how many there are.
    pub(crate) async fn read_everything(&self, pks: &[String], categories: &[String]) -> Result<u64, String> {
        let mut reads = JoinSet::new();
        let of_items = pks.iter().flat_map(|pk| (0..5).map(move |space| (space, pk)));
        for (space, key) in of_items.chain(categories.iter().map(|category| (5, category))) {
            let (spaces, key) = (self.clone(), key.clone());
            reads.spawn(async move { spaces.read(space, &key, &key, Duration::ZERO).await.map(|()| 1) });
        }
        reads.join_all().await.into_iter().sum()
    }

    /// Waits until what was loaded is stored, which no read waits for.
    pub(crate) async fn settled(&self) {
        tokio::time::timeout(HUNG, self.cache.settled()).await.expect("fills hang");
    }

    /// Reads one key; a load takes this long after it has looked at the table.
    async fn read(&self, space: u8, pk: &str, category: &str, slow: Duration) -> Result<(), String> {
        let (table, key) = (self.table.clone(), pk.to_owned());
        let item = move || table.lock().unwrap().get(&key);
        match space {
            0 => {
                let load = move || {
                    let item = item();
                    let version = item.as_ref().map(|item| u128::from(item.rev));
                    let loaded = Loaded::new(item);
                    version.map_or(loaded.clone(), |version| loaded.version_number(version))
                };
                read(&self.versioned, pk, load, slow).await
            }
            1 => read(&self.plain, pk, move || Loaded::new(item()), slow).await,
            2 => read(&self.price, pk, move || Loaded::new(item().map(|item| item.price)), slow).await,
            3 => read(&self.copy, pk, move || Loaded::new(item()), slow).await,
            4 => {
                let mirror = |Item { pk, rev, text, .. }| Mirror { pk, rev, text };
                read(&self.mirror, pk, move || Loaded::new(item().map(mirror)), slow).await
            }
            _ => {
                let (table, key) = (self.table.clone(), category.to_owned());
                let load = move || Loaded::new(Some(table.lock().unwrap().category(&key)));
                read(&self.category, category, load, slow).await
            }
        }
    }
}

async fn read<T>(
    space: &Space<T>,
    key: &str,
    load: impl Fn() -> Loaded<T> + Send + Sync + 'static,
    slow: Duration,
) -> Result<(), String>
where
    T: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    let load = move || {
        let loaded = load();
        async move {
            if !slow.is_zero() {
                tokio::time::sleep(slow).await;
            }
            Ok::<_, Infallible>(loaded)
        }
    };
    match tokio::time::timeout(HUNG, space.get_or_load(key, load)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("a read of {key} failed: {error}")),
        Err(_) => Err(format!("a read of {key} hangs")),
    }
}

/// Readers that go on until they are stopped.
pub(crate) struct Readers {
    going: Arc<AtomicBool>,
    tasks: JoinSet<Result<u64, String>>,
}

impl Readers {
    pub(crate) fn start(count: usize, spaces: &Spaces, pks: &[String], categories: &[String], rng: &mut Rng) -> Self {
        let going = Arc::new(AtomicBool::new(true));
        let mut tasks = JoinSet::new();
        for _ in 0..count {
            let (going, spaces, mut rng) = (going.clone(), spaces.clone(), rng.fork());
            let (pks, categories) = (pks.to_vec(), categories.to_vec());
            tasks.spawn(async move {
                let mut reads = 0;
                while going.load(Ordering::Relaxed) {
                    let (pk, category) = (&pks[rng.usize(..pks.len())], &categories[rng.usize(..categories.len())]);
                    let slow = Duration::from_millis(if rng.u8(..3) == 0 { rng.u64(1..8) } else { 0 });
                    spaces.read(rng.u8(..6), pk, category, slow).await?;
                    reads += 1;
                    tokio::time::sleep(Duration::from_millis(rng.u64(..3))).await;
                }
                Ok(reads)
            });
        }
        Self { going, tasks }
    }

    /// Stops them; returns how much they read, or what was wrong.
    pub(crate) async fn stop(self) -> Result<u64, String> {
        self.going.store(false, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().sum()
    }
}
