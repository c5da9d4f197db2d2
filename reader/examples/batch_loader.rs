//! Pages of a catalogue read through the cache: `cargo run --example batch_loader -- 127.0.0.1:6379`.
//!
//! Every read that misses at about the same time goes to the table in one call. For a DynamoDB table,
//! `ItemLoader::new(client, "products").batched()` (feature `dynamodb`) is such a loader.

#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::io;

use ringtide::{BatchLoader, BoxError, Cache, LoadingSpace, SpaceSettings};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Product {
    name: String,
    cents: u64,
}

/// Stands for a call such as `BatchGetItem`: what does not exist is not in the answer.
async fn load(pks: Vec<u64>) -> Result<HashMap<u64, Product>, io::Error> {
    println!("  the table is asked for {} products: {pks:?}", pks.len());
    let product = |pk| Product { name: format!("tea number {pk}"), cents: 400 + pk };
    Ok(pks.into_iter().filter(|pk| pk % 10 != 9).map(|pk| (pk, product(pk))).collect())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:6379".to_owned());
    let cache =
        Cache::builder().shard("a", address).space(SpaceSettings::new("catalogue", "catalogue:{pk}")).build().await?;
    let products: LoadingSpace<u64, Product> = cache.space("catalogue")?.with_loader(BatchLoader::new(load));

    println!("a page");
    for (pk, product) in products.get_many(1..=10).await {
        println!("product {pk}: {:?}", product?);
    }

    println!("the next page, which begins with what is cached");
    let page = products.get_many(6..=15).await.into_values()?;
    println!("{} of {} products exist", page.iter().flatten().count(), page.len());

    println!("requests that come at the same time, each for itself");
    let (tea, coffee, none) = tokio::join!(products.get(21), products.get(22), products.get(29));
    println!("{:?}, {:?}, {:?}", tea?, coffee?, none?);

    cache.close().await;
    Ok(())
}
