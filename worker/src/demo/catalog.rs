//! The table of the demo: its items, its key spaces' values, and how they are loaded and written.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_dynamodb::error::DisplayErrorContext;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, KeysAndAttributes,
    ScalarAttributeType, StreamSpecification, StreamViewType,
};
use ringtide::Loaded;
use ringtide::dynamodb::{ItemError, ItemLoader};
use serde::{Deserialize, Serialize};

use super::DemoError;

/// The table.
pub(super) const TABLE: &str = "products";
/// Items that the writers write over and over.
const BUSY: usize = 240;
/// Items that are written once, while the worker is dead.
const QUIET: usize = 60;
/// Items are split into groups; each has two categories, between which its items move.
const GROUPS: usize = 30;

/// One of the catalog's items, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item(pub(super) usize);

/// A category: the items of a group that are on offer, or those that are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Category {
    pub(super) group: usize,
    pub(super) offer: bool,
}

/// The value of `product:{pk}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Product {
    pub(super) pk: String,
    pub(super) category: String,
    pub(super) price: u64,
    pub(super) version: u64,
}

/// The value of `price:{pk}`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Price {
    pub(super) price: u64,
    pub(super) version: u64,
}

/// The value of `category:{category}:top`: primary keys and versions of a category's items, sorted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Top {
    pub(super) items: Vec<(String, u64)>,
}

/// Stamps versions that only rise: microseconds of the clock, and one more than the last where that is not enough.
#[derive(Debug, Default)]
pub(super) struct VersionClock(AtomicU64);

/// A client of the table; cheap to clone.
#[derive(Clone)]
pub(super) struct Catalog {
    client: Client,
}

impl Item {
    pub(super) fn all() -> impl Iterator<Item = Item> {
        (0..BUSY + QUIET).map(Item)
    }

    pub(super) fn busy() -> impl Iterator<Item = Item> {
        (0..BUSY).map(Item)
    }

    pub(super) fn quiet() -> impl Iterator<Item = Item> {
        (BUSY..BUSY + QUIET).map(Item)
    }

    pub(super) fn of(category: Category) -> impl Iterator<Item = Item> {
        (category.group..BUSY + QUIET).step_by(GROUPS).map(Item)
    }

    pub(super) fn pk(self) -> String {
        format!("p{:03}", self.0)
    }

    pub(super) fn category(self, offer: bool) -> Category {
        Category { group: self.0 % GROUPS, offer }
    }

    /// An item, the first ones more often than the last ones.
    pub(super) fn popular(random: &mut fastrand::Rng) -> Self {
        let all = BUSY + QUIET;
        Self(random.usize(..all).min(random.usize(..all)))
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "g{:02}-{}", self.group, if self.offer { "offer" } else { "regular" })
    }
}

impl Category {
    /// Reads what [`Category`]'s `Display` writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (group, kind) = text.strip_prefix('g')?.split_once('-')?;
        Some(Self { group: group.parse().ok()?, offer: kind == "offer" })
    }
}

impl VersionClock {
    pub(super) fn next(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros());
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let stamp = |last: u64| now.max(last.saturating_add(1));
        match self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(stamp(last))) {
            Ok(last) | Err(last) => stamp(last),
        }
    }
}

impl Catalog {
    /// Makes a client of the emulator, which takes any credentials.
    pub(super) fn connect(endpoint: &str) -> Self {
        let config = aws_sdk_dynamodb::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .endpoint_url(endpoint)
            .region(Region::new("us-east-1"))
            .credentials_provider(Credentials::new("demo", "demo", None, None, "demo"))
            .build();
        Self { client: Client::from_conf(config) }
    }

    /// Creates the table with its stream.
    pub(super) async fn create(&self) -> Result<(), DemoError> {
        let failed = |error: &dyn std::error::Error| DemoError::Table(format!("{}", DisplayErrorContext(error)));
        let key = AttributeDefinition::builder().attribute_name("pk").attribute_type(ScalarAttributeType::S);
        let schema = KeySchemaElement::builder().attribute_name("pk").key_type(KeyType::Hash);
        let stream =
            StreamSpecification::builder().stream_enabled(true).stream_view_type(StreamViewType::NewAndOldImages);
        self.client
            .create_table()
            .table_name(TABLE)
            .billing_mode(BillingMode::PayPerRequest)
            .attribute_definitions(key.build().map_err(|error| failed(&error))?)
            .key_schema(schema.build().map_err(|error| failed(&error))?)
            .stream_specification(stream.build().map_err(|error| failed(&error))?)
            .send()
            .await
            .map_err(|error| failed(&error))?;
        Ok(())
    }

    /// Loads the value of `product:{pk}`.
    pub(super) async fn product(&self, pk: &str) -> Result<Loaded<Product>, ItemError> {
        ItemLoader::new(self.client.clone(), TABLE).partition_key("pk").load(pk).await
    }

    /// Loads the value of `price:{pk}` with its version.
    pub(super) async fn price(&self, pk: &str) -> Result<Loaded<Price>, ItemError> {
        ItemLoader::new(self.client.clone(), TABLE).partition_key("pk").version_attribute("version").load(pk).await
    }

    /// Loads the value of `category:{category}:top` by strongly consistent reads of all items that may be in it.
    pub(super) async fn top(&self, category: Category) -> Result<Option<Top>, DemoError> {
        let keys = Item::of(category).map(|item| HashMap::from([text("pk", item.pk())])).collect();
        let failed = |error: &dyn std::error::Error| DemoError::Table(format!("{}", DisplayErrorContext(error)));
        let wanted = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true).build();
        let wanted = wanted.map_err(|error| failed(&error))?;
        let answer = self.client.batch_get_item().request_items(TABLE, wanted).send().await;
        let answer = answer.map_err(|error| failed(&error))?;
        if answer.unprocessed_keys().is_some_and(|left| !left.is_empty()) {
            return Err(DemoError::Table("BatchGetItem left keys unread".to_owned()));
        }
        let name = category.to_string();
        let mut items = Vec::new();
        for item in answer.responses.unwrap_or_default().into_values().flatten() {
            let product: Product =
                serde_dynamo::from_item(item).map_err(|error| DemoError::Table(error.to_string()))?;
            if product.category == name {
                items.push((product.pk, product.version));
            }
        }
        items.sort();
        Ok(Some(Top { items }))
    }

    /// Replaces an item.
    pub(super) async fn put(&self, pk: &str, category: &str, version: u64) -> Result<(), DemoError> {
        let item = HashMap::from([
            text("pk", pk),
            text("category", category),
            number("price", version % 10_000),
            number("version", version),
        ]);
        let sent = self.client.put_item().table_name(TABLE).set_item(Some(item)).send().await;
        sent.map(drop).map_err(|error| DemoError::Table(DisplayErrorContext(error).to_string()))
    }

    /// Changes an item's price.
    pub(super) async fn update(&self, pk: &str, version: u64) -> Result<(), DemoError> {
        let sent = self
            .client
            .update_item()
            .table_name(TABLE)
            .set_key(Some(HashMap::from([text("pk", pk)])))
            .update_expression("SET price = :p, version = :v")
            .expression_attribute_values(":p", AttributeValue::N((version % 10_000).to_string()))
            .expression_attribute_values(":v", AttributeValue::N(version.to_string()))
            .send()
            .await;
        sent.map(drop).map_err(|error| DemoError::Table(DisplayErrorContext(error).to_string()))
    }

    /// Deletes an item.
    pub(super) async fn delete(&self, pk: &str) -> Result<(), DemoError> {
        let key = HashMap::from([text("pk", pk)]);
        let sent = self.client.delete_item().table_name(TABLE).set_key(Some(key)).send().await;
        sent.map(drop).map_err(|error| DemoError::Table(DisplayErrorContext(error).to_string()))
    }

    /// Loads an item as slowly as a busy origin would.
    pub(super) async fn slow_product(&self, pk: &str, pause: Duration) -> Result<Loaded<Product>, ItemError> {
        tokio::time::sleep(pause).await;
        self.product(pk).await
    }
}

fn text(name: &str, value: impl Into<String>) -> (String, AttributeValue) {
    (name.to_owned(), AttributeValue::S(value.into()))
}

fn number(name: &str, value: u64) -> (String, AttributeValue) {
    (name.to_owned(), AttributeValue::N(value.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_in_the_group_of_its_categories() {
        for item in Item::all() {
            let category = item.category(true);
            assert_eq!(Category::parse(&category.to_string()), Some(category));
            assert!(Item::of(category).any(|other| other == item));
        }
        assert_eq!(Item::busy().chain(Item::quiet()).count(), Item::all().count());
    }

    #[test]
    fn versions_only_rise() {
        let clock = VersionClock::default();
        let stamps: Vec<u64> = (0..1000).map(|_| clock.next()).collect();
        assert!(stamps.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
