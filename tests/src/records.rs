//! Change records made by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use ringtide_core::record::{Attribute, Attributes, ChangeRecord, EventName, Stream, UnreadableRecord};

/// A page of MODIFY records for `items` different items of the table `products`, with five attributes each.
#[must_use]
pub fn page(items: std::ops::Range<usize>) -> Vec<Result<ChangeRecord, UnreadableRecord>> {
    let stream = Arc::new(Stream { table: "products".into(), arn: "arn".into(), created_ms: 1 });
    let shard: Arc<str> = "shard".into();
    items.map(|item| Ok(modified(item, stream.clone(), shard.clone()))).collect()
}

fn modified(item: usize, stream: Arc<Stream>, stream_shard: Arc<str>) -> ChangeRecord {
    let text = |name: &str, value: String| (name.to_owned(), Attribute::S(value));
    let image = || -> Box<dyn Attributes> {
        Box::new(BTreeMap::from([
            text("pk", item.to_string()),
            text("name", format!("item number {item}")),
            text("category", (item % 100).to_string()),
            ("price".to_owned(), Attribute::N((item % 1000).to_string())),
            ("stock".to_owned(), Attribute::N("7".to_owned())),
        ]))
    };
    let sequence = (item as u128 + 10_u128.pow(21)).to_string();
    ChangeRecord {
        stream,
        stream_shard,
        event: EventName::Modify,
        keys: Box::new(BTreeMap::from([text("pk", item.to_string())])),
        old: Some(image()),
        new: Some(image()),
        sequence: sequence.parse().unwrap_or_default(),
        approximate_time_s: None,
        ttl_deletion: false,
    }
}
