//! Items of a table as they are read: the SDK's form, and the commands that the routes lead to from them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use ringtide_core::command::Command;
use ringtide_core::record::{Attribute, ChangeRecord, EventName, Stream};
use ringtide_core::route::Router;

use crate::attribute::of_table;

/// An item, or the key of one.
pub(crate) type Item = BTreeMap<String, Attribute>;

/// Takes an item from the SDK.
///
/// # Errors
/// The first attribute of a type that nobody knows.
pub(crate) fn from_sdk(item: &HashMap<String, AttributeValue>) -> Result<Item, String> {
    let named = |(name, value): (&String, &AttributeValue)| match of_table(value) {
        Ok(value) => Ok((name.clone(), value)),
        Err(reason) => Err(format!("attribute {name:?}: {reason}")),
    };
    item.iter().map(named).collect()
}

/// Gives the SDK the key of an item; `None` where an attribute has a type that no key has.
pub(crate) fn key_to_sdk(key: &Item) -> Option<HashMap<String, AttributeValue>> {
    let value = |attribute: &Attribute| match attribute {
        Attribute::S(text) => Some(AttributeValue::S(text.clone())),
        Attribute::N(digits) => Some(AttributeValue::N(digits.clone())),
        Attribute::B(bytes) => Some(AttributeValue::B(Blob::new(bytes.clone()))),
        Attribute::Bool(_)
        | Attribute::Null
        | Attribute::L(_)
        | Attribute::M(_)
        | Attribute::Ss(_)
        | Attribute::Ns(_)
        | Attribute::Bs(_) => None,
    };
    key.iter().map(|(name, attribute)| Some((name.clone(), value(attribute)?))).collect()
}

/// The part of an item that is its primary key.
pub(crate) fn key_of(item: &Item, key_schema: &[String]) -> Item {
    key_schema.iter().filter_map(|name| item.get_key_value(name)).map(|(n, v)| (n.clone(), v.clone())).collect()
}

/// The commands that the routes of a table lead to for an item as it is: as if it had just been written.
///
/// A refresh whose key space has no version attribute carries a version that means nothing, since an item does not tell
/// its place in the stream.
pub(crate) fn commands(router: &Router, table: &str, key_schema: &[String], item: &Item) -> Vec<Command> {
    let stream = Arc::new(Stream { table: table.to_owned(), arn: String::new(), created_ms: 0 });
    let mut commands: Vec<Command> = Vec::new();
    // A route that wants only one of the two events is asked by that one.
    for event in [EventName::Insert, EventName::Modify] {
        let record = ChangeRecord {
            stream: Arc::clone(&stream),
            stream_shard: Arc::from(""),
            event,
            keys: Box::new(key_of(item, key_schema)),
            old: None,
            new: Some(Box::new(item.clone())),
            // The lowest there is: 0 would stand for no version at all.
            sequence: "1".parse().unwrap_or_default(),
            approximate_time_s: None,
            ttl_deletion: false,
        };
        router.route(&record, &mut |command| {
            if !commands.iter().any(|known| known.key == command.key && known.space.name == command.space.name) {
                commands.push(command);
            }
        });
    }
    commands
}

#[cfg(test)]
mod tests {
    use ringtide_core::command::{Action, Image};
    use ringtide_core::config::Config;
    use ringtide_core::version::Version;

    use super::*;

    const CONFIG: &str = r#"
        ring = { shards = [{ name = "a", address = "127.0.0.1:1" }] }
        [spaces.product]
        key = "product:{pk}"
        [spaces.price]
        key = "price:{pk}"
        mode = "versioned"
        version_attribute = "version"
        [[routes]]
        table = "products"
        space = "product"
        action = "refresh"
        on = ["MODIFY"]
        [[routes]]
        table = "products"
        space = "price"
    "#;

    #[test]
    fn an_item_leads_to_the_commands_of_its_last_write() {
        let router = Router::new(Config::parse(CONFIG, []).unwrap().routes);
        let item = from_sdk(&HashMap::from([
            ("pk".to_owned(), AttributeValue::S("1".to_owned())),
            ("version".to_owned(), AttributeValue::N("7".to_owned())),
        ]));
        let commands = commands(&router, "products", &["pk".to_owned()], &item.unwrap());
        let of = |space: &str| &commands.iter().find(|command| *command.space.name == *space).unwrap().action;
        assert_eq!(commands.len(), 2);
        assert_eq!(of("price"), &Action::Invalidate { version: Version::from_number(7) });
        let Action::Refresh { image: Image::Json(json), .. } = of("product") else { panic!("{commands:?}") };
        assert_eq!(&json[..], br#"{"pk":"1","version":7}"#);
    }
}
