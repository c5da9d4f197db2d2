//! Many items at once, from a real table.

use aws_sdk_dynamodb::types::StreamViewType;

use crate::world::{Endpoint, LONG, Product, SPACES, World, stop};

#[tokio::test(flavor = "multi_thread")]
async fn items_are_loaded_by_the_hundred_and_follow_their_changes() {
    let world = World::new(Endpoint::embedded().await, 3, SPACES).await;
    world.create_table("products", Some(StreamViewType::NewAndOldImages)).await;
    let worker = world.worker().await;
    let cache = world.cache().await;
    let products = cache.space::<Product>("product").unwrap().with_loader(world.loader().batched());
    let pks = || (0..250).map(|pk| pk.to_string());
    for pk in pks().filter(|pk| !pk.ends_with('9')) {
        world.put(&pk, 1, "tea").await;
    }
    let read = async || {
        let batch = tokio::time::timeout(LONG, products.get_many(pks())).await.expect("no read hangs");
        let revs = |(pk, product): (String, Result<Option<Product>, _>)| {
            let product: Option<Product> = product.unwrap();
            assert!(product.as_ref().is_none_or(|product| product.pk == pk));
            product.map(|product| product.rev)
        };
        batch.into_iter().map(revs).collect::<Vec<_>>()
    };
    let expected = |rev| pks().map(|pk| (!pk.ends_with('9')).then_some(rev)).collect::<Vec<_>>();
    assert_eq!(read().await, expected(1));
    // All of them change, and what did not exist appears.
    for pk in pks() {
        world.put(&pk, 2, "tea").await;
    }
    let changed = async {
        while read().await != vec![Some(2); 250] {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, changed).await.expect("changes arrive");
    assert_eq!(products.get("9".to_owned()).await.unwrap().unwrap().rev, 2);
    stop(worker).await;
}
