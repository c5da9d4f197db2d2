//! The ready-made loader on the wire: a table that answers over HTTP as DynamoDB does, and as strictly.
#![cfg(all(feature = "dynamodb", feature = "aws", feature = "memory"))]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use ringtide::aws_sdk_dynamodb::Client;
use ringtide::dynamodb::ItemLoader;
use ringtide::{Cache, Error, Space, SpaceSettings, config};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Product {
    pk: String,
    price: u64,
}

/// Items with the partition keys "0", "1" and so on that are even.
struct Table {
    url: String,
    calls: Arc<Mutex<Vec<usize>>>,
    _serving: AbortOnDropHandle<()>,
}

impl Table {
    /// One that processes so many keys of each call; the first two get none where it is throttled.
    async fn start(keys_a_call: usize, throttled: bool) -> Self {
        let calls = Arc::new(Mutex::new(Vec::new()));
        let of_server = calls.clone();
        let answer = move |headers: HeaderMap, body: Bytes| {
            let calls = of_server.clone();
            async move {
                let before = calls.lock().unwrap().len();
                let processed = if throttled && before < 2 { 0 } else { keys_a_call };
                match answer(&headers, &body, processed) {
                    Ok((keys, answer)) => {
                        calls.lock().unwrap().push(keys);
                        (StatusCode::OK, answer.to_string())
                    }
                    Err(problem) => {
                        let kind = "com.amazon.coral.validate#ValidationException";
                        (StatusCode::BAD_REQUEST, json!({ "__type": kind, "message": problem }).to_string())
                    }
                }
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let serving = async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() };
        Self { url, calls, _serving: AbortOnDropHandle::new(tokio::spawn(serving)) }
    }

    async fn loader(&self) -> ItemLoader {
        let aws = config::Aws { endpoint_url: Some(self.url.clone()), ..config::Aws::default() };
        ItemLoader::new(Client::new(&ringtide::sdk_config(&aws).await), "products")
    }

    fn calls(&self) -> Vec<usize> {
        self.calls.lock().unwrap().clone()
    }
}

/// How many keys were asked for, and the answer with those that are processed.
fn answer(headers: &HeaderMap, body: &Bytes, processed: usize) -> Result<(usize, Value), String> {
    if headers.get("x-amz-target").is_none_or(|target| target != "DynamoDB_20120810.BatchGetItem") {
        return Err("it is no BatchGetItem".to_owned());
    }
    let request: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let asked = &request["RequestItems"]["products"];
    if asked["ConsistentRead"] != json!(true) {
        return Err("the read is not strongly consistent".to_owned());
    }
    let keys = asked["Keys"].as_array().ok_or("no keys")?;
    if !(1..=100).contains(&keys.len()) {
        return Err(format!("{} keys: Too many items requested for the BatchGetItem call", keys.len()));
    }
    let mut seen = keys.clone();
    seen.sort_by_key(ToString::to_string);
    seen.dedup();
    if seen.len() < keys.len() {
        return Err("Provided list of item keys contains duplicates".to_owned());
    }
    let (now, later) = keys.split_at(processed.min(keys.len()));
    let even =
        |key: &&Value| key["pk"]["S"].as_str().and_then(|pk| pk.parse::<u64>().ok()).is_some_and(|pk| pk % 2 == 0);
    let items: Vec<Value> =
        now.iter().filter(even).map(|key| json!({ "pk": key["pk"], "price": { "N": key["pk"]["S"] } })).collect();
    let left = match later {
        [] => json!({}),
        later => json!({ "products": { "Keys": later, "ConsistentRead": true } }),
    };
    Ok((keys.len(), json!({ "Responses": { "products": items }, "UnprocessedKeys": left })))
}

async fn products() -> (Cache, Space<Product>) {
    let space = SpaceSettings::new("product", "product:{pk}");
    let cache = Cache::builder().in_memory().space(space).build().await.unwrap();
    let products = cache.space("product").unwrap();
    (cache, products)
}

fn expected(pk: u64) -> Option<Product> {
    pk.is_multiple_of(2).then(|| Product { pk: pk.to_string(), price: pk })
}

#[tokio::test]
async fn pages_are_strongly_consistent_and_what_is_left_unprocessed_is_asked_for_again() {
    let (table, (cache, products)) = (Table::start(40, false).await, products().await);
    let loader = table.loader().await;
    let load = move |keys: Vec<String>| loader.clone().load_many::<_, Product>(keys);
    // Twice each: no key stands twice in a call.
    let keys = (0..150_u64).chain(0..150).map(|pk| pk.to_string());
    for (pk, item) in products.get_many(keys, load).await {
        assert_eq!(item.unwrap(), expected(pk.parse().unwrap()));
    }
    let mut calls = table.calls();
    calls.sort_unstable();
    assert_eq!(calls, [10, 20, 50, 60, 100], "pages of 100 and of 50, and what 40 left of each");
    cache.settled().await;
    let cached =
        products.get_many(["1".to_owned(), "2".to_owned()], |_| async { Err::<HashMap<_, Product>, _>("loaded") });
    assert_eq!(cached.await.into_values().unwrap(), [None, expected(2)], "absences are cached too");
}

#[tokio::test]
async fn a_table_that_is_throttled_for_a_while_delays_its_keys_and_fails_none() {
    let (table, (_cache, products)) = (Table::start(100, true).await, products().await);
    let bound = products.with_loader(table.loader().await.batched());
    assert_eq!(bound.get("4".to_owned()).await.unwrap(), expected(4));
    assert_eq!(table.calls(), [1, 1, 1]);
}

#[tokio::test]
async fn a_request_that_the_table_refuses_fails_its_keys_with_what_the_table_said() {
    let (table, (_cache, products)) = (Table::start(100, false).await, products().await);
    // Not a BatchGetItem: this table answers nothing else.
    let loader = table.loader().await;
    let read = products.get_or_load("4", move || loader.clone().load::<Product>("4")).await;
    let error = read.unwrap_err();
    assert!(matches!(error, Error::LoadFailed { .. }), "{error}");
    assert!(error.to_string().contains("it is no BatchGetItem"), "{error}");
}
