//! How an application tests what it does with the cache: the whole cache runs, on a ring shard in memory, and no server.
//!
//! `cargo run --example testing --features memory` shows the service at work; its tests are at the end of this file.

#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ringtide::{BoxError, Cache, CacheBuilder, Error, MemoryServer, Space, SpaceSettings};

/// Prices in cents, which change now and then; stands for a table.
#[derive(Default)]
struct Table {
    prices: Mutex<HashMap<u64, u64>>,
    reads: AtomicU64,
}

impl Table {
    async fn price(&self, product: u64) -> io::Result<Option<u64>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        Ok(self.prices.lock().unwrap_or_else(PoisonError::into_inner).get(&product).copied())
    }

    async fn set_price(&self, product: u64, cents: u64) -> io::Result<()> {
        self.prices.lock().unwrap_or_else(PoisonError::into_inner).insert(product, cents);
        Ok(())
    }

    fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

/// The service to be tested. It knows of a cache, and not of what that runs on.
struct Shop {
    prices: Space<u64>,
    table: Arc<Table>,
}

impl Shop {
    /// The settings of the service's cache, but for its ring.
    fn settings() -> CacheBuilder {
        let prices = SpaceSettings::new("price", "price:{product}").ttl(Duration::from_secs(600));
        Cache::builder().space(prices)
    }

    fn new(cache: &Cache, table: Arc<Table>) -> Result<Self, Error> {
        Ok(Self { prices: cache.space("price")?, table })
    }

    async fn price(&self, product: u64) -> Result<Option<u64>, Error> {
        let table = self.table.clone();
        let load = move || {
            let table = table.clone();
            async move { table.price(product).await }
        };
        self.prices.get_or_load(product, load).await
    }

    async fn raise(&self, product: u64, cents: u64) -> Result<(), BoxError> {
        self.table.set_price(product, cents).await?;
        if !self.prices.invalidate(product).await?.is_done() {
            println!("a ring shard is down: it is told as soon as it is up");
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let server = MemoryServer::new("a");
    let cache = Shop::settings().memory_shard(&server).build().await?;
    let shop = Shop::new(&cache, Arc::default())?;
    shop.raise(42, 450).await?;
    for _ in 0..2 {
        println!("the price of 42: {:?}, after {} reads of the table", shop.price(42).await?, shop.table.reads());
        cache.settled().await;
    }
    server.down(true);
    println!("without a server: {:?}", shop.price(42).await?);
    cache.close().await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A shop where product 42 costs 450, with its cache and the server that this runs on.
    async fn shop() -> (Shop, Cache, MemoryServer) {
        let server = MemoryServer::new("a");
        let cache = Shop::settings().memory_shard(&server).build().await.unwrap();
        let shop = Shop::new(&cache, Arc::default()).unwrap();
        shop.table.set_price(42, 450).await.unwrap();
        (shop, cache, server)
    }

    #[tokio::test]
    async fn a_price_is_read_from_the_table_once() {
        let (shop, cache, server) = shop().await;
        for _ in 0..3 {
            assert_eq!(shop.price(42).await.unwrap(), Some(450));
            // Values are stored behind their readers.
            cache.settled().await;
        }
        assert_eq!(shop.table.reads(), 1);
        assert_eq!(server.keys(), ["price:42"]);
    }

    #[tokio::test]
    async fn a_product_that_does_not_exist_is_remembered_too() {
        let (shop, cache, _server) = shop().await;
        for _ in 0..3 {
            assert_eq!(shop.price(7).await.unwrap(), None);
            cache.settled().await;
        }
        assert_eq!(shop.table.reads(), 1);
    }

    #[tokio::test]
    async fn a_raised_price_is_seen_by_the_next_read() {
        let (shop, cache, _server) = shop().await;
        assert_eq!(shop.price(42).await.unwrap(), Some(450));
        cache.settled().await;
        shop.raise(42, 480).await.unwrap();
        assert_eq!(shop.price(42).await.unwrap(), Some(480));
    }

    #[tokio::test]
    async fn an_old_price_is_asked_for_again() {
        let (shop, cache, server) = shop().await;
        assert_eq!(shop.price(42).await.unwrap(), Some(450));
        cache.settled().await;
        server.advance(Duration::from_secs(601));
        assert_eq!(shop.price(42).await.unwrap(), Some(450));
        assert_eq!(shop.table.reads(), 2);
    }

    #[tokio::test]
    async fn customers_do_not_notice_an_outage() {
        let (shop, _cache, server) = shop().await;
        server.down(true);
        assert_eq!(shop.price(42).await.unwrap(), Some(450));
        shop.raise(42, 480).await.unwrap();
        assert_eq!(shop.price(42).await.unwrap(), Some(480));
    }
}
