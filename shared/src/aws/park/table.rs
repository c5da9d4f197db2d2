//! Parked records as items of a DynamoDB table.
//!
//! An item has the record's id as its only key, `id`, its position and the reason in attributes of their own for whoever
//! looks at the table, and the whole record as [`ParkedRecord::to_json`] writes it in `record`.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, Select,
};
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::OnceCell;

use super::super::{Failure, Sdk};
use super::failed;
use crate::park::{Kept, ParkError, ParkReader, ParkStore, ParkedRecord};

/// The attribute that is the table's primary key.
const ID: &str = "id";
const RECORD: &str = "record";

/// The longest item of DynamoDB, in bytes, names and values together.
const LONGEST_ITEM: usize = 400 * 1024;

/// The longest reason that is kept beside the record, in bytes.
const LONGEST_REASON: usize = 1024;

type Item = HashMap<String, AttributeValue>;

/// Puts each parked record as one item, under its place in the stream, into a table that is created when it is missing.
#[derive(Debug)]
pub(super) struct Table {
    sdk: Sdk,
    name: Arc<str>,
    client: OnceCell<Client>,
}

impl Table {
    pub(super) fn new(sdk: Sdk, name: &str) -> Self {
        Self { sdk, name: Arc::from(name), client: OnceCell::new() }
    }

    async fn client(&self) -> &Client {
        self.client.get_or_init(|| async { Client::new(self.sdk.config().await) }).await
    }

    fn store(&self) -> Arc<str> {
        Arc::from(self.place())
    }

    fn failed(&self, failure: Failure) -> ParkError {
        failed(self.store(), failure)
    }

    /// Creates the table; what waits to be parked is tried again until it is active.
    async fn create(&self) -> ParkError {
        let unfit =
            |error: &dyn std::fmt::Display| ParkError::Refused { store: self.store(), reason: error.to_string() };
        let attribute =
            AttributeDefinition::builder().attribute_name(ID).attribute_type(ScalarAttributeType::S).build();
        let key = KeySchemaElement::builder().attribute_name(ID).key_type(KeyType::Hash).build();
        let (attribute, key) = match (attribute, key) {
            (Ok(attribute), Ok(key)) => (attribute, key),
            (Err(error), _) | (_, Err(error)) => return unfit(&error),
        };
        let request =
            self.client().await.create_table().table_name(&*self.name).billing_mode(BillingMode::PayPerRequest);
        let created = request.attribute_definitions(attribute).key_schema(key).send().await;
        let being_created =
            || ParkError::Unavailable { store: self.store(), reason: "the table is being created".to_owned() };
        match created.map_err(|error| Failure::of(&error)) {
            Ok(_) => {
                tracing::info!(table = &*self.name, "table for parked records created");
                being_created()
            }
            // Another process created it first.
            Err(Failure::Service { code, .. }) if code == "ResourceInUseException" => being_created(),
            Err(failure) => self.failed(failure),
        }
    }

    fn pages(&self, count: bool) -> impl stream::Stream<Item = Result<(u64, Vec<Item>), ParkError>> + Send {
        stream::try_unfold(Some(None), move |from: Option<Option<Item>>| async move {
            let Some(from) = from else { return Ok(None) };
            let mut scan = self.client().await.scan().table_name(&*self.name).set_exclusive_start_key(from);
            scan = if count { scan.select(Select::Count) } else { scan.consistent_read(true) };
            match scan.send().await.map_err(|error| Failure::of(&error)) {
                Ok(page) => {
                    let next = page.last_evaluated_key.filter(|key| !key.is_empty()).map(Some);
                    let counted = u64::try_from(page.count).unwrap_or_default();
                    Ok(Some(((counted, page.items.unwrap_or_default()), next)))
                }
                // Nothing was ever parked.
                Err(failure) if is_missing(&failure) => Ok(None),
                Err(failure) => Err(self.failed(failure)),
            }
        })
    }
}

#[async_trait]
impl ParkStore for Table {
    async fn park(&self, record: &ParkedRecord) -> Result<(), ParkError> {
        let put = self.client().await.put_item().table_name(&*self.name).set_item(Some(item(record)));
        match put.send().await.map_err(|error| Failure::of(&error)) {
            Ok(_) => Ok(()),
            Err(failure) if is_missing(&failure) => Err(self.create().await),
            Err(failure) => Err(self.failed(failure)),
        }
    }
}

#[async_trait]
impl ParkReader for Table {
    fn place(&self) -> String {
        format!("dynamodb://{}", self.name)
    }

    fn list(&self) -> BoxStream<'_, Result<Kept, ParkError>> {
        self.pages(false).map_ok(|(_, items)| stream::iter(items).map(|item| Ok(kept(&item)))).try_flatten().boxed()
    }

    async fn find(&self, id: &str) -> Result<Vec<Kept>, ParkError> {
        if id.is_empty() {
            return Ok(Vec::new());
        }
        let get = self.client().await.get_item().table_name(&*self.name).key(ID, text(id)).consistent_read(true);
        match get.send().await.map_err(|error| Failure::of(&error)) {
            Ok(got) => Ok(got.item.filter(|item| !item.is_empty()).iter().map(kept).collect()),
            Err(failure) if is_missing(&failure) => Ok(Vec::new()),
            Err(failure) => Err(self.failed(failure)),
        }
    }

    async fn remove(&self, kept: &Kept) -> Result<(), ParkError> {
        let delete = self.client().await.delete_item().table_name(&*self.name).key(ID, text(&kept.handle));
        delete.send().await.map(drop).map_err(|error| self.failed(Failure::of(&error)))
    }

    async fn count(&self, most: u64) -> Result<u64, ParkError> {
        let (mut pages, mut count) = (std::pin::pin!(self.pages(true)), 0);
        while let Some((page, _)) = pages.try_next().await? {
            count += page;
            if count >= most {
                return Ok(most);
            }
        }
        Ok(count)
    }
}

fn is_missing(failure: &Failure) -> bool {
    matches!(failure, Failure::Service { code, .. } if code == "ResourceNotFoundException")
}

fn text(text: impl Into<String>) -> AttributeValue {
    AttributeValue::S(text.into())
}

/// The item that keeps a record: whole, else without the item's images, else without its content.
fn item(record: &ParkedRecord) -> Item {
    let whole = item_of(record);
    if size(&whole) <= LONGEST_ITEM {
        return whole;
    }
    let short = record.without_images();
    // The id is that of the record as it came, so that a second time overwrites the first.
    let shortened = |short: &ParkedRecord| {
        Item::from([(ID.to_owned(), text(record.id()))])
            .into_iter()
            .chain(item_of(short).into_iter().filter(|(name, _)| name != ID))
            .collect::<Item>()
    };
    let without_images = shortened(&short);
    if size(&without_images) <= LONGEST_ITEM {
        return without_images;
    }
    let reason = short.reason[..short.reason.floor_char_boundary(LONGEST_REASON)].to_owned();
    shortened(&ParkedRecord { content: None, reason, ..short })
}

fn item_of(record: &ParkedRecord) -> Item {
    let reason = &record.reason[..record.reason.floor_char_boundary(LONGEST_REASON)];
    let mut item = Item::from([
        (ID.to_owned(), text(record.id())),
        ("reason".to_owned(), text(reason)),
        ("parkedAtMs".to_owned(), AttributeValue::N(record.parked_at_ms.to_string())),
        ("imagesOmitted".to_owned(), AttributeValue::Bool(record.images_omitted)),
        (RECORD.to_owned(), text(record.to_json())),
    ]);
    let known = [
        ("table", record.table.clone()),
        ("streamArn", record.stream_arn.clone()),
        ("streamShard", record.stream_shard.clone()),
        ("sequence", record.sequence.map(|sequence| sequence.to_string())),
    ];
    item.extend(known.into_iter().filter_map(|(name, value)| Some((name.to_owned(), text(value?)))));
    item
}

/// The bytes of an item as DynamoDB counts them, at least.
fn size(item: &Item) -> usize {
    let value = |value: &AttributeValue| match value {
        AttributeValue::S(text) => text.len(),
        // A number takes at most 21 bytes, a truth value one.
        _ => 21,
    };
    item.iter().map(|(name, of)| name.len() + value(of)).sum()
}

fn kept(item: &Item) -> Kept {
    let string = |name: &str| item.get(name).and_then(|value| value.as_s().ok()).cloned().unwrap_or_default();
    let id = string(ID);
    Kept::named(id.clone(), id, string(RECORD).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RawRecord;

    fn record(image: usize, keys: usize) -> ParkedRecord {
        let content = format!(
            r#"{{"dynamodb":{{"ApproximateCreationDateTime":1767225599,"Keys":{{"pk":{{"S":"{}"}}}},"NewImage":{{"a":{{"S":"{}"}}}}}}}}"#,
            "k".repeat(keys),
            "x".repeat(image)
        );
        ParkedRecord {
            table: Some("products".into()),
            sequence: Some("42".parse().unwrap()),
            reason: "bad".into(),
            content: RawRecord::parse(content),
            ..ParkedRecord::default()
        }
    }

    #[test]
    fn an_item_is_never_longer_than_dynamodb_takes_and_keeps_its_id() {
        for (image, keys, omitted, content) in
            [(10, 10, false, true), (400 * 1024, 10, true, true), (10, 400 * 1024, true, false)]
        {
            let item = item(&record(image, keys));
            assert!(size(&item) <= LONGEST_ITEM);
            let kept = kept(&item);
            assert_eq!(kept.id, "products/2025/12/31/42");
            let record = kept.record.unwrap();
            assert_eq!((record.images_omitted, record.content.is_some()), (omitted, content), "{image} {keys}");
        }
    }
}
