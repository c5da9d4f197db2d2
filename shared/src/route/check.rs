//! Whether the routes can work with a live table.

use super::{Route, RouteAction, Router};
use crate::config::Violation;
use crate::record::{EventName, ViewType};

impl Router {
    /// Finds everything about the routes of `table` that cannot work with its stream's view type and primary key.
    #[must_use]
    pub fn check(&self, table: &str, view: ViewType, primary_key: &[String]) -> Vec<Violation> {
        self.routes(table).flat_map(|route| check(route, view, primary_key)).collect()
    }
}

fn check(route: &Route, view: ViewType, primary_key: &[String]) -> Vec<Violation> {
    let mut violations = Vec::new();
    let outside: Vec<&String> = route.attributes.iter().filter(|name| !primary_key.contains(name)).collect();
    for name in &outside {
        need_images(route, view, route.on.iter().copied(), &mut violations, || {
            format!(
                "the key template {:?} names the attribute {name:?}, which is not part of the primary key ({})",
                route.space.template.to_string(),
                primary_key.join(", "),
            )
        });
    }
    if !route.when_changed.is_empty() && route.applies_to(EventName::Modify) {
        need_images(route, view, [EventName::Modify], &mut violations, || {
            format!("when_changed compares {}", route.when_changed.join(", "))
        });
    }
    if let Some(attribute) = route.version_attribute() {
        need_versions(route, view, attribute, &mut violations);
    }
    if matches!(route.action, RouteAction::Refresh { .. }) && !view.has_new() {
        violations.push(Violation::new(
            &route.place,
            format!(
                "the action refresh stores new images, and the stream of {} carries {}",
                route.table,
                view.as_str()
            ),
            "enable the stream with NEW_IMAGE or NEW_AND_OLD_IMAGES, or use the action invalidate",
        ));
    }
    if route.compares_versions() {
        let missing: Vec<&str> =
            primary_key.iter().filter(|name| !route.attributes.contains(name)).map(String::as_str).collect();
        if !missing.is_empty() {
            violations.push(Violation::new(
                &route.place,
                format!(
                    "it compares versions, but its key template {:?} lacks {} of the primary key of {}, so that several items share a key",
                    route.space.template.to_string(),
                    missing.join(", "),
                    route.table
                ),
                "put the whole primary key into the template, or use mode = \"plain\" and action = \"invalidate\"",
            ));
        }
    }
    violations
}

/// Reports a route that needs attributes outside the primary key from images that the stream does not carry.
fn need_images(
    route: &Route,
    view: ViewType,
    events: impl IntoIterator<Item = EventName>,
    violations: &mut Vec<Violation>,
    why: impl Fn() -> String,
) {
    let (mut new, mut old) = (false, false);
    for event in events {
        new |= matches!(event, EventName::Insert | EventName::Modify);
        old |= matches!(event, EventName::Modify | EventName::Remove);
    }
    report_images(route, view, new, old, violations, why);
}

/// A change's version is in the new image, a deletion's in the old one.
fn need_versions(route: &Route, view: ViewType, attribute: &str, violations: &mut Vec<Violation>) {
    let new = route.applies_to(EventName::Insert) || route.applies_to(EventName::Modify);
    let old = route.applies_to(EventName::Remove);
    report_images(route, view, new, old, violations, || format!("mode versioned reads the attribute {attribute:?}"));
}

fn report_images(
    route: &Route,
    view: ViewType,
    new: bool,
    old: bool,
    violations: &mut Vec<Violation>,
    why: impl Fn() -> String,
) {
    if (!new || view.has_new()) && (!old || view.has_old()) {
        return;
    }
    let needed = match (new, old) {
        (true, true) => ViewType::NewAndOldImages,
        (true, false) => ViewType::NewImage,
        (false, _) => ViewType::OldImage,
    };
    violations.push(Violation::new(
        &route.place,
        format!("{}, and the stream of {} carries {}", why(), route.table, view.as_str()),
        format!("enable the stream with {}", needed.as_str()),
    ));
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
