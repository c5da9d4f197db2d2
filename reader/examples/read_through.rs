//! A product service that reads through the cache: `cargo run --example read_through -- 127.0.0.1:6379`.
//!
//! The settings are in this file; a service would keep them in `ringtide.toml`, which its worker reads too, and call
//! `Cache::from_config_file("ringtide.toml")`.

#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::sync::Arc;

use ringtide::{BoxError, Cache, Config, Error, Space};
use serde::{Deserialize, Serialize};

const SETTINGS: &str = r#"
[spaces.product]
key = "product:{pk}"
ttl = "10m"
negative_ttl = "30s"
"#;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Product {
    name: String,
    cents: u64,
}

/// Stands for the table; `ringtide::dynamodb::ItemLoader` reads a real one.
#[derive(Clone, Default)]
struct Table {
    items: Arc<HashMap<u64, Product>>,
}

impl Table {
    async fn get(&self, pk: u64) -> Result<Option<Product>, std::io::Error> {
        println!("  the table is asked for {pk}");
        Ok(self.items.get(&pk).cloned())
    }
}

struct Products {
    space: Space<Product>,
    table: Table,
}

impl Products {
    async fn get(&self, pk: u64) -> Result<Option<Product>, Error> {
        let table = self.table.clone();
        let load = move || {
            let table = table.clone();
            async move { table.get(pk).await }
        };
        self.space.get_or_load(pk, load).await
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:6379".to_owned());
    let shards = format!("[ring]\nshards = [{{ name = \"a\", address = {address:?} }}]\n");
    let cache = Cache::from_config(Config::parse(&format!("{shards}{SETTINGS}"), [])?).await?;

    let tea = Product { name: "tea".to_owned(), cents: 450 };
    let products =
        Products { space: cache.space("product")?, table: Table { items: Arc::new(HashMap::from([(42, tea)])) } };
    for pk in [42, 42, 7, 7] {
        println!("product {pk}: {:?}", products.get(pk).await?);
    }
    cache.close().await;
    Ok(())
}
