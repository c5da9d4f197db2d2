//! A function that reads through the cache: the short-lived, frozen kind of reader.
//!
//! The event is `{"pk": "42"}`, the answer the product or `null`. `RINGTIDE_CONFIG_TEXT` holds the configuration; a
//! deployed function would pack `ringtide.toml` and call `Cache::from_config_file`.
//!
//! # What a freeze does
//! Lambda freezes the sandbox when the answer has left and the next event was asked for, and thaws it with the next
//! event, or never. To the cache that is a pause of any length:
//! - **The cache is made once**, before the first event: connections, inboxes and flights are shared by all invocations
//!   of the sandbox. Made in the handler, every event would pay for connecting and for subscribing.
//! - **A load ends before its answer**: `get_or_load` returns when its value is there. Nothing is loaded in a frozen
//!   sandbox, unless the invocation gave up waiting.
//! - **The fill is under way when the value is returned**, because a caller never waits for it. It has left the sandbox
//!   long before Lambda freezes it; its answer may be read after the thaw, or be lost, which costs nothing.
//! - **A lease that is held across a freeze expires**, because nobody extends it: two seconds later, by `lease_ttl`,
//!   another reader loads. What the frozen one then stores after its thaw is refused, since its lease is gone: an old
//!   value cannot come back. Keep loads shorter than the function's time-out, and no sandbox freezes with a lease.
//! - **Connections may be gone after a thaw**, closed by the server or forgotten on the way. The first read then finds
//!   out: it is answered by the loader, or by the new connection, and never with an error; the inbox subscribes again,
//!   and wakes its waiters to look for themselves.
//! - **Two sandboxes that miss the same key** share one load as two servers do: the lease is in the ring.

use std::time::Duration;

use lambda_runtime::{Error, LambdaEvent, service_fn};
use ringtide::{Cache, Config, Space};
use serde::{Deserialize, Serialize};

#[derive(Deserialize)]
struct Request {
    pk: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Product {
    pk: String,
    loaded_by: String,
}

/// Stands for the table; `ringtide::dynamodb::ItemLoader` reads a real one.
#[derive(Clone)]
struct Table {
    sandbox: String,
    takes: Duration,
}

impl Table {
    async fn get(&self, pk: String) -> Result<Option<Product>, std::io::Error> {
        tracing::info!(pk, "the table is asked");
        tokio::time::sleep(self.takes).await;
        Ok((pk != "none").then(|| Product { pk, loaded_by: self.sandbox.clone() }))
    }
}

#[derive(Clone)]
struct Products {
    space: Space<Product>,
    table: Table,
}

impl Products {
    async fn get(&self, pk: String) -> Result<Option<Product>, ringtide::Error> {
        let (table, key) = (self.table.clone(), pk.clone());
        let load = move || {
            let (table, pk) = (table.clone(), key.clone());
            async move { table.get(pk).await }
        };
        self.space.get_or_load(pk.as_str(), load).await
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    tracing_subscriber::fmt().json().with_target(false).flatten_event(true).init();
    let env = |name: &str| std::env::var(name).unwrap_or_default();
    let config = Config::parse(&env("RINGTIDE_CONFIG_TEXT"), std::env::vars())?;
    let cache = Cache::from_config(config).await?;
    let takes = Duration::from_millis(env("TABLE_TAKES_MS").parse().unwrap_or(20));
    let products = Products { space: cache.space("product")?, table: Table { sandbox: env("SANDBOX"), takes } };
    let handle = move |event: LambdaEvent<Request>| {
        let products = products.clone();
        async move { products.get(event.payload.pk).await.map_err(Error::from) }
    };
    lambda_runtime::run(service_fn(handle)).await
}
