//! Key spaces and routes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Checker;
use crate::config::raw::{RawRoute, RawSpace};
use crate::entry::Codec;
use crate::key::{KeySpace, LocalTier, Mode, Template};
use crate::record::EventName;
use crate::route::{Route, RouteAction};

impl Checker {
    pub(super) fn space(&mut self, name: &str, raw: RawSpace) -> Option<KeySpace> {
        let section = format!("spaces.{name}");
        let at = |field: &str| format!("{section}.{field}");
        self.unknown(&section, &raw.unknown);
        let template = match raw.key.as_deref().map(Template::parse) {
            Some(Ok(template)) => Some(template),
            Some(Err(error)) => {
                self.refuse(at("key"), error.to_string(), "write for example key = \"product:{pk}\"");
                None
            }
            None => {
                self.refuse(at("key"), "the key space has no key template", "write for example key = \"product:{pk}\"");
                None
            }
        };
        let mode_name = raw.mode.as_deref().unwrap_or("plain");
        let only_in = |check: &mut Self, set: bool, field: &str, mode: &str| {
            if set && mode_name != mode {
                check.refuse(
                    at(field),
                    format!("{field} has no meaning in mode {mode_name}"),
                    format!("remove it, or use mode = \"{mode}\""),
                );
            }
        };
        only_in(self, raw.settle.is_some(), "settle", "settle");
        only_in(self, raw.version_attribute.is_some(), "version_attribute", "versioned");
        only_in(self, raw.consistent_loads.is_some(), "consistent_loads", "versioned");
        only_in(self, raw.tombstone.is_some(), "tombstone", "versioned");
        let settle = self.duration(&at("settle"), raw.settle, Duration::from_secs(2));
        let tombstone = self.duration(&at("tombstone"), raw.tombstone, Duration::from_secs(10));
        let mode = match (mode_name, raw.version_attribute) {
            ("plain", _) => Mode::Plain,
            ("settle", _) => Mode::Settle { after: settle },
            ("versioned", Some(attribute)) if !attribute.is_empty() => {
                Mode::Versioned { attribute, tombstone: (!raw.consistent_loads.unwrap_or(true)).then_some(tombstone) }
            }
            ("versioned", _) => {
                self.refuse(
                    at("version_attribute"),
                    "mode versioned needs the attribute that holds the version",
                    "write version_attribute = \"version\"",
                );
                Mode::Plain
            }
            (other, _) => {
                self.refuse(at("mode"), format!("{other:?} is not a mode"), "use plain, settle or versioned");
                Mode::Plain
            }
        };
        let ttl_jitter = raw.ttl_jitter.unwrap_or(KeySpace::DEFAULT_TTL_JITTER);
        let ttl = self.duration(&at("ttl"), raw.ttl, KeySpace::DEFAULT_TTL);
        let negative_ttl = self.duration(&at("negative_ttl"), raw.negative_ttl, KeySpace::DEFAULT_NEGATIVE_TTL);
        let window = |check: &mut Self, field: &str, text: Option<String>| {
            let text = text.filter(|text| !matches!(text.as_str(), "0" | "0s" | "0ms"));
            check.duration(&at(field), text, Duration::ZERO)
        };
        let stale_while_revalidate = window(self, "stale_while_revalidate", raw.stale_while_revalidate);
        let stale_if_error = window(self, "stale_if_error", raw.stale_if_error);
        let early_refresh = raw.early_refresh.unwrap_or(0.0);
        let codec = match raw.codec.as_deref().unwrap_or("json") {
            "json" => Codec::Json,
            "messagepack" => Codec::MessagePack,
            "raw" => Codec::Raw,
            other => {
                self.refuse(at("codec"), format!("{other:?} is not a codec"), "use json, messagepack or raw");
                Codec::Json
            }
        };
        let compress_above =
            raw.compress_above.map(|bytes| self.whole(&at("compress_above"), Some(bytes), 1..=1_048_576, 1));
        let load_timeout = raw.load_timeout.map(|text| self.duration(&at("load_timeout"), Some(text), Duration::MAX));
        let local = self.local(&at("local"), raw.local.as_deref(), raw.local_ttl);
        let space = KeySpace {
            mode,
            ttl,
            ttl_jitter,
            negative_ttl,
            stale_while_revalidate,
            stale_if_error,
            early_refresh,
            codec,
            compress_above,
            load_timeout,
            local,
            ..KeySpace::new(name, template?)
        };
        self.violations.extend(space.violations());
        Some(space)
    }

    fn local(&mut self, place: &str, name: Option<&str>, ttl: Option<String>) -> LocalTier {
        let named = match name {
            None | Some("fallback") => LocalTier::Fallback,
            Some("bounded") => LocalTier::Bounded,
            Some("tracked") => LocalTier::Tracked,
            Some("off") => return LocalTier::Off,
            Some(other) => {
                self.refuse(place, format!("{other:?} is no tier"), "use off, fallback, bounded or tracked");
                return LocalTier::Off;
            }
        };
        let default = if name == Some("tracked") { LocalTier::TRACKED_TTL } else { LocalTier::DEFAULT_TTL };
        named(self.duration(&format!("{place}_ttl"), ttl, default))
    }

    pub(super) fn route(
        &mut self,
        index: usize,
        raw: RawRoute,
        spaces: &BTreeMap<String, Option<Arc<KeySpace>>>,
    ) -> Option<Route> {
        let section = format!("routes[{index}]");
        let at = |field: &str| format!("{section}.{field}");
        self.unknown(&section, &raw.unknown);
        if raw.table.as_deref().is_none_or(str::is_empty) {
            self.refuse(at("table"), "the route names no table", "write table = \"products\"");
        }
        let space = match raw.space.as_deref().map(|name| (name, spaces.get(name))) {
            Some((_, Some(space))) => space.clone(),
            Some((name, None)) => {
                self.refuse(
                    at("space"),
                    format!("there is no key space {name:?}"),
                    format!(
                        "define [spaces.{name}], or use one of: {}",
                        spaces.keys().cloned().collect::<Vec<_>>().join(", ")
                    ),
                );
                None
            }
            None => {
                self.refuse(at("space"), "the route names no key space", "write space = \"product\"");
                None
            }
        };
        let on = self.events(&at("on"), raw.on);
        let action = match raw.action.as_deref().unwrap_or("invalidate") {
            "refresh" => {
                RouteAction::Refresh { projection: raw.projection.clone(), populate: raw.populate.unwrap_or(false) }
            }
            action => {
                if action != "invalidate" {
                    self.refuse(at("action"), format!("{action:?} is not an action"), "use invalidate or refresh");
                }
                for (field, set) in [("projection", raw.projection.is_some()), ("populate", raw.populate.is_some())] {
                    if set {
                        self.refuse(
                            at(field),
                            format!("{field} has no meaning for the action invalidate"),
                            "remove it, or use action = \"refresh\"",
                        );
                    }
                }
                RouteAction::Invalidate
            }
        };
        if raw.projection.as_ref().is_some_and(Vec::is_empty) {
            self.refuse(
                at("projection"),
                "the projection is empty",
                "name attributes, or remove it to store all of them",
            );
        }
        let space = space?;
        for placeholder in raw.attributes.keys() {
            if !space.template.attributes().any(|name| name == placeholder) {
                self.refuse(
                    at("attributes"),
                    format!("the template {:?} has no placeholder {placeholder:?}", space.template.to_string()),
                    "use the names that the template has in braces",
                );
            }
        }
        let attributes = space
            .template
            .attributes()
            .map(|name| raw.attributes.get(name).cloned().unwrap_or_else(|| name.to_owned()))
            .collect();
        Some(Route { place: section, table: raw.table?, space, attributes, on, when_changed: raw.when_changed, action })
    }

    fn events(&mut self, place: &str, raw: Option<Vec<String>>) -> Vec<EventName> {
        let Some(names) = raw else { return EventName::ALL.to_vec() };
        let mut events = Vec::new();
        for name in &names {
            match EventName::parse(name) {
                Some(event) => events.push(event),
                None => self.refuse(place, format!("{name:?} is not an event"), "use INSERT, MODIFY and REMOVE"),
            }
        }
        if names.is_empty() {
            self.refuse(place, "no event is named", "name some of INSERT, MODIFY and REMOVE, or remove it for all");
        }
        events
    }

    /// Versions are compared for one item only, so that a key space which compares them has one table that feeds it.
    pub(super) fn one_item_spaces(&mut self, routes: &[Route]) {
        for route in routes.iter().filter(|route| route.compares_versions()) {
            if let Some(other) =
                routes.iter().find(|other| other.space.name == route.space.name && other.table != route.table)
            {
                self.refuse(
                    &route.place,
                    format!(
                        "the key space {:?} compares versions, and {} feeds it from another table, {:?}",
                        &*route.space.name, other.place, other.table
                    ),
                    "give each table a key space of its own, or use mode = \"plain\" and action = \"invalidate\"",
                );
            }
        }
    }
}
