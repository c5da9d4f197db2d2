//! Why a record leads to the commands that it leads to, and to no others: by the code that routes it.

use crate::command::Command;
use crate::key::CacheKey;
use crate::record::{Attribute, AttributeError, ChangeRecord, EventName};
use crate::route::{Rendered, Route};

use super::{CompiledRoute, Decoded, Routed, Router, TableRoutes};

/// What became of one record at each route of its table.
#[derive(Debug, Default)]
pub struct Explanation<'r> {
    /// Why the images could not be decoded, so that only the keys were used.
    pub keys_only: Option<AttributeError>,
    /// The routes of the record's table, in the configuration's order; none where no route names the table.
    pub routes: Vec<RouteExplanation<'r>>,
}

/// What became of one record at one route.
#[derive(Debug)]
pub struct RouteExplanation<'r> {
    /// The route.
    pub route: &'r Route,
    /// The key of the item before the change, where there is one.
    pub old_key: Option<CacheKey>,
    /// The key of the item after the change, where there is one.
    pub new_key: Option<CacheKey>,
    /// What is done, old key before new key.
    pub commands: Vec<Command>,
    /// Why nothing is done; `None` where there are commands.
    pub why_not: Option<WhyNot>,
    /// Whether the route compares versions and the record has no usable one, so that it drops the entry.
    pub version_missing: bool,
}

/// Why a route does nothing for a record; holds names of attributes and no values.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhyNot {
    /// The route is for other events.
    #[error("the route is on {}, and this is {event}", names(.on))]
    OtherEvent {
        /// The events it is for.
        on: Vec<EventName>,
        /// The record's event.
        event: EventName,
    },
    /// None of the attributes that it looks at differs.
    #[error("none of when_changed ({}) differs between the images", .0.join(", "))]
    Unchanged(Vec<String>),
    /// The item has no such key.
    #[error("the item has no {}, so that it has no such key", .0.join(" and no "))]
    Absent(Vec<String>),
    /// The record carries no image that could tell the key.
    #[error("the record carries no image with {}", .0.join(" and "))]
    NoImage(Vec<String>),
    /// An attribute is of a type that no key is made of, or the key would be too long: nobody can have cached it.
    #[error("no key can be made of {}: a null, a list, a map, a set, or too long", .0.join(", "))]
    Unrenderable(Vec<String>),
    /// The key cannot be found out, so that the record is parked.
    #[error("{0}, and the primary key does not lead to the key: the record is parked")]
    Unreachable(AttributeError),
}

fn names(events: &[EventName]) -> String {
    events.iter().map(|event| event.as_str()).collect::<Vec<_>>().join(", ")
}

impl Router {
    /// Tells for each route of the record's table what [`Router::route`] does at it, and why it does nothing.
    #[must_use]
    pub fn explain(&self, record: &ChangeRecord) -> Explanation<'_> {
        let Some(table) = self.tables.get(&record.stream.table) else { return Explanation::default() };
        let mut routed = Routed::default();
        let decoded = table.decode(record, &mut routed);
        let error = routed.keys_only;
        let routes = table.routes.iter().map(|route| route.explain(record, table, decoded.as_ref(), error.as_ref()));
        Explanation { routes: routes.collect(), keys_only: error }
    }
}

impl CompiledRoute {
    fn explain(
        &self,
        record: &ChangeRecord,
        table: &TableRoutes,
        decoded: Option<&Decoded>,
        error: Option<&AttributeError>,
    ) -> RouteExplanation<'_> {
        let mut routed = Routed::default();
        let mut commands = Vec::new();
        let applies = self.route.applies_to(record.event);
        match (decoded, error) {
            (Some(decoded), None) if applies => {
                self.commands(record, table, decoded, &mut |command| commands.push(command), &mut routed);
            }
            (Some(decoded), Some(_)) if applies => {
                self.by_keys_only(decoded, &mut |command| commands.push(command), &mut routed);
            }
            _ => {}
        }
        let why_not = commands.is_empty().then(|| self.why_not(record, decoded, error, &routed));
        let key_of = |image| match self.render(decoded?, image) {
            Rendered::Key(key) => Some(key),
            Rendered::Absent | Rendered::Impossible => None,
        };
        let old = decoded.and_then(|decoded| decoded.old.as_deref());
        let new = decoded.and_then(|decoded| decoded.new.as_deref());
        RouteExplanation {
            route: &self.route,
            old_key: if record.event == EventName::Insert { None } else { key_of(old) },
            new_key: if record.event == EventName::Remove { None } else { key_of(new) },
            commands,
            why_not,
            version_missing: !routed.version_missing.is_empty(),
        }
    }

    fn why_not(
        &self,
        record: &ChangeRecord,
        decoded: Option<&Decoded>,
        error: Option<&AttributeError>,
        routed: &Routed,
    ) -> WhyNot {
        let event = record.event;
        if !self.route.applies_to(event) {
            return WhyNot::OtherEvent { on: self.route.on.clone(), event };
        }
        let outside = self.outside_keys(decoded);
        if !routed.unrenderable.is_empty() {
            return WhyNot::Unrenderable(if outside.is_empty() { self.route.attributes.clone() } else { outside });
        }
        if let Some(error) = error {
            return WhyNot::Unreachable(error.clone());
        }
        if decoded.is_some_and(|decoded| self.is_unchanged(event, decoded)) {
            return WhyNot::Unchanged(self.route.when_changed.clone());
        }
        if decoded.is_some_and(|decoded| decoded.has_image_of(event)) {
            WhyNot::Absent(self.absent(decoded))
        } else {
            WhyNot::NoImage(outside)
        }
    }

    /// The attributes of the key that are not part of the primary key.
    fn outside_keys(&self, decoded: Option<&Decoded>) -> Vec<String> {
        let in_keys =
            |place: &usize| decoded.is_some_and(|decoded| decoded.keys.get(*place).is_some_and(Option::is_some));
        let outside = self.route.attributes.iter().zip(&self.in_keys).filter(|(_, place)| !in_keys(place));
        outside.map(|(name, _)| name.clone()).collect()
    }

    /// The attributes of the key that neither the primary key nor every image has.
    fn absent(&self, decoded: Option<&Decoded>) -> Vec<String> {
        let images = decoded.map(|decoded| [decoded.old.as_ref(), decoded.new.as_ref()]).unwrap_or_default();
        let lacks = |place: usize, image: &Vec<Option<Attribute>>| image.get(place).is_none_or(Option::is_none);
        let outside = self.outside_keys(decoded);
        let named = self.route.attributes.iter().zip(&self.in_names);
        let absent = named.filter(|(name, place)| {
            outside.contains(name) && images.into_iter().flatten().any(|image| lacks(**place, image))
        });
        absent.map(|(name, _)| name.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::value::RawValue;

    use super::*;
    use crate::command::{Action, Command};
    use crate::config::Config;
    use crate::record::record_from_json;

    const CONFIG: &str = r#"
        ring = { shards = [{ name = "a", address = "h:1" }] }
        spaces = { item = { key = "item:{pk}" }, group = { key = "group:{group}" } }
        [[routes]]
        table = "t"
        space = "item"
        [[routes]]
        table = "t"
        space = "group"
        [[routes]]
        table = "t"
        space = "item"
        when_changed = ["name"]
        [[routes]]
        table = "t"
        space = "group"
        on = ["REMOVE"]
    "#;

    fn record(event: &str, images: &str) -> ChangeRecord {
        let arn = "arn:aws:dynamodb:eu-west-1:1:table/t/stream/2026-01-02T03:04:05.678";
        let text = format!(
            r#"{{"eventName":"{event}","eventSourceARN":"{arn}","dynamodb":{{"Keys":{{"pk":{{"S":"1"}}}},{images}"SequenceNumber":"7"}}}}"#
        );
        record_from_json(&RawValue::from_string(text).unwrap()).unwrap()
    }

    /// For each route the keys it touches, or why not.
    fn explained(event: &str, images: &str) -> Vec<String> {
        let router = Router::new(Config::parse(CONFIG, []).unwrap().routes);
        let record = record(event, images);
        let explanation = router.explain(&record);
        let mut commands = Vec::new();
        router.route(&record, &mut |command| commands.push(command));
        let told: Vec<Command> = explanation.routes.iter().flat_map(|route| route.commands.clone()).collect();
        assert_eq!(told, commands, "what is told is what is done");
        let line = |route: &RouteExplanation<'_>| match &route.why_not {
            Some(why_not) => why_not.to_string(),
            None => {
                let dropped = route.commands.iter().map(|command| {
                    assert!(matches!(command.action, Action::Invalidate { .. }));
                    command.key.as_str()
                });
                dropped.collect::<Vec<_>>().join(" ")
            }
        };
        explanation.routes.iter().map(line).collect()
    }

    #[test]
    fn every_route_tells_its_keys_or_why_there_are_none() {
        let other = "the route is on REMOVE, and this is MODIFY";
        let unchanged = "none of when_changed (name) differs between the images";
        let same = r#""OldImage":{"group":{"S":"a"}},"NewImage":{"group":{"S":"b"}},"#;
        assert_eq!(explained("MODIFY", same), ["item:1", "group:a group:b", unchanged, other]);
        let absent = r#""OldImage":{"name":{"S":"a"}},"NewImage":{"name":{"S":"b"}},"#;
        let no_group = "the item has no group, so that it has no such key";
        assert_eq!(explained("MODIFY", absent), ["item:1", no_group, "item:1", other]);
        let no_image = "the record carries no image with group";
        assert_eq!(explained("MODIFY", ""), ["item:1", no_image, "item:1", other]);
        let set = r#""OldImage":{"group":{"SS":["hush"]}},"NewImage":{"group":{"SS":["hush"]}},"#;
        assert!(explained("MODIFY", set)[1].starts_with("no key can be made of group:"));
        let unknown = r#""NewImage":{"group":{"Q":"hush"}},"OldImage":{},"#;
        let lines = explained("MODIFY", unknown);
        assert!(lines[0] == "item:1" && lines[1].contains("parked") && !lines[1].contains("hush"), "{lines:?}");
    }

    #[test]
    fn old_and_new_keys_are_told_apart() {
        let router = Router::new(Config::parse(CONFIG, []).unwrap().routes);
        let images = r#""OldImage":{"group":{"S":"a"}},"NewImage":{"group":{"S":"b"}},"#;
        for (event, old, new) in [
            ("INSERT", None, Some("group:b")),
            ("MODIFY", Some("group:a"), Some("group:b")),
            ("REMOVE", Some("group:a"), None),
        ] {
            let record = record(event, images);
            let explanation = router.explain(&record);
            let group = &explanation.routes[1];
            let keys = (group.old_key.as_ref().map(CacheKey::as_str), group.new_key.as_ref().map(CacheKey::as_str));
            assert_eq!(keys, (old, new), "{event}");
        }
    }
}
