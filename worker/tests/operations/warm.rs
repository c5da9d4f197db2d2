//! Warming.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::world::{PATIENCE, World, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn warming_fills_what_a_refresh_would_store_and_leaves_what_is_cached() {
    let world = World::new().await;
    for number in 0..250 {
        world.put(&number.to_string(), number).await;
    }
    world.fill("page:7", None, Some(r#"{"a reader's":true}"#)).await;
    let dry = world.run(&["warm", "--table", "products", "--dry-run", "--json"]).await;
    assert_eq!((dry.code, world.is_cached("page:1")), (Some(0), false), "{dry:?}");
    assert!(dry.json()["keys"][0].as_str().unwrap().starts_with("page:"), "{dry:?}");

    let warmed = world.run(&["warm", "--table", "products", "--rate", "10000", "--json"]).await;
    let counts = warmed.json();
    assert_eq!((warmed.code, &counts["items"], &counts["filled"]), (Some(0), &250.into(), &249.into()), "{warmed:?}");
    assert_eq!((&counts["cached"], &counts["complete"]), (&1.into(), &true.into()));
    let page = world.payload("page:42").await.unwrap();
    assert_eq!(page, r#"{"category":"tea","pk":"42","price":42,"version":42}"#);
    assert_eq!(world.payload("page:7").await.unwrap(), r#"{"a reader's":true}"#);
    let audited = world.run(&["audit", "--json", "--space", "page", "--lag", "100ms"]).await;
    assert_eq!(audited.json()["spaces"]["page"]["fresh"], 249, "{audited:?}");
    let none = world.run(&["warm", "--table", "orders"]).await;
    assert_eq!(none.code, Some(2), "{none:?}");
}

/// Each item changes once while the table is warmed, and a worker delivers that at once: whatever lies between the reading of
/// an item and its fill must not be overtaken. The route does not populate, so that a change leaves nothing behind that
/// would show a fill to be old.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_delivered_meanwhile_wins() {
    const ITEMS: u64 = 600;
    let world = World::new().await;
    for number in 0..ITEMS {
        world.put(&number.to_string(), 0).await;
    }
    let _worker = world.start(&["run"]);
    world.delivering().await;
    let done = AtomicBool::new(false);
    let warming = async {
        let warmed = world.run(&["warm", "--table", "products", "--rate", "200", "--json"]).await;
        done.store(true, Ordering::Release);
        warmed
    };
    let changing = async {
        let mut order: Vec<u64> = (0..ITEMS).collect();
        fastrand::Rng::with_seed(7).shuffle(&mut order);
        let mut changed = 0;
        for few in order.chunks(8) {
            if done.load(Ordering::Acquire) {
                break;
            }
            let names: Vec<String> = few.iter().map(u64::to_string).collect();
            futures_util::future::join_all(names.iter().map(|name| world.put(name, 1))).await;
            changed += few.len();
        }
        changed
    };
    let (warmed, changed) = tokio::join!(warming, changing);
    assert_eq!(warmed.code, Some(0), "{warmed:?}");
    assert!(changed > 20, "only {changed} items changed meanwhile");
    world.delivering().await;
    let audited = world.run(&["audit", "--json", "--space", "page", "--lag", "1s"]).await;
    assert_eq!((audited.code, &audited.json()["stale"]), (Some(0), &0.into()), "{audited:?}");
    assert!(audited.json()["judged"].as_u64().unwrap() >= ITEMS / 2, "{audited:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn warming_stops_when_asked_and_goes_on_where_it_was() {
    let world = World::new().await;
    for number in 0..300 {
        world.put(&number.to_string(), 0).await;
    }
    let file = world.path("warm.json");
    let arguments = ["warm", "--table", "products", "--segments", "1", "--resume", file.to_str().unwrap()];
    let mut first = world.start(&[&arguments[..], &["--rate", "50"]].concat());
    eventually("a first page is noted", async || file.exists()).await;
    first.signal("INT").unwrap();
    let ended = first.ended(PATIENCE).await.unwrap().expect("it ends");
    assert_eq!(ended.code(), Some(1));
    assert!(std::fs::read_to_string(&file).unwrap().contains("after"));

    let other =
        world.run(&["warm", "--table", "products", "--segments", "2", "--resume", file.to_str().unwrap()]).await;
    assert!(other.code == Some(2) && other.said.contains("1 segments"), "{other:?}");
    let rest = world.run(&[&arguments[..], &["--rate", "10000", "--json"]].concat()).await;
    assert_eq!(rest.code, Some(0), "{rest:?}");
    assert!(rest.json()["items"].as_u64().unwrap() < 300, "it began anew: {rest:?}");
    assert!(!file.exists());
    for number in 0..300 {
        assert!(world.is_cached(&format!("page:{number}")), "page:{number} was left out");
    }
}
