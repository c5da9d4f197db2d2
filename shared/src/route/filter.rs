//! What the filter of a function's event source mapping may leave out.
//!
//! A filter compares one field of a record with fixed values, so that only the event's name can be told by it; whether
//! an attribute has changed cannot. Lambda compares whole values, letter by letter. A record that matches none of the
//! patterns is never handed to the function and counts as processed; without any pattern every record is handed over.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Router;
use crate::record::EventName;

/// Writes the `FilterCriteria` of an event source mapping that reads the streams of `tables`, as JSON.
///
/// Every record that some route of these tables applies to passes. Where routes apply to every event, or to none, there
/// is no pattern and everything passes.
#[must_use]
pub fn event_filter(router: &Router, tables: &[&str]) -> String {
    let routes = tables.iter().flat_map(|table| router.routes(table));
    let events: BTreeSet<EventName> = routes.flat_map(|route| route.on.iter().copied()).collect();
    let mut filters = Vec::new();
    if (1..EventName::ALL.len()).contains(&events.len()) {
        // Names and texts are always representable, so that there is no error to tell.
        filters.push(Filter { pattern: serde_json::to_string(&Pattern { event_name: events }).unwrap_or_default() });
    }
    serde_json::to_string(&Criteria { filters }).unwrap_or_default()
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Criteria {
    filters: Vec<Filter>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Filter {
    pattern: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Pattern {
    event_name: BTreeSet<EventName>,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Config;
    use crate::record::{Attribute, Attributes, ChangeRecord, Stream};

    fn router(routes: &str) -> Router {
        let text = format!(
            "ring = {{ shards = [{{ name = \"a\", address = \"h:1\" }}] }}\n\
             [spaces.p]\nkey = \"p:{{pk}}\"\n[spaces.c]\nkey = \"c:{{category}}\"\n{routes}"
        );
        Router::new(Config::parse(&text, []).unwrap().routes)
    }

    /// Whether Lambda hands a record over.
    fn passes(criteria: &str, event: EventName) -> bool {
        let criteria: Value = serde_json::from_str(criteria).unwrap();
        let filters = criteria["Filters"].as_array().unwrap();
        let matches = |filter: &Value| {
            let pattern: Value = serde_json::from_str(filter["Pattern"].as_str().unwrap()).unwrap();
            pattern["eventName"].as_array().unwrap().contains(&json!(event.as_str()))
        };
        filters.is_empty() || filters.iter().any(matches)
    }

    #[test]
    fn the_events_of_a_tables_routes_are_named() {
        let router = router(
            "[[routes]]\ntable = \"t\"\nspace = \"p\"\non = [\"REMOVE\"]\n\
             [[routes]]\ntable = \"t\"\nspace = \"c\"\non = [\"MODIFY\", \"REMOVE\"]\n\
             [[routes]]\ntable = \"u\"\nspace = \"c\"\n",
        );
        let of_t = r#"{"Filters":[{"Pattern":"{\"eventName\":[\"MODIFY\",\"REMOVE\"]}"}]}"#;
        assert_eq!(event_filter(&router, &["t"]), of_t);
        assert_eq!(event_filter(&router, &["u"]), r#"{"Filters":[]}"#);
        assert_eq!(event_filter(&router, &["t", "u"]), r#"{"Filters":[]}"#);
        assert_eq!(event_filter(&router, &["unknown"]), r#"{"Filters":[]}"#);
    }

    proptest! {
        #[test]
        fn no_record_that_a_route_wants_is_left_out(
            routes in prop::collection::vec((0..2_usize, 0..2_usize, 1..8_u8, any::<bool>()), 1..5),
            event in 0..3_usize,
            table in 0..2_usize,
            (old, new) in (any::<u8>(), any::<u8>()),
        ) {
            let text: String = routes.iter().map(|(table, space, on, when_changed)| {
                let on = EventName::ALL.iter().enumerate().filter(|(bit, _)| on & (1 << bit) != 0);
                let on: Vec<_> = on.map(|(_, event)| format!("{:?}", event.as_str())).collect();
                let when_changed = if *when_changed { "when_changed = [\"x\"]\n" } else { "" };
                format!(
                    "[[routes]]\ntable = \"t{table}\"\nspace = \"{}\"\non = [{}]\n{when_changed}",
                    ["p", "c"][*space], on.join(", ")
                )
            }).collect();
            let router = router(&text);
            let image = |x: u8| -> Box<dyn Attributes> {
                let text = |name: &str, value: String| (name.to_owned(), Attribute::S(value));
                Box::new(BTreeMap::from([text("pk", "1".into()), text("category", (x / 9).to_string()), text("x", x.to_string())]))
            };
            let table = format!("t{table}");
            let record = ChangeRecord {
                stream: Arc::new(Stream { table: table.clone(), arn: "arn".into(), created_ms: 1 }),
                stream_shard: "".into(),
                event: EventName::ALL[event],
                keys: Box::new(BTreeMap::from([("pk".to_owned(), Attribute::S("1".into()))])),
                old: (event != 0).then(|| image(old)),
                new: (event != 2).then(|| image(new)),
                sequence: "1".parse().unwrap(),
                approximate_time_s: None,
                ttl_deletion: false,
            };
            let mut commands = 0;
            let routed = router.route(&record, &mut |_| commands += 1);
            let wanted = commands > 0 || !routed.unreachable.is_empty();
            for tables in [vec![table.as_str()], vec!["t0", "t1"]] {
                let criteria = event_filter(&router, &tables);
                prop_assert!(!wanted || passes(&criteria, record.event), "{} leaves {} out", criteria, record.event);
            }
            // And nothing more passes than some route of the table applies to, where anything is filtered at all.
            let criteria = event_filter(&router, &[&table]);
            let applies = router.routes(&table).any(|route| route.applies_to(record.event));
            let nothing = criteria == r#"{"Filters":[]}"#;
            prop_assert!(applies || !passes(&criteria, record.event) || nothing);
        }
    }
}
