//! What is named on the command line → records and routes that lead to its keys. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringtide_core::config::Config;
use ringtide_core::key::{CacheKey, KeySpace, Template};
use ringtide_core::record::{
    Attribute, Attributes, ChangeRecord, EventName, JsonImage, SequenceNumber, Stream, UnreadableRecord,
};
use ringtide_core::route::{Route, RouteAction};
use serde_json::Value;
use serde_json::value::RawValue;

use super::What;

/// Records of tables that may be made up, and the routes from those to keys.
pub(super) struct Targets {
    pub(super) routes: Vec<Route>,
    pub(super) records: Vec<Result<ChangeRecord, UnreadableRecord>>,
}

type Item = BTreeMap<String, Attribute>;

impl What {
    /// Finds what is meant.
    ///
    /// # Errors
    /// Everything on the command line that the configuration does not have or that cannot be read.
    pub(super) fn targets(&self, config: &Config) -> Result<Targets, Vec<String>> {
        let mut targets = Targets { routes: Vec::new(), records: Vec::new() };
        let mut problems = Vec::new();
        if let Some(name) = &self.space {
            match of_space(name, &self.keys, config) {
                Ok((route, items)) => targets.add(route, items),
                Err(found) => problems.extend(found),
            }
        }
        for key in &self.raw_key {
            match raw(key, config) {
                Ok((route, item)) => targets.add(route, vec![item]),
                Err(problem) => problems.push(problem),
            }
        }
        if let Some(table) = &self.table {
            let routes: Vec<Route> = config.routes.iter().filter(|route| route.table == *table).cloned().collect();
            if routes.is_empty() {
                let known: BTreeSet<&str> = config.routes.iter().map(|route| route.table.as_str()).collect();
                problems.push(format!("--table: no route names the table {table:?}; known are {}", list(known)));
            }
            targets.routes.extend(routes.into_iter().map(dropping));
            for (index, text) in self.items.iter().enumerate() {
                match item(text) {
                    Ok(item) => targets.records.push(Ok(record(table, item))),
                    Err(problem) => problems.push(format!("--item {}: {problem}", index + 1)),
                }
            }
        }
        if problems.is_empty() { Ok(targets) } else { Err(problems) }
    }
}

impl Targets {
    fn add(&mut self, route: Route, items: Vec<Item>) {
        self.records.extend(items.into_iter().map(|item| Ok(record(&route.table, item))));
        if self.routes.iter().all(|known| known.table != route.table) {
            self.routes.push(route);
        }
    }
}

/// A change of an item of which everything is known: each route renders its one key.
fn record(table: &str, item: Item) -> ChangeRecord {
    ChangeRecord {
        stream: Arc::new(Stream { table: table.to_owned(), arn: String::new(), created_ms: 0 }),
        stream_shard: Arc::from(""),
        event: EventName::Insert,
        keys: Box::new(item),
        old: None,
        new: None,
        sequence: SequenceNumber::default(),
        approximate_time_s: None,
        ttl_deletion: false,
    }
}

/// The route, as one that drops its key whatever happened.
fn dropping(route: Route) -> Route {
    Route { on: EventName::ALL.to_vec(), when_changed: Vec::new(), action: RouteAction::Invalidate, ..route }
}

fn route_to(place: String, space: Arc<KeySpace>) -> Route {
    let attributes = space.template.attributes().map(str::to_owned).collect();
    // No table has a name with a space in it.
    let route = Route {
        table: place.clone(),
        place,
        space,
        attributes,
        on: Vec::new(),
        when_changed: Vec::new(),
        action: RouteAction::Invalidate,
    };
    dropping(route)
}

/// A key space's keys from the values of its placeholders.
fn of_space(name: &str, keys: &[String], config: &Config) -> Result<(Route, Vec<Item>), Vec<String>> {
    let Some(space) = config.spaces.get(name) else {
        let known = config.spaces.keys().map(String::as_str);
        return Err(vec![format!("--space: there is no key space {name:?}; known are {}", list(known))]);
    };
    let names: BTreeSet<&str> = space.template.attributes().collect();
    let (mut items, mut problems) = (Vec::new(), Vec::new());
    let mut current = Item::new();
    for key in keys {
        let Some((placeholder, value)) = key.split_once('=') else {
            problems.push(format!("--key {key:?}: write PLACEHOLDER=VALUE, of {}", list(names.iter().copied())));
            continue;
        };
        if !names.contains(placeholder) {
            let template = space.template.to_string();
            problems.push(format!("--key: the template {template:?} has no placeholder {placeholder:?}"));
            continue;
        }
        if current.contains_key(placeholder) {
            items.push(std::mem::take(&mut current));
        }
        current.insert(placeholder.to_owned(), Attribute::S(value.to_owned()));
    }
    items.push(current);
    for (index, item) in items.iter().enumerate().filter(|_| problems.is_empty()).collect::<Vec<_>>() {
        let missing: Vec<&str> = names.iter().copied().filter(|name| !item.contains_key(*name)).collect();
        if !missing.is_empty() {
            problems.push(format!("--key: the key number {} has no value for {}", index + 1, missing.join(", ")));
        }
    }
    if problems.is_empty() {
        Ok((route_to(format!("key space {name}"), Arc::clone(space)), items))
    } else {
        Err(problems)
    }
}

/// A whole key, and the key space that it belongs to by what it begins with.
fn raw(text: &str, config: &Config) -> Result<(Route, Item), String> {
    let key = CacheKey::new(text).map_err(|error| format!("--raw-key: {error}"))?;
    let of_key = config.spaces.values().filter(|space| key.as_str().starts_with(space.template.prefix()));
    let space = of_key.max_by_key(|space| space.template.prefix().len()).ok_or_else(|| {
        let known = config.spaces.values().map(|space| space.template.prefix());
        format!("--raw-key: no key space's keys begin as {text:?} does; they begin with {}", list(known))
    })?;
    let whole = KeySpace { template: Template::whole(), ..(**space).clone() };
    let names: Vec<String> = whole.template.attributes().map(str::to_owned).collect();
    let item = names.into_iter().map(|name| (name, Attribute::S(text.to_owned()))).collect();
    Ok((route_to(format!("whole keys of {}", space.name), Arc::new(whole)), item))
}

/// Reads an item: DynamoDB's JSON where every attribute has that form, plain JSON otherwise.
fn item(text: &str) -> Result<Item, String> {
    let plain: BTreeMap<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("it is not a JSON object: {error}"))?;
    let typed = |value: &Value| {
        let types = ["S", "N", "B", "BOOL", "NULL", "L", "M", "SS", "NS", "BS"];
        value.as_object().is_some_and(|of| of.len() == 1 && of.keys().all(|name| types.contains(&name.as_str())))
    };
    if !plain.is_empty() && plain.values().all(typed) {
        let raw = RawValue::from_string(text.trim().to_owned()).map_err(|error| error.to_string())?;
        return JsonImage::new(raw).all().map_err(|error| error.to_string());
    }
    Ok(plain.into_iter().map(|(name, value)| (name, attribute(value))).collect())
}

fn attribute(value: Value) -> Attribute {
    match value {
        Value::Null => Attribute::Null,
        Value::Bool(value) => Attribute::Bool(value),
        Value::Number(number) => Attribute::N(number.to_string()),
        Value::String(text) => Attribute::S(text),
        Value::Array(values) => Attribute::L(values.into_iter().map(attribute).collect()),
        Value::Object(map) => Attribute::M(map.into_iter().map(|(name, value)| (name, attribute(value))).collect()),
    }
}

fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("{name:?}")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use ringtide_core::route::Router;

    use super::*;

    const CONFIG: &str = r#"
        ring = { shards = [{ name = "a", address = "h:1" }] }
        spaces = { item = { key = "item:{pk}" }, pair = { key = "pair:{a}:{b}" }, deep = { key = "item:deep:{x}" } }
        [[routes]]
        table = "t"
        space = "item"
        on = ["REMOVE"]
        when_changed = ["name"]
        [[routes]]
        table = "t"
        space = "pair"
        attributes = { a = "pk" }
    "#;

    fn what(space: Option<(&str, &[&str])>, raw: &[&str], table: Option<(&str, &[&str])>) -> What {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        What {
            space: space.map(|(name, _)| name.to_owned()),
            keys: space.map(|(_, keys)| owned(keys)).unwrap_or_default(),
            raw_key: owned(raw),
            table: table.map(|(name, _)| name.to_owned()),
            items: table.map(|(_, items)| owned(items)).unwrap_or_default(),
        }
    }

    /// The keys, each with its key space.
    fn keys(what: &What) -> Result<Vec<String>, String> {
        let targets = what.targets(&Config::parse(CONFIG, []).unwrap()).map_err(|problems| problems.join("\n"))?;
        let router = Router::new(targets.routes);
        let mut keys = Vec::new();
        for record in targets.records.iter().flatten() {
            router.route(record, &mut |command| keys.push(format!("{} {}", command.space.name, command.key)));
        }
        Ok(keys)
    }

    #[test]
    fn a_placeholder_that_comes_again_begins_the_next_key() {
        let pairs = what(Some(("pair", &["a=1", "b=x:y", "b=2", "a=3=3"])), &[], None);
        assert_eq!(keys(&pairs).unwrap(), ["pair pair:1:x:y", "pair pair:3=3:2"]);
        let error = keys(&what(Some(("pair", &["a=1", "a=2", "b=3"])), &[], None)).unwrap_err();
        assert!(error.contains("number 1") && error.contains("for b"), "{error}");
        let error = keys(&what(Some(("pair", &["c=1", "d"])), &[], None)).unwrap_err();
        assert!(error.contains("\"c\"") && error.contains("PLACEHOLDER=VALUE"), "{error}");
        let error = keys(&what(Some(("none", &["a=1"])), &[], None)).unwrap_err();
        assert!(error.contains("\"deep\", \"item\", \"pair\""), "{error}");
    }

    #[test]
    fn a_whole_key_belongs_to_the_key_space_with_the_longest_beginning() {
        let raw = what(None, &["item:1", "item:deep:%1:"], None);
        assert_eq!(keys(&raw).unwrap(), ["item item:1", "deep item:deep:%1:"]);
        let error = keys(&what(None, &["other:1", ""], None)).unwrap_err();
        assert!(error.contains("other:1") && error.contains("empty"), "{error}");
    }

    #[test]
    fn an_item_follows_every_route_of_its_table_in_either_json() {
        for item in [r#"{"pk":"1","b":2.50}"#, r#" {"pk":{"S":"1"},"b":{"N":"2.50"}} "#] {
            let item = what(None, &[], Some(("t", &[item])));
            assert_eq!(keys(&item).unwrap(), ["item item:1", "pair pair:1:2.5"]);
        }
        assert_eq!(keys(&what(None, &[], Some(("t", &[r#"{"b":1}"#])))).unwrap(), Vec::<String>::new());
        let error = keys(&what(None, &[], Some(("other", &["[1]"])))).unwrap_err();
        assert!(error.contains("\"t\"") && error.contains("--item 1"), "{error}");
    }
}
