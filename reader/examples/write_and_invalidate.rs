//! Writes an item and invalidates its entry, without waiting for the change's record:
//! `cargo run --example write_and_invalidate -- 127.0.0.1:6379`.
//!
//! The worker or the function delivers the record a little later; it finds nothing left to do.

#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use ringtide::{BoxError, Cache, Error, Loaded, Mode, Space, SpaceSettings, Stamp, Version, VersionClock};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Product {
    name: String,
    cents: u64,
    /// The version attribute: a number that only rises, with more digits than other fields take from an item.
    version: Stamp,
}

/// Stands for the table. `VersionClock::stamp_item` (feature `dynamodb`) makes a real item's version and the condition of
/// its write.
#[derive(Clone, Default)]
struct Table {
    items: Arc<Mutex<HashMap<u64, Product>>>,
}

impl Table {
    async fn get(&self, pk: u64) -> Result<Option<Product>, std::io::Error> {
        println!("  the table is asked for {pk}");
        Ok(self.items.lock().unwrap_or_else(PoisonError::into_inner).get(&pk).cloned())
    }

    /// Writes an item where the table holds no version as new; else tells which one it holds.
    async fn put(&self, pk: u64, product: Product) -> Result<(), Stamp> {
        let mut items = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        match items.get(&pk) {
            Some(held) if held.version >= product.version => Err(held.version),
            Some(_) | None => {
                items.insert(pk, product);
                Ok(())
            }
        }
    }
}

struct Products {
    space: Space<Product>,
    table: Table,
    clock: VersionClock,
}

impl Products {
    async fn get(&self, pk: u64) -> Result<Option<Product>, Error> {
        let table = self.table.clone();
        let load = move || {
            let table = table.clone();
            async move {
                let product = table.get(pk).await?;
                let version = product.as_ref().map_or(Version::NONE, |product| Version::from_number(product.version.0));
                Ok::<_, std::io::Error>(Loaded::new(product).version(version))
            }
        };
        self.space.get_or_load(pk, load).await
    }

    async fn put(&self, pk: u64, name: &str, cents: u64) -> Result<(), Error> {
        let version = loop {
            let version = Stamp(self.clock.now());
            match self.table.put(pk, Product { name: name.to_owned(), cents, version }).await {
                Ok(()) => break version,
                // Somebody else was faster, or their clock is ahead: a real service decides again on what it reads.
                Err(held) => self.clock.observe(held.0),
            }
        };
        let invalidated = self.space.invalidate_version(pk, version.0).await?;
        println!("  invalidated: {:?}, to be sent again: {}", invalidated.applied, invalidated.queued);
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:6379".to_owned());
    let mode = Mode::Versioned { attribute: "version".to_owned(), tombstone: None };
    let settings = SpaceSettings::new("product", "product:{pk}").mode(mode);
    let cache = Cache::builder().shard("a", address).space(settings).build().await?;
    let products = Products { space: cache.space("product")?, table: Table::default(), clock: VersionClock::new() };

    products.put(42, "tea", 450).await?;
    println!("{:?}", products.get(42).await?);
    // A function that is frozen after its answer waits for the fill first.
    cache.settled().await;
    products.put(42, "green tea", 480).await?;
    println!("{:?}", products.get(42).await?);
    println!("{:?}", products.get(42).await?);
    cache.close().await;
    Ok(())
}
