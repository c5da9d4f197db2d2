//! Record × routes → commands. Pure: no I/O, no clock, no randomness.

mod check;
mod filter;
mod router;

use std::sync::Arc;

pub use filter::event_filter;
pub use router::{Explanation, RouteExplanation, Routed, Router, WhyNot};

use crate::key::{CacheKey, KeySpace};
use crate::record::EventName;

/// Which keys a table's changes touch, and what to do with them.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// Where the configuration has it, for messages: `routes[0]`.
    pub place: String,
    /// The table's name.
    pub table: String,
    /// The key space.
    pub space: Arc<KeySpace>,
    /// The table's attribute for each placeholder of the space's template, in its order.
    pub attributes: Vec<String>,
    /// The events it applies to.
    pub on: Vec<EventName>,
    /// Where not empty, a MODIFY counts only if one of these attributes differs.
    pub when_changed: Vec<String>,
    /// What to do.
    pub action: RouteAction,
}

/// What a route does with its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// Drop or mark the entry.
    Invalidate,
    /// Store the new image.
    Refresh {
        /// The attributes to store; `None` for all.
        projection: Option<Vec<String>>,
        /// Whether it is stored where nothing is cached.
        populate: bool,
    },
}

impl Route {
    /// Tells whether the route applies to an event.
    #[must_use]
    pub fn applies_to(&self, event: EventName) -> bool {
        self.on.contains(&event)
    }

    /// Tells whether the route's commands compare versions, so that each key must belong to exactly one item.
    #[must_use]
    pub fn compares_versions(&self) -> bool {
        self.version_attribute().is_some() || matches!(self.action, RouteAction::Refresh { .. })
    }

    /// The attribute that holds the item's version, where the key space has one.
    #[must_use]
    pub fn version_attribute(&self) -> Option<&str> {
        match &self.space.mode {
            crate::key::Mode::Versioned { attribute, .. } => Some(attribute),
            crate::key::Mode::Plain | crate::key::Mode::Settle { .. } => None,
        }
    }
}

/// Why a key was not rendered. Readers render keys by the same code, so that nobody can have cached it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Rendered {
    Key(CacheKey),
    /// An attribute is not there: the item has no such key.
    Absent,
    /// An attribute has a type that no key is made of, or the key is too long.
    Impossible,
}
