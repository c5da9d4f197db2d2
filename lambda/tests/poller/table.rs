//! The model of the table: its items, and the stream that its changes make.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::time::Instant;

/// The table's stream.
pub(crate) const STREAM: &str = "arn:aws:dynamodb:us-east-1:000000000000:table/products/stream/2026-01-02T03:04:05.678";

/// The sequence number before the first: the next ones have a digit more.
const BEFORE_FIRST: u128 = 999_999_999_999_999_999_000;

/// An item, and what readers cache of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Item {
    pub(crate) pk: String,
    pub(crate) rev: u64,
    pub(crate) category: String,
    pub(crate) price: u64,
    pub(crate) text: String,
}

/// The part of an item that is kept up to date in the cache, never dropped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Mirror {
    pub(crate) pk: String,
    pub(crate) rev: u64,
    pub(crate) text: String,
}

/// A record as the poller sees it: it knows the number even of one that the function cannot read.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) sequence: u128,
    /// What Lambda tells items apart by.
    pub(crate) item: String,
    pub(crate) json: String,
    pub(crate) arrived: Instant,
    /// The function is to park it.
    pub(crate) unreadable: bool,
    /// The function can read its sequence number.
    pub(crate) number_is_readable: bool,
}

/// The items, and the numbers that only rise.
#[derive(Debug)]
pub(crate) struct Table {
    items: BTreeMap<String, Item>,
    rev: u64,
    sequence: u128,
}

impl Default for Table {
    fn default() -> Self {
        Self { items: BTreeMap::new(), rev: 0, sequence: BEFORE_FIRST }
    }
}

impl Table {
    /// Forgets the items; revisions and sequence numbers go on.
    pub(crate) fn clear(&mut self) {
        self.items.clear();
    }

    pub(crate) fn get(&self, pk: &str) -> Option<Item> {
        self.items.get(pk).cloned()
    }

    /// The keys of a category's items, in order.
    pub(crate) fn category(&self, category: &str) -> Vec<String> {
        self.items.values().filter(|item| item.category == category).map(|item| item.pk.clone()).collect()
    }

    /// Writes an item, or deletes it, and returns the record of that.
    pub(crate) fn change(&mut self, pk: &str, categories: &[String], rng: &mut Rng) -> Arc<Record> {
        let old = self.get(pk);
        if old.is_some() && rng.u8(..6) == 0 {
            return self.delete(pk);
        }
        let category = match &old {
            Some(old) if rng.u8(..3) != 0 => old.category.clone(),
            _ => categories[rng.usize(..categories.len())].clone(),
        };
        let price = match &old {
            Some(old) if rng.bool() => old.price,
            _ => rng.u64(1..1000),
        };
        self.put(pk, &category, price)
    }

    pub(crate) fn put(&mut self, pk: &str, category: &str, price: u64) -> Arc<Record> {
        self.rev += 1;
        let (pk, category) = (pk.to_owned(), category.to_owned());
        let item = Item { pk: pk.clone(), rev: self.rev, category, price, text: format!("text {}", self.rev) };
        let old = self.items.insert(pk.clone(), item.clone());
        self.record(&pk, old.as_ref(), Some(&item))
    }

    pub(crate) fn delete(&mut self, pk: &str) -> Arc<Record> {
        let old = self.items.remove(pk);
        self.record(pk, old.as_ref(), None)
    }

    /// Writes an item so that the function cannot read the new image, and finds the item by its keys alone.
    pub(crate) fn put_with_an_image_that_cannot_be_read(&mut self, pk: &str) -> Option<Arc<Record>> {
        let old = self.get(pk)?;
        let whole = self.put(pk, &old.category, old.price + 1);
        let mut json: Value = serde_json::from_str(&whole.json).unwrap();
        json["dynamodb"]["NewImage"]["price"] = json!({ "Q": [1] });
        json["dynamodb"]["NewImage"]["category"] = json!({ "Q": [1] });
        Some(self.recorded(pk, json, true))
    }

    /// A record that nobody can read, of an item that nobody caches.
    pub(crate) fn unreadable(&mut self, pk: &str, kind: u8) -> Arc<Record> {
        let item = Item { pk: pk.to_owned(), ..Item::default() };
        let record = self.record(pk, None, Some(&item));
        let mut json: Value = serde_json::from_str(&record.json).unwrap();
        let change = json["dynamodb"].as_object_mut().unwrap();
        match kind % 8 {
            0 => drop(change.remove("Keys")),
            1 => drop(change.remove("SequenceNumber")),
            2 => drop(change.insert("SequenceNumber".to_owned(), json!("twelve"))),
            3 => json["dynamodb"] = Value::Null,
            4 => json["eventName"] = json!("UPDATE"),
            5 => json["eventSourceARN"] = json!("arn:aws:sqs:us-east-1:000000000000:queue"),
            6 => json = json!([1, "two", null]),
            _ => json = Value::Null,
        }
        self.recorded(pk, json, true)
    }

    fn record(&mut self, pk: &str, old: Option<&Item>, new: Option<&Item>) -> Arc<Record> {
        let event = match (old, new) {
            (None, _) => "INSERT",
            (Some(_), Some(_)) => "MODIFY",
            (Some(_), None) => "REMOVE",
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut json = json!({
            "eventID": "c4ca4238a0b923820dcc509a6f75849b",
            "eventName": if new.is_none() { "REMOVE" } else { event },
            "eventVersion": "1.1",
            "eventSource": "aws:dynamodb",
            "awsRegion": "us-east-1",
            "eventSourceARN": STREAM,
            "dynamodb": {
                "ApproximateCreationDateTime": now.as_secs(),
                "Keys": { "pk": { "S": pk } },
                "SizeBytes": 100,
                "StreamViewType": "NEW_AND_OLD_IMAGES",
            }
        });
        for (name, image) in [("OldImage", old), ("NewImage", new)] {
            if let Some(image) = image {
                json["dynamodb"][name] = attributes(image);
            }
        }
        self.recorded(pk, json, false)
    }

    fn recorded(&mut self, pk: &str, mut json: Value, unreadable: bool) -> Arc<Record> {
        self.sequence += 1;
        let number = json["dynamodb"]["SequenceNumber"].as_str();
        let number_is_readable = !unreadable || number.is_some_and(|number| number != "twelve");
        if number_is_readable {
            json["dynamodb"]["SequenceNumber"] = json!(self.sequence.to_string());
        }
        let (sequence, item, json) = (self.sequence, pk.to_owned(), json.to_string());
        Arc::new(Record { sequence, item, json, arrived: Instant::now(), unreadable, number_is_readable })
    }
}

fn attributes(item: &Item) -> Value {
    json!({
        "pk": { "S": item.pk },
        "rev": { "N": item.rev.to_string() },
        "category": { "S": item.category },
        "price": { "N": item.price.to_string() },
        "text": { "S": item.text },
    })
}
