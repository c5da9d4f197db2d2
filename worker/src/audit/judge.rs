//! One entry against its item. Pure.

use std::collections::BTreeSet;

use ringtide_core::command::{Action, Command, Image};
use ringtide_core::entry::{Entry, State};
use ringtide_core::record::{Attribute, canonical_number};
use ringtide_core::version::Version;

use super::payload::{self, Value};
use super::subject::{Basis, Subject};
use crate::item::Item;

/// What an entry is found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It says what the table says.
    Fresh,
    /// It does not, or it says that the item does not exist and it does.
    Stale {
        /// What is different.
        what: String,
        /// The fields that differ, where fields were compared.
        fields: BTreeSet<String>,
    },
    /// The item does not exist, and that is what is cached.
    Absent,
    /// No reader is given it: it is kept for its floor, or for errors.
    Invalidated,
    /// It cannot be judged.
    Unjudged(&'static str),
}

fn stale(what: impl Into<String>) -> Verdict {
    Verdict::Stale { what: what.into(), fields: BTreeSet::new() }
}

/// Judges an entry that was read before its item was.
///
/// `item` is the item as the table has it, if it is cached under the entry's key now; `expected` the command that its routes
/// would send for that key; `ignored` the fields that are not compared.
pub(crate) fn judge(
    subject: &Subject,
    entry: &Entry,
    item: Option<&Item>,
    expected: Option<&Command>,
    ignored: &BTreeSet<String>,
) -> Verdict {
    match (entry.header.state, item) {
        (State::Tombstone | State::Stale, _) => Verdict::Invalidated,
        (State::Negative, None) => Verdict::Absent,
        (State::Negative, Some(_)) => stale("the item exists and is cached as absent"),
        (State::Value, None) => stale("the item does not exist, or has another key now"),
        (State::Value, Some(item)) => match subject.basis {
            Basis::Version => by_version(subject, entry, item, expected, ignored),
            Basis::Image => by_image(subject, entry, item, expected, ignored),
            Basis::Values => by_values(subject, entry, item, ignored),
        },
    }
}

fn by_version(
    subject: &Subject,
    entry: &Entry,
    item: &Item,
    expected: Option<&Command>,
    ignored: &BTreeSet<String>,
) -> Verdict {
    let version = expected.map_or(Version::NONE, |command| match command.action {
        Action::Invalidate { version } | Action::Refresh { version, .. } => version,
    });
    let cached = entry.header.version;
    if version.is_none() {
        return Verdict::Unjudged("the item has no usable version");
    }
    if cached.is_none() {
        return by_values(subject, entry, item, ignored);
    }
    match cached.cmp(&version) {
        std::cmp::Ordering::Equal => Verdict::Fresh,
        // Changes that no route looks at raise the version, and leave the entry as it is.
        std::cmp::Ordering::Less if subject.watched.is_some() => by_values(subject, entry, item, ignored),
        std::cmp::Ordering::Less => stale("its version is lower than the item's"),
        std::cmp::Ordering::Greater => stale("its version is higher than the item's, which only rises"),
    }
}

fn by_image(
    subject: &Subject,
    entry: &Entry,
    item: &Item,
    expected: Option<&Command>,
    ignored: &BTreeSet<String>,
) -> Verdict {
    let image = expected.and_then(|command| match &command.action {
        Action::Refresh { image: Image::Json(json), .. } => Some(json),
        Action::Refresh { image: Image::Deleted, .. } | Action::Invalidate { .. } => None,
    });
    let Some(image) = image else { return by_values(subject, entry, item, ignored) };
    if *image == entry.payload {
        return Verdict::Fresh;
    }
    // A refresh stores the whole image, and leaves its place in the stream as the version; a reader fills what it likes.
    let whole = !entry.header.version.is_none() && subject.watched.is_none() && ignored.is_empty();
    match (by_values(subject, entry, item, ignored), whole) {
        (Verdict::Fresh, true) if payload::json(image) != payload::read(entry).ok() => {
            stale("it is not the image of the item")
        }
        (verdict, _) => verdict,
    }
}

/// Compares the fields of an object with the attributes of the same name; in a list, those of the objects that are the item.
fn by_values(subject: &Subject, entry: &Entry, item: &Item, ignored: &BTreeSet<String>) -> Verdict {
    let payload = match payload::read(entry) {
        Ok(payload) => payload,
        Err(reason) => return Verdict::Unjudged(reason),
    };
    match payload {
        Value::Object(fields) => of_fields(subject, fields.iter(), item, ignored),
        Value::List(values) => {
            let (of_item, others): (Vec<_>, Vec<_>) = values.iter().partition(|value| is_item(subject, value, item));
            let fields = of_item.into_iter().filter_map(Value::fields).flatten();
            let by_key = |name: &String| subject.key_names().contains(name);
            match of_fields(subject, fields.filter(|(name, _)| !by_key(name)), item, ignored) {
                Verdict::Fresh if !others.is_empty() => Verdict::Unjudged("its payload lists more than the item"),
                verdict => verdict,
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Bytes(_) | Value::Other => {
            Verdict::Unjudged("its payload is neither an object nor a list")
        }
    }
}

fn of_fields<'a>(
    subject: &Subject,
    fields: impl Iterator<Item = (&'a String, &'a Value)>,
    item: &Item,
    ignored: &BTreeSet<String>,
) -> Verdict {
    let (mut compared, mut differing) = (0_usize, BTreeSet::new());
    for (name, value) in fields {
        let watched = subject.watched.as_ref().is_none_or(|watched| watched.contains(name));
        if !watched || ignored.contains(name) {
            continue;
        }
        match item.get(name).and_then(|attribute| agrees(value, attribute)) {
            None => {}
            Some(true) => compared += 1,
            Some(false) => {
                compared += 1;
                differing.insert(name.clone());
            }
        }
    }
    if compared == 0 {
        return Verdict::Unjudged("it shares no field with the item");
    }
    if differing.is_empty() {
        return Verdict::Fresh;
    }
    let names = differing.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
    Verdict::Stale { what: format!("it differs from the item in {names}"), fields: differing }
}

/// Whether a value in a list is an object with the item's primary key.
fn is_item(subject: &Subject, value: &Value, item: &Item) -> bool {
    let Some(fields) = value.fields() else { return false };
    let same = |name: &String| agrees(fields.get(name)?, item.get(name)?);
    subject.key_names().iter().all(|name| same(name) == Some(true))
}

/// Whether a field says what an attribute says; `None` where their types cannot be compared.
fn agrees(value: &Value, attribute: &Attribute) -> Option<bool> {
    match (value, attribute) {
        (Value::Null, attribute) => Some(*attribute == Attribute::Null),
        (Value::Text(text), Attribute::S(attribute)) => Some(text == attribute),
        (Value::Bytes(bytes), Attribute::B(attribute)) => Some(bytes == attribute),
        (Value::Bool(truth), Attribute::Bool(attribute)) => Some(truth == attribute),
        (Value::Number(number), Attribute::N(digits)) => Some(same_number(number, digits)),
        (Value::Text(text), Attribute::N(digits)) => canonical_number(text).map(|_| same_number(text, digits)),
        (Value::List(values), Attribute::L(items)) if values.len() != items.len() || items.is_empty() => {
            Some(values.len() == items.len())
        }
        (Value::List(values), Attribute::L(items)) => {
            all(values.iter().zip(items).map(|(value, item)| agrees(value, item)))
        }
        (Value::List(values), Attribute::Ss(set)) => {
            let text = |value: &Value| if let Value::Text(text) = value { Some(text.clone()) } else { None };
            values.iter().map(text).collect::<Option<BTreeSet<String>>>().map(|texts| texts == *set)
        }
        (Value::List(values), Attribute::Ns(set)) => {
            let within = |value: &Value| match value {
                Value::Number(number) | Value::Text(number) => set.iter().any(|digits| same_number(number, digits)),
                _ => false,
            };
            Some(values.len() == set.len() && values.iter().all(within))
        }
        (Value::Object(fields), Attribute::M(map)) if fields.is_empty() && map.is_empty() => Some(true),
        (Value::Object(fields), Attribute::M(map)) => {
            all(fields.iter().filter_map(|(name, value)| Some(agrees(value, map.get(name)?))))
        }
        // Bytes have many forms in JSON, and an application may keep a value as another type.
        _ => None,
    }
}

/// One that disagrees decides, else one that agrees; nothing does where none can be compared.
fn all(parts: impl Iterator<Item = Option<bool>>) -> Option<bool> {
    parts.flatten().reduce(|all, agrees| all && agrees)
}

/// Whether two numbers are equal, as far as a float can hold them.
fn same_number(a: &str, b: &str) -> bool {
    let exact = canonical_number(a).zip(canonical_number(b)).is_some_and(|(a, b)| a == b);
    exact || matches!((a.parse::<f64>(), b.parse::<f64>()), (Ok(a), Ok(b)) if a.to_bits() == b.to_bits())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use bytes::Bytes;
    use ringtide_core::config::Config;
    use ringtide_core::entry::{Codec, Header};
    use ringtide_core::route::{Route, Router};

    use super::*;
    use crate::item;
    use crate::table::PrimaryKey;

    /// A key space and route, and what becomes of an entry with this version and payload beside this item.
    fn judged(route: &str, version: Option<u128>, payload: &str, item: Option<&[(&str, Attribute)]>) -> Verdict {
        let text = format!(
            "ring = {{ shards = [{{ name = \"a\", address = \"h:1\" }}] }}\n[spaces.p]\nkey = \"p:{{pk}}\"\n{route}"
        );
        let config = Config::parse(&text, []).unwrap();
        let primary = PrimaryKey::of([("pk", "S")]);
        let routes: Vec<&Route> = config.routes.iter().collect();
        let space: &Arc<_> = config.spaces.values().next().unwrap();
        let tables = BTreeMap::from([("t".to_owned(), primary.clone())]);
        let subject = super::super::subject::subject(space, &routes, &tables).unwrap();
        let version = version.map_or(Version::NONE, Version::from_number);
        let header = match payload {
            "" => Header::negative(),
            _ => Header { version, ..Header::value(Codec::Json) },
        };
        let entry = Entry { header, payload: Bytes::from(payload.to_owned()) };
        let item: Option<Item> =
            item.map(|item| item.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect());
        let router = Router::new(config.routes.clone());
        let commands = item.as_ref().map(|item| item::commands(&router, "t", primary.names(), item));
        let expected = commands.as_ref().and_then(|commands| commands.first());
        judge(&subject, &entry, item.as_ref(), expected, &BTreeSet::new())
    }

    const PLAIN: &str = "[[routes]]\ntable = \"t\"\nspace = \"p\"\n";
    const VERSIONED: &str =
        "mode = \"versioned\"\nversion_attribute = \"v\"\n[[routes]]\ntable = \"t\"\nspace = \"p\"\n";

    fn item(price: &str, version: &str) -> Vec<(&'static str, Attribute)> {
        vec![
            ("pk", Attribute::S("1".into())),
            ("price", Attribute::N(price.into())),
            ("v", Attribute::N(version.into())),
        ]
    }

    fn is_stale(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Stale { .. })
    }

    #[test]
    fn values_are_compared_by_the_fields_they_share() {
        let item = item("12.50", "3");
        let plain = |payload: &str| judged(PLAIN, None, payload, Some(&item));
        assert_eq!(plain(r#"{"price":12.5,"own":true}"#), Verdict::Fresh);
        let Verdict::Stale { fields, .. } = plain(r#"{"price":12.4,"pk":"1"}"#) else { panic!("fresh") };
        assert_eq!(fields, BTreeSet::from(["price".to_owned()]));
        assert!(matches!(plain(r#"{"own":1}"#), Verdict::Unjudged(_)));
        assert!(matches!(plain("[1]"), Verdict::Unjudged(_)));
        assert!(matches!(plain("not json"), Verdict::Unjudged(_)));
    }

    #[test]
    fn a_list_is_judged_by_its_objects_that_are_the_item_and_fresh_where_it_holds_nothing_else() {
        let item = item("12.50", "3");
        let list = |payload: &str| judged(PLAIN, None, payload, Some(&item));
        assert_eq!(list(r#"[{"pk":"1","price":12.5},{"pk":"1","v":3}]"#), Verdict::Fresh);
        assert!(is_stale(&list(r#"[{"pk":"1","price":12.4}]"#)));
        assert!(is_stale(&list(r#"[{"pk":"2","price":12.5},7,{"pk":"1","price":12.4}]"#)));
        for more in [r#"[{"pk":"1","price":12.5},{"pk":"2"}]"#, r#"[{"pk":"2","price":9}]"#, r#"[{"pk":"1"}]"#, "[]"] {
            assert!(matches!(list(more), Verdict::Unjudged(_)), "{more}");
        }
    }

    #[test]
    fn existence_is_judged_in_every_space() {
        let item = item("1", "1");
        assert_eq!(judged(PLAIN, None, "", None), Verdict::Absent);
        assert!(is_stale(&judged(PLAIN, None, "", Some(&item))));
        assert!(is_stale(&judged(PLAIN, None, r#"{"price":1}"#, None)));
    }

    #[test]
    fn versions_decide_whatever_the_payload_is() {
        let item = item("1", "7");
        let versioned = |version| judged(VERSIONED, version, "opaque", Some(&item));
        assert_eq!(versioned(Some(7)), Verdict::Fresh);
        assert!(is_stale(&versioned(Some(6))) && is_stale(&versioned(Some(8))));
        assert!(matches!(versioned(None), Verdict::Unjudged(_)), "filled without a version");
    }

    #[test]
    fn a_refreshed_image_is_compared_with_the_one_the_route_would_store() {
        let refresh = format!("{PLAIN}action = \"refresh\"\n");
        let item = item("1", "7");
        assert_eq!(judged(&refresh, None, r#"{"pk":"1","price":1,"v":7}"#, Some(&item)), Verdict::Fresh);
        assert!(is_stale(&judged(&refresh, None, r#"{"pk":"1","price":2,"v":7}"#, Some(&item))));
        let part = r#"{"pk":"1","price":1}"#;
        assert_eq!(judged(&refresh, None, part, Some(&item)), Verdict::Fresh, "a reader filled a part of it");
        assert!(is_stale(&judged(&refresh, Some(9), part, Some(&item))), "an image is stored whole");
    }

    #[test]
    fn what_no_route_looks_at_is_not_compared() {
        let watching = format!("{PLAIN}when_changed = [\"price\"]\n");
        let item = item("1", "7");
        assert_eq!(judged(&watching, None, r#"{"price":1,"v":6}"#, Some(&item)), Verdict::Fresh);
        let versioned = format!("{VERSIONED}when_changed = [\"price\"]\n");
        assert_eq!(judged(&versioned, Some(6), r#"{"price":1,"v":6}"#, Some(&item)), Verdict::Fresh);
        assert!(is_stale(&judged(&versioned, Some(6), r#"{"price":2}"#, Some(&item))));
    }

    #[test]
    fn nested_values_and_sets_are_compared_too() {
        let attribute = Attribute::M(BTreeMap::from([
            ("tags".to_owned(), Attribute::Ss(BTreeSet::from(["a".to_owned(), "b".to_owned()]))),
            ("sizes".to_owned(), Attribute::L(vec![Attribute::N("1".into()), Attribute::N("2".into())])),
            ("odds".to_owned(), Attribute::Ns(BTreeSet::from(["1".to_owned(), "3".to_owned()]))),
            ("none".to_owned(), Attribute::L(Vec::new())),
            ("marks".to_owned(), Attribute::L(vec![Attribute::B(vec![7])])),
        ]));
        let agrees = |text: &str| super::agrees(&payload::json(text.as_bytes()).unwrap(), &attribute);
        assert_eq!(agrees(r#"{"tags":["b","a"],"sizes":[1,2.0]}"#), Some(true));
        assert_eq!(agrees(r#"{"tags":["b"]}"#), Some(false));
        assert_eq!(agrees(r#"{"sizes":[1]}"#), Some(false));
        assert_eq!(agrees(r#"{"odds":[3.0,"1"],"none":[]}"#), Some(true));
        assert_eq!(agrees(r#"{"odds":[3,2]}"#), Some(false));
        assert_eq!(agrees(r#"{"none":[1]}"#), Some(false));
        for nothing in ["7", r#"{"marks":["Bw=="]}"#, r#"{"own":1}"#, "{}"] {
            assert_eq!(agrees(nothing), None, "{nothing} says nothing that could be compared");
        }
    }
}
