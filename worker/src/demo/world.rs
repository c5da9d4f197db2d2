//! The application of the demo: it reads through the cache and writes to the table, and judges every read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use ringtide::{Cache, Space};
use ringtide_core::config::Config;
use ringtide_core::key::CacheKey;
use ringtide_core::ring::Ring;
use tokio_util::sync::CancellationToken;

use super::DemoError;
use super::catalog::{Catalog, Category, Item, Price, Product, Top, VersionClock};
use super::lag::Lag;
use super::ledger::{Ledger, State};
use super::stats::Stats;

/// What all readers and writers share.
pub(super) struct World {
    pub(super) catalog: Catalog,
    pub(super) clock: VersionClock,
    pub(super) ledger: Ledger,
    pub(super) lag: Lag,
    pub(super) stats: Stats,
    pub(super) ring: Ring,
    _cache: Cache,
    products: Space<Product>,
    prices: Space<Price>,
    tops: Space<Top>,
}

impl World {
    /// Connects the cache.
    pub(super) async fn new(config: Config, catalog: Catalog) -> Result<Self, DemoError> {
        let ring = Ring::new(config.ring.clone())
            .map_err(|errors| DemoError::Ring(errors.iter().map(ToString::to_string).collect()))?;
        let cache = Cache::from_config(config).await?;
        Ok(Self {
            catalog,
            clock: VersionClock::default(),
            ledger: Ledger::new(),
            lag: Lag::new(ring.shards().len()),
            stats: Stats::new()?,
            ring,
            products: cache.space("product")?,
            prices: cache.space("price")?,
            tops: cache.space("category")?,
            _cache: cache,
        })
    }

    /// Puts every item into the table, and one for each probe.
    pub(super) async fn fill(&self) -> Result<(), DemoError> {
        for item in Item::all() {
            self.write(item, Write::Put { offer: item.0 % 3 == 0 }).await?;
        }
        for index in 0..self.ring.shards().len() {
            if let Some((pk, _)) = self.probe_key(index) {
                self.catalog.put(&pk, "probe", self.clock.next()).await?;
            }
        }
        Ok(())
    }

    /// An item whose price is cached on a ring shard, and the key it is cached under.
    pub(super) fn probe_key(&self, shard: usize) -> Option<(String, CacheKey)> {
        (0..100_000).map(|number| format!("probe-{number}")).find_map(|pk| {
            let key = self.prices.key(&pk).ok()?;
            (self.ring.locate(key.as_bytes()).index() == shard).then_some((pk, key))
        })
    }

    /// Reads a price through the cache.
    pub(super) async fn read_price(&self, pk: &str) -> Result<Option<Price>, ringtide::Error> {
        let (catalog, item) = (self.catalog.clone(), pk.to_owned());
        let load = move || {
            let (catalog, item) = (catalog.clone(), item.clone());
            async move { catalog.price(&item).await }
        };
        self.prices.get_or_load(pk, load).await
    }

    /// Reads a product through the cache.
    pub(super) async fn read_product(&self, pk: &str) -> Result<Option<Product>, ringtide::Error> {
        let (catalog, item) = (self.catalog.clone(), pk.to_owned());
        let load = move || {
            let (catalog, item) = (catalog.clone(), item.clone());
            async move { catalog.product(&item).await }
        };
        self.products.get_or_load(pk, load).await
    }

    /// Reads a category through the cache.
    pub(super) async fn read_top(&self, category: Category) -> Result<Option<Top>, ringtide::Error> {
        let catalog = self.catalog.clone();
        let load = move || {
            let catalog = catalog.clone();
            async move { catalog.top(category).await }
        };
        self.tops.get_or_load(category.to_string(), load).await
    }

    /// Reads something popular and judges what came.
    async fn read(&self, random: &mut Rng) {
        let item = Item::popular(random);
        let pk = item.pk();
        let began = Instant::now();
        let failed = match random.u8(..100) {
            0..60 => match self.read_product(&pk).await {
                Ok(seen) => {
                    let version = seen.map(|product| product.version);
                    self.judge(item, self.products.key(&pk), version, began);
                    None
                }
                Err(error) => Some(error),
            },
            60..85 => match self.read_price(&pk).await {
                Ok(seen) => {
                    let version = seen.map(|price| price.version);
                    self.judge(item, self.prices.key(&pk), version, began);
                    None
                }
                Err(error) => Some(error),
            },
            _ => {
                let category = item.category(random.bool());
                match self.read_top(category).await {
                    Ok(seen) => {
                        self.judge_top(category, &seen.unwrap_or(Top { items: Vec::new() }), began);
                        None
                    }
                    Err(error) => Some(error),
                }
            }
        };
        self.stats.read(began.elapsed(), failed);
    }

    fn judge(&self, item: Item, key: Result<CacheKey, ringtide::Error>, version: Option<u64>, began: Instant) {
        let Ok(key) = key else { return };
        let delivered = self.lag.delivered(self.ring.locate(key.as_bytes()).index(), began);
        let seen = |state: &State| match version {
            Some(version) => state.version == version && state.category.is_some(),
            None => state.category.is_none(),
        };
        self.stats.judged(key.as_str(), self.ledger.judge(item, seen, began, delivered));
    }

    fn judge_top(&self, category: Category, top: &Top, began: Instant) {
        let Ok(key) = self.tops.key(category.to_string()) else { return };
        let delivered = self.lag.delivered(self.ring.locate(key.as_bytes()).index(), began);
        for item in Item::of(category) {
            let pk = item.pk();
            let version = top.items.iter().find(|(member, _)| *member == pk).map(|(_, version)| *version);
            let seen = |state: &State| match version {
                Some(version) => state.version == version && state.category.is_some(),
                None => state.category != Some(category),
            };
            self.stats.judged(key.as_str(), self.ledger.judge(item, seen, began, delivered));
        }
    }

    /// Writes an item that nobody else writes, and notes it.
    pub(super) async fn write(&self, item: Item, write: Write) -> Result<(), DemoError> {
        let (pk, version) = (item.pk(), self.clock.next());
        let category = self.ledger.newest(item).and_then(|state| state.category);
        let written = match (write, category) {
            (Write::Update, Some(category)) => {
                self.ledger.begin(item, version, Some(category));
                self.catalog.update(&pk, version).await
            }
            (Write::Delete, _) => {
                self.ledger.begin(item, version, None);
                self.catalog.delete(&pk).await
            }
            (Write::Put { offer }, _) => self.put(item, &pk, version, offer).await,
            (Write::Update, None) => self.put(item, &pk, version, false).await,
        };
        written?;
        self.ledger.commit(item);
        self.stats.written();
        Ok(())
    }

    async fn put(&self, item: Item, pk: &str, version: u64, offer: bool) -> Result<(), DemoError> {
        let category = item.category(offer);
        self.ledger.begin(item, version, Some(category));
        self.catalog.put(pk, &category.to_string(), version).await
    }
}

/// A way to write an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Write {
    /// Changes price and version; puts an item that does not exist.
    Update,
    /// Replaces the item, perhaps in another category.
    Put {
        offer: bool,
    },
    Delete,
}

/// Reads for ever, with a pause after every few reads that leaves room for the servers on a small machine.
pub(super) async fn reader(world: Arc<World>, mut random: Rng, stop: CancellationToken) {
    let reading = async {
        loop {
            for _ in 0..2 {
                world.read(&mut random).await;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    stop.run_until_cancelled(reading).await;
}

/// Writes its share of the items until it is told to stop; a write that has begun is ended.
pub(super) async fn writer(world: Arc<World>, share: Vec<Item>, mut random: Rng, stop: CancellationToken) {
    while !stop.is_cancelled() {
        let Some(item) = random.choice(&share) else { return };
        let write = match random.u8(..100) {
            0..70 => Write::Update,
            70..90 => Write::Put { offer: random.bool() },
            _ => Write::Delete,
        };
        if let Err(error) = world.write(*item, write).await {
            world.stats.write_failed(&error);
        }
        tokio::time::sleep(Duration::from_millis(random.u64(20..40))).await;
    }
}
