//! A change reaches what is cached of it, whichever endpoint the stream comes from.

use aws_sdk_dynamodb::types::StreamViewType;

use crate::world::{Endpoint, Product, SPACES, World, stop};

async fn changes_reach_the_cache(endpoint: Endpoint) {
    let world = World::new(endpoint, 3, SPACES).await;
    world.create_table("products", Some(StreamViewType::NewAndOldImages)).await;
    let worker = world.worker().await;
    let cache = world.cache().await;
    let products = cache.space::<Product>("product").unwrap();

    for pk in 0..20 {
        world.put(&pk.to_string(), 1, "tea").await;
    }
    for pk in 0..20 {
        world.read_until(&products, &pk.to_string(), Some(1)).await;
    }
    for pk in 0..20 {
        world.put(&pk.to_string(), 2, "tea").await;
    }
    for pk in 0..20 {
        world.read_until(&products, &pk.to_string(), Some(2)).await;
    }
    // Deleted, and created again: "does not exist" is cached too, and invalidated.
    world.delete("7").await;
    world.read_until(&products, "7", None).await;
    world.put("7", 3, "tea").await;
    world.read_until(&products, "7", Some(3)).await;

    // While nobody consumes the stream the old value is served; a successor goes on where this worker stopped.
    stop(worker).await;
    assert_eq!(world.read(&products, "5").await.unwrap().rev, 2);
    world.put("5", 9, "tea").await;
    assert_eq!(world.read(&products, "5").await.unwrap().rev, 2, "it comes from the cache");
    let worker = world.worker().await;
    world.read_until(&products, "5", Some(9)).await;
    // It knows its place by the endpoint's own number: there was no gap, and what did not change is still cached.
    let load = || async { Err::<Option<Product>, _>("it is cached") };
    assert_eq!(products.get_or_load("6", load).await.unwrap().unwrap().rev, 2);
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_reach_the_cache_on_the_embedded_emulator() {
    changes_reach_the_cache(Endpoint::embedded().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_reach_the_cache_on_ministack() {
    changes_reach_the_cache(Endpoint::ministack().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_many_items_feed_follows_each_of_them_and_both_of_its_values() {
    let world = World::new(Endpoint::embedded().await, 3, SPACES).await;
    world.create_table("products", Some(StreamViewType::NewAndOldImages)).await;
    let worker = world.worker().await;
    let cache = world.cache().await;
    let top = cache.space::<Vec<String>>("category").unwrap();
    let read = async |category: &'static str| {
        let tables = world.tables.clone();
        let load = move || {
            let tables = tables.clone();
            async move {
                let items = tables.scan().table_name("products").consistent_read(true).send().await?;
                let of = |item: &std::collections::HashMap<String, _>, name: &str| match item.get(name) {
                    Some(aws_sdk_dynamodb::types::AttributeValue::S(text)) => text.clone(),
                    _ => String::new(),
                };
                let found = items.items().iter().filter(|item| of(item, "category") == category);
                let mut names: Vec<String> = found.map(|item| of(item, "pk")).collect();
                names.sort();
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(Some(names))
            }
        };
        top.get_or_load(category, load).await.unwrap().unwrap()
    };
    let until = async |category: &'static str, expected: &[&str]| {
        let begun = std::time::Instant::now();
        while read(category).await != expected {
            assert!(begun.elapsed() < crate::world::LONG, "{category} never becomes {expected:?}");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    assert!(read("tea").await.is_empty() && read("coffee").await.is_empty());
    world.put("a", 1, "tea").await;
    world.put("b", 1, "tea").await;
    until("tea", &["a", "b"]).await;
    // From one category to another: the entries of both are dropped.
    world.put("a", 2, "coffee").await;
    until("tea", &["b"]).await;
    until("coffee", &["a"]).await;
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_of_400_kb_is_cached_and_invalidated() {
    let world = World::new(Endpoint::embedded().await, 1, SPACES).await;
    world.create_table("products", Some(StreamViewType::NewAndOldImages)).await;
    let worker = world.worker().await;
    let cache = world.cache().await;
    let products = cache.space::<Product>("product").unwrap();
    let text = "x".repeat(390_000);
    world.put_with("big", 1, "tea", &text).await;
    world.read_until(&products, "big", Some(1)).await;
    assert_eq!(world.read(&products, "big").await.unwrap().text.len(), 390_000);
    world.put_with("big", 2, "tea", &text).await;
    world.read_until(&products, "big", Some(2)).await;
    stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_and_refreshes_are_followed_from_end_to_end() {
    let spaces = r#"
    [spaces.product]
    key = "product:{pk}"
    mode = "versioned"
    version_attribute = "rev"
    [spaces.copy]
    key = "copy:{pk}"
    [[routes]]
    table = "products"
    space = "product"
    [[routes]]
    table = "products"
    space = "copy"
    action = "refresh"
    populate = true
    "#;
    let world = World::new(Endpoint::embedded().await, 2, spaces).await;
    world.create_table("products", Some(StreamViewType::NewAndOldImages)).await;
    let worker = world.worker().await;
    let cache = world.cache().await;
    let products = cache.space::<Product>("product").unwrap();
    let copies = cache.space::<Product>("copy").unwrap();
    // The copy is never loaded: whatever it answers was stored from the stream.
    let copy = async || {
        let load = || async { Err::<Option<Product>, _>("not there yet") };
        copies.get_or_load("1", load).await.ok().flatten().map(|product| product.rev)
    };
    for rev in 1..=5 {
        world.put("1", rev, "tea").await;
        world.read_until(&products, "1", Some(rev)).await;
        let begun = std::time::Instant::now();
        while copy().await != Some(rev) {
            assert!(begun.elapsed() < crate::world::LONG, "the copy is not refreshed");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
    world.delete("1").await;
    world.read_until(&products, "1", None).await;
    world.put("1", 6, "tea").await;
    world.read_until(&products, "1", Some(6)).await;
    stop(worker).await;
}
