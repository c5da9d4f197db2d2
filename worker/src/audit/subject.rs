//! Which key spaces can be held against their table, and by what. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ringtide_core::key::{KeyPart, KeySpace, Mode, attribute_of_rendered};
use ringtide_core::route::{Route, RouteAction};
use serde::Serialize;

use crate::item::Item;
use crate::table::PrimaryKey;

/// What an entry of a key space is compared by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Basis {
    /// The version in its header and the item's version attribute.
    Version,
    /// The image that the route would store; and the values, for what a reader has filled.
    Image,
    /// The fields of its payload that have the name of an attribute.
    Values,
}

impl Basis {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Basis::Version => "version",
            Basis::Image => "image",
            Basis::Values => "values",
        }
    }
}

/// A key space whose entries belong to exactly one item each.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// The key space.
    pub(crate) space: Arc<KeySpace>,
    /// The table that feeds it.
    pub(crate) table: String,
    /// What its entries are compared by.
    pub(crate) basis: Basis,
    /// The attributes whose changes its routes look at; `None` for all.
    pub(crate) watched: Option<BTreeSet<String>>,
    primary: PrimaryKey,
    /// The table's attribute for each placeholder.
    attributes: Vec<String>,
    /// For each attribute of the primary key, its placeholder.
    places: Vec<usize>,
}

/// A key space whose entries cannot be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unfit {
    /// The key space.
    pub(crate) space: Arc<str>,
    /// Why.
    pub(crate) reason: String,
}

/// Sorts a key space out, given all routes that name it.
///
/// # Errors
/// Why its entries cannot be judged.
pub(crate) fn subject(
    space: &Arc<KeySpace>,
    routes: &[&Route],
    tables: &BTreeMap<String, PrimaryKey>,
) -> Result<Subject, Unfit> {
    let unfit = |reason: String| Unfit { space: space.name.clone(), reason };
    let Some(first) = routes.first() else { return Err(unfit("no route names it".to_owned())) };
    if routes.iter().any(|route| route.table != first.table) {
        return Err(unfit("items of several tables feed it".to_owned()));
    }
    if routes.iter().any(|route| route.attributes != first.attributes) {
        return Err(unfit("its routes make its keys of different attributes".to_owned()));
    }
    let primary = tables.get(&first.table).ok_or_else(|| unfit(format!("table {} is not known", first.table)))?;
    let place = |name: &String| first.attributes.iter().position(|attribute| attribute == name);
    let names = primary.names();
    let missing: Vec<&str> = names.iter().filter(|name| place(name).is_none()).map(String::as_str).collect();
    if !missing.is_empty() {
        return Err(unfit(format!(
            "its keys lack {} of the primary key of {}, so that many items may feed one",
            missing.join(", "),
            first.table
        )));
    }
    let refreshes = |route: &&&Route| matches!(route.action, RouteAction::Refresh { .. });
    let basis = match space.mode {
        Mode::Versioned { .. } => Basis::Version,
        Mode::Plain | Mode::Settle { .. } if routes.iter().any(|route| refreshes(&route)) => Basis::Image,
        Mode::Plain | Mode::Settle { .. } => Basis::Values,
    };
    let all = routes.iter().any(|route| route.when_changed.is_empty());
    let watched = (!all).then(|| routes.iter().flat_map(|route| route.when_changed.iter().cloned()).collect());
    let places = names.iter().filter_map(place).collect();
    Ok(Subject {
        space: Arc::clone(space),
        table: first.table.clone(),
        basis,
        watched,
        primary: primary.clone(),
        attributes: first.attributes.clone(),
        places,
    })
}

impl Subject {
    /// The primary key of the item that a cache key belongs to; `None` for a text that is no key of the space.
    pub(crate) fn item_key(&self, key: &str) -> Option<Item> {
        let values = self.space.template.invert(key)?;
        let attribute = |((name, kind), place): ((&String, &str), &usize)| {
            Some((name.clone(), attribute_of_rendered(values.get(*place)?, kind)?))
        };
        self.primary.attributes().zip(&self.places).map(attribute).collect()
    }

    /// The names of the item's primary key.
    pub(crate) fn key_names(&self) -> &[String] {
        self.primary.names()
    }

    /// Whether an item is cached under this key, as it is now.
    pub(crate) fn is_key_of(&self, key: &str, item: &Item) -> bool {
        let parts: Option<Vec<KeyPart<'_>>> =
            self.attributes.iter().map(|name| item.get(name).and_then(KeyPart::of)).collect();
        parts.is_some_and(|parts| self.space.template.render(&parts).is_ok_and(|rendered| rendered.as_str() == key))
    }
}

#[cfg(test)]
mod tests {
    use ringtide_core::config::Config;
    use ringtide_core::record::Attribute;

    use super::*;

    fn sorted(spaces: &str) -> Result<Subject, Unfit> {
        let text = format!("ring = {{ shards = [{{ name = \"a\", address = \"h:1\" }}] }}\n{spaces}");
        let config = Config::parse(&text, []).unwrap();
        let tables = BTreeMap::from([
            ("t".to_owned(), PrimaryKey::of([("pk", "S")])),
            ("u".to_owned(), PrimaryKey::of([("pk", "S"), ("sk", "N")])),
        ]);
        let routes: Vec<&Route> = config.routes.iter().collect();
        subject(config.spaces.values().next().unwrap(), &routes, &tables)
    }

    #[test]
    fn a_space_is_judged_only_where_each_key_belongs_to_one_item() {
        let reason = |text: &str| sorted(text).unwrap_err().reason;
        assert!(reason("[spaces.p]\nkey = \"p:{pk}\"").contains("no route"));
        assert!(reason("[spaces.p]\nkey = \"p:{c}\"\n[[routes]]\ntable = \"t\"\nspace = \"p\"").contains("lack pk"));
        assert!(reason("[spaces.p]\nkey = \"p:{pk}\"\n[[routes]]\ntable = \"u\"\nspace = \"p\"").contains("lack sk"));
        let two = "[spaces.p]\nkey = \"p:{pk}\"\n[[routes]]\ntable = \"t\"\nspace = \"p\"\n[[routes]]\ntable = \"u\"\nspace = \"p\"";
        assert!(reason(two).contains("several tables"));
    }

    #[test]
    fn the_item_of_a_key_is_found_by_the_types_of_the_table() {
        let subject = sorted("[spaces.p]\nkey = \"p:{sk}:{pk}\"\n[[routes]]\ntable = \"u\"\nspace = \"p\"").unwrap();
        assert_eq!(subject.basis, Basis::Values);
        let item = subject.item_key("p:7:a:b").unwrap();
        assert_eq!(item.get("sk"), Some(&Attribute::N("7".to_owned())));
        assert_eq!(item.get("pk"), Some(&Attribute::S("a:b".to_owned())));
        assert!(subject.is_key_of("p:7:a:b", &item));
        assert_eq!(subject.item_key("p:x:a"), None, "no number");
    }
}
