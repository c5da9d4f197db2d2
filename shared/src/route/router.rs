//! One record through the routes of its table.

mod explain;

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::{Rendered, Route, RouteAction};
use crate::command::{Action, Command, Image};
use crate::key::KeyPart;
use crate::record::{
    Attribute, AttributeError, Attributes, ChangeRecord, EventName, canonical_number, write_json_object,
};
use crate::version::Version;

pub use explain::{Explanation, RouteExplanation, WhyNot};

/// All routes, by table.
#[derive(Debug)]
pub struct Router {
    tables: HashMap<String, TableRoutes, RandomState>,
}

/// What became of one record.
#[derive(Debug, Default)]
pub struct Routed {
    /// Whether some route names the record's table.
    pub known_table: bool,
    /// Why the images could not be decoded, so that only the keys were used.
    pub keys_only: Option<AttributeError>,
    /// Routes (by place) whose keys could not be found out, so that the record has to be parked.
    pub unreachable: Vec<String>,
    /// Key spaces in which a key could not be rendered.
    pub unrenderable: Vec<Arc<str>>,
    /// Key spaces whose keys could not be told, because the record carries no image.
    pub imageless: Vec<Arc<str>>,
    /// Versioned key spaces in which the record had no usable version.
    pub version_missing: Vec<Arc<str>>,
}

#[derive(Debug)]
struct TableRoutes {
    routes: Vec<CompiledRoute>,
    /// The attributes of all templates: looked up in the record's keys first.
    key_names: Vec<String>,
    /// Every attribute that some route names: looked up in the images.
    names: Vec<String>,
}

#[derive(Debug)]
struct CompiledRoute {
    route: Route,
    /// For each placeholder, its place in `key_names`.
    in_keys: Vec<usize>,
    /// For each placeholder, its place in `names`.
    in_names: Vec<usize>,
    when_changed: Vec<usize>,
    version: Option<usize>,
    projection: Option<Vec<usize>>,
}

/// The attributes of one record that routes asked for, decoded once.
struct Decoded {
    keys: Vec<Option<Attribute>>,
    old: Option<Vec<Option<Attribute>>>,
    new: Option<Vec<Option<Attribute>>>,
}

impl Decoded {
    /// Whether the record carries an image that tells of an item before or after an event.
    fn has_image_of(&self, event: EventName) -> bool {
        match event {
            EventName::Insert => self.new.is_some(),
            EventName::Modify => self.old.is_some() || self.new.is_some(),
            EventName::Remove => self.old.is_some(),
        }
    }
}

impl Router {
    /// Prepares the routes.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        let mut by_table: HashMap<String, Vec<Route>> = HashMap::new();
        for route in routes {
            by_table.entry(route.table.clone()).or_default().push(route);
        }
        let tables = by_table.into_iter().map(|(table, routes)| (table, TableRoutes::new(routes))).collect();
        Self { tables }
    }

    /// The tables that routes name, in no order.
    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.tables.keys().map(String::as_str)
    }

    /// The routes of a table.
    pub fn routes(&self, table: &str) -> impl Iterator<Item = &Route> {
        self.tables.get(table).into_iter().flat_map(|table| table.routes.iter().map(|compiled| &compiled.route))
    }

    /// Hands the commands of one record to `out`, old key before new key, routes in the configuration's order.
    pub fn route(&self, record: &ChangeRecord, out: &mut impl FnMut(Command)) -> Routed {
        let Some(table) = self.tables.get(&record.stream.table) else { return Routed::default() };
        let mut routed = Routed { known_table: true, ..Routed::default() };
        let routes = || table.routes.iter().filter(|route| route.route.applies_to(record.event));
        if routes().next().is_none() {
            return routed;
        }
        let Some(decoded) = table.decode(record, &mut routed) else {
            routed.unreachable.extend(routes().map(|route| route.route.place.clone()));
            return routed;
        };
        for route in routes() {
            if routed.keys_only.is_some() {
                route.by_keys_only(&decoded, out, &mut routed);
            } else {
                route.commands(record, table, &decoded, out, &mut routed);
            }
        }
        routed
    }
}

impl TableRoutes {
    fn new(routes: Vec<Route>) -> Self {
        let mut key_names = Vec::new();
        let mut names = Vec::new();
        let routes = routes
            .into_iter()
            .map(|route| {
                let mut places = |list: &[String]| list.iter().map(|name| place_of(&mut names, name)).collect();
                let in_names = places(&route.attributes);
                let when_changed = places(&route.when_changed);
                let projection = match &route.action {
                    RouteAction::Refresh { projection: Some(projection), .. } => Some(places(projection)),
                    RouteAction::Refresh { projection: None, .. } | RouteAction::Invalidate => None,
                };
                let version = route.version_attribute().map(|name| place_of(&mut names, name));
                let in_keys = route.attributes.iter().map(|name| place_of(&mut key_names, name)).collect();
                CompiledRoute { route, in_keys, in_names, when_changed, version, projection }
            })
            .collect();
        Self { routes, key_names, names }
    }

    /// Decodes what the routes ask for; `None` where not even the keys can be. Images that cannot be are noted in `routed`.
    fn decode(&self, record: &ChangeRecord, routed: &mut Routed) -> Option<Decoded> {
        let keys = match record.keys.pick(&self.key_names) {
            Ok(keys) => keys,
            Err(error) => {
                // Without keys the images may still tell them: no primary key is missing from an image.
                routed.keys_only = Some(error);
                return None;
            }
        };
        let mut decoded = Decoded { keys, old: None, new: None };
        let mut routes = self.routes.iter().filter(|route| route.route.applies_to(record.event));
        if routes.any(|route| route.needs_images(&decoded.keys)) {
            let pick =
                |image: &Option<Box<dyn Attributes>>| image.as_ref().map(|image| image.pick(&self.names)).transpose();
            match pick(&record.old).and_then(|old| pick(&record.new).map(|new| (old, new))) {
                Ok((old, new)) => (decoded.old, decoded.new) = (old, new),
                Err(error) => routed.keys_only = Some(error),
            }
        }
        Some(decoded)
    }
}

fn place_of(names: &mut Vec<String>, name: &str) -> usize {
    names.iter().position(|known| known == name).unwrap_or_else(|| {
        names.push(name.to_owned());
        names.len() - 1
    })
}

impl CompiledRoute {
    fn needs_images(&self, keys: &[Option<Attribute>]) -> bool {
        self.route.compares_versions() || !self.when_changed.is_empty() || !self.in_primary_key(keys)
    }

    fn in_primary_key(&self, keys: &[Option<Attribute>]) -> bool {
        self.in_keys.iter().all(|place| keys.get(*place).is_some_and(Option::is_some))
    }

    /// What can be done where the images cannot be decoded: drop what the primary key leads to.
    fn by_keys_only(&self, decoded: &Decoded, out: &mut impl FnMut(Command), routed: &mut Routed) {
        match self.render(decoded, None) {
            Rendered::Key(key) => out(Command::drop_entry(key, self.route.space.clone())),
            Rendered::Absent => routed.unreachable.push(self.route.place.clone()),
            Rendered::Impossible => routed.unrenderable.push(self.route.space.name.clone()),
        }
    }

    /// Whether a MODIFY left alone all that the route looks at.
    fn is_unchanged(&self, event: EventName, decoded: &Decoded) -> bool {
        let (EventName::Modify, Some(old), Some(new)) = (event, &decoded.old, &decoded.new) else { return false };
        !self.when_changed.is_empty() && self.when_changed.iter().all(|place| old.get(*place) == new.get(*place))
    }

    fn commands(
        &self,
        record: &ChangeRecord,
        table: &TableRoutes,
        decoded: &Decoded,
        out: &mut impl FnMut(Command),
        routed: &mut Routed,
    ) {
        let (old, new) = (decoded.old.as_deref(), decoded.new.as_deref());
        if self.is_unchanged(record.event, decoded) {
            return;
        }
        let mut key_of = |image| match self.render(decoded, image) {
            Rendered::Key(key) => Some(key),
            Rendered::Absent => None,
            Rendered::Impossible => {
                routed.unrenderable.push(self.route.space.name.clone());
                None
            }
        };
        let (old_key, new_key) = match record.event {
            EventName::Insert => (None, key_of(new)),
            // A key made of the primary key alone is the same before and after.
            EventName::Modify if self.in_primary_key(&decoded.keys) => (None, key_of(None)),
            EventName::Modify => (key_of(old), key_of(new)),
            EventName::Remove => (key_of(old), None),
        };
        if old_key.is_none() && new_key.is_none() {
            if !decoded.has_image_of(record.event) && !self.in_primary_key(&decoded.keys) {
                routed.imageless.push(self.route.space.name.clone());
            }
            return;
        }
        let version = self.version(record, old, new);
        if version.is_none() && self.route.compares_versions() {
            routed.version_missing.push(self.route.space.name.clone());
        }
        let command = |key, action| Command { key, space: self.route.space.clone(), action };
        let old_key = old_key.filter(|old_key| new_key.as_ref() != Some(old_key));
        let gone = record.event == EventName::Remove;
        if let Some(key) = old_key {
            let action = match &self.route.action {
                RouteAction::Refresh { populate, .. } if gone && !version.is_none() => {
                    Action::Refresh { version, image: Image::Deleted, populate: *populate }
                }
                RouteAction::Refresh { .. } | RouteAction::Invalidate => Action::Invalidate { version },
            };
            out(command(key, action));
        }
        if let Some(key) = new_key {
            let action = match self.image(record, table, new) {
                Some((image, populate)) if !version.is_none() => Action::Refresh { version, image, populate },
                Some(_) | None => Action::Invalidate { version },
            };
            out(command(key, action));
        }
    }

    /// Renders the key of an image; the primary key's attributes come from the record's keys.
    fn render(&self, decoded: &Decoded, image: Option<&[Option<Attribute>]>) -> Rendered {
        let mut parts = Vec::with_capacity(self.in_keys.len());
        for (in_keys, in_names) in self.in_keys.iter().zip(&self.in_names) {
            let from_keys = decoded.keys.get(*in_keys).and_then(Option::as_ref);
            let attribute = from_keys.or_else(|| image?.get(*in_names)?.as_ref());
            match attribute.map(KeyPart::of) {
                None => return Rendered::Absent,
                Some(None) => return Rendered::Impossible,
                Some(Some(part)) => parts.push(part),
            }
        }
        self.route.space.template.render(&parts).map_or(Rendered::Impossible, Rendered::Key)
    }

    /// The version after the change; [`Version::NONE`] where the route compares none or the item has none.
    fn version(
        &self,
        record: &ChangeRecord,
        old: Option<&[Option<Attribute>]>,
        new: Option<&[Option<Attribute>]>,
    ) -> Version {
        let Some(place) = self.version else {
            return match self.route.action {
                RouteAction::Refresh { .. } => Version::from_sequence(record.stream.created_ms, &record.sequence),
                RouteAction::Invalidate => Version::NONE,
            };
        };
        let of = |image: Option<&[Option<Attribute>]>| number_of(image?.get(place)?.as_ref()?);
        let version = match record.event {
            EventName::Insert | EventName::Modify => of(new),
            EventName::Remove => of(old).map(Version::just_above),
        };
        version.unwrap_or(Version::NONE)
    }

    /// What a refresh stores; `None` for an invalidating route, or where the new image is missing.
    fn image(
        &self,
        record: &ChangeRecord,
        table: &TableRoutes,
        new: Option<&[Option<Attribute>]>,
    ) -> Option<(Image, bool)> {
        let RouteAction::Refresh { populate, .. } = &self.route.action else { return None };
        let mut json = Vec::new();
        match &self.projection {
            Some(projection) => {
                let new = new?;
                let present =
                    projection.iter().filter_map(|place| table.names.get(*place).zip(new.get(*place)?.as_ref()));
                write_json_object(present, &mut json);
            }
            // The image as a whole can hold an attribute that nothing else named and that cannot be decoded: then the
            // entry is dropped, which is always right.
            None => write_json_object(&record.new.as_ref()?.all().ok()?, &mut json),
        }
        Some((Image::Json(Bytes::from(json)), *populate))
    }
}

/// Reads a version attribute: a whole number that is not negative, as a number or as a text of digits.
fn number_of(attribute: &Attribute) -> Option<Version> {
    let (Attribute::N(text) | Attribute::S(text)) = attribute else { return None };
    let number = canonical_number(text)?.parse::<u128>().ok()?;
    Some(Version::from_number(number))
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
