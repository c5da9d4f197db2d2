//! A product service over HTTP, with a DynamoDB table behind the cache.
//!
//! ```text
//! cargo run --example axum_products --features dynamodb,aws -- --shard 127.0.0.1:6379 --endpoint-url http://127.0.0.1:4566
//! curl -X PUT 127.0.0.1:3000/products/42 -H 'content-type: application/json' -d '{"name":"tea","cents":450}'
//! curl 127.0.0.1:3000/products/42
//! ```
//!
//! `--endpoint-url` stands for any DynamoDB-compatible server; without it the table is in AWS. The table, with the
//! partition key `pk` of type text, is `products` unless `--table` says otherwise. `--shard` may be given repeatedly.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::AttributeValue;
use axum::Router;
use axum::extract::{Json, Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use ringtide::dynamodb::ItemLoader;
use ringtide::{BoxError, Cache, Error, ReadOptions, Space, SpaceSettings, config};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Product {
    name: String,
    cents: u64,
}

struct Products {
    space: Space<Product>,
    items: ItemLoader,
    client: Client,
    table: String,
}

impl Products {
    async fn get(&self, id: String) -> Result<Option<Product>, BoxError> {
        let (items, pk) = (self.items.clone(), id.clone());
        Ok(self.space.get_or_load(&id, move || items.clone().load::<Product>(pk.clone())).await?)
    }

    async fn put(&self, id: String, product: &Product) -> Result<(), BoxError> {
        let mut item: HashMap<String, AttributeValue> = serde_dynamo::to_item(product)?;
        item.insert("pk".to_owned(), AttributeValue::S(id.clone()));
        self.client.put_item().table_name(&self.table).set_item(Some(item)).send().await?;
        // The worker drops the entry too, a moment later; with this the next read here has the new product already.
        let invalidated = self.space.invalidate(&id).await?;
        if !invalidated.is_done() {
            tracing::warn!(id, "a ring shard is down and is told as soon as it is up");
        }
        Ok(())
    }
}

fn router(products: Products) -> Router {
    Router::new().route("/products/{id}", get(get_product).put(put_product)).with_state(Arc::new(products))
}

async fn get_product(State(products): State<Arc<Products>>, Path(id): Path<String>) -> Result<Response, Failure> {
    Ok(match products.get(id).await? {
        Some(product) => Json(product).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

async fn put_product(
    State(products): State<Arc<Products>>,
    Path(id): Path<String>,
    Json(product): Json<Product>,
) -> Result<StatusCode, Failure> {
    products.put(id, &product).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a client is told of an error: nothing but that there was one.
struct Failure(BoxError);

impl From<BoxError> for Failure {
    fn from(error: BoxError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        tracing::error!(error = %self.0, "request failed");
        match self.0.downcast_ref::<Error>() {
            Some(Error::DeadlineExceeded { .. } | Error::Overloaded { .. }) => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
        .into_response()
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    tracing_subscriber::fmt().init();
    let settings = Settings::parse(std::env::args().skip(1))?;

    let products = SpaceSettings::new("product", "product:{pk}")
        .ttl(Duration::from_secs(600))
        .negative_ttl(Duration::from_secs(30))
        .stale_if_error(Duration::from_secs(3600));
    let shards = settings.shards.iter().enumerate();
    let cache = shards
        .fold(Cache::builder(), |builder, (at, address)| builder.shard(format!("shard-{at}"), address))
        .space(products)
        .build()
        .await?;

    let aws = config::Aws { endpoint_url: settings.endpoint_url, ..config::Aws::default() };
    let client = Client::new(&ringtide::sdk_config(&aws).await);
    let items = ItemLoader::new(client.clone(), &settings.table);
    let space = cache.space("product")?.with(ReadOptions::new().timeout(Duration::from_secs(2)));
    let products = Products { space, items, client, table: settings.table };

    let listener = TcpListener::bind(settings.listen).await?;
    tracing::info!(listen = %listener.local_addr()?, "serving");
    axum::serve(listener, router(products)).with_graceful_shutdown(asked_to_stop()).await?;
    // Loads under way end, and their leases are given back, so that no other process waits for them.
    cache.close().await;
    Ok(())
}

/// Waits for SIGTERM or Ctrl-C.
async fn asked_to_stop() {
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM is not heard of");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

struct Settings {
    shards: Vec<String>,
    endpoint_url: Option<String>,
    table: String,
    listen: SocketAddr,
}

impl Settings {
    fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, BoxError> {
        let listen = SocketAddr::from(([127, 0, 0, 1], 3000));
        let mut settings = Self { shards: Vec::new(), endpoint_url: None, table: "products".to_owned(), listen };
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--shard" => settings.shards.push(value),
                "--endpoint-url" => settings.endpoint_url = Some(value),
                "--table" => settings.table = value,
                "--listen" => settings.listen = value.parse()?,
                _ => {
                    return Err(format!(
                        "{name} is not known; there are --shard, --endpoint-url, --table and --listen"
                    )
                    .into());
                }
            }
        }
        if settings.shards.is_empty() {
            settings.shards.push("127.0.0.1:6379".to_owned());
        }
        Ok(settings)
    }
}
