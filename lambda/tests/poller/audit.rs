//! What every schedule has to come to: each entry that is served equals the table.

use ringtide_core::entry::State;
use serde_json::{Value, json};

use super::table::{Item, Table};
use super::world::World;

/// The prefixes of the key spaces.
const PREFIXES: [&str; 6] = ["versioned:", "plain:", "category:", "price:", "copy:", "mirror:"];

/// What an audit found.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    pub(crate) entries: usize,
    /// Each stale entry with what it holds and what the table holds.
    pub(crate) stale: Vec<String>,
}

/// Compares every entry whose key holds `tag` with the table.
pub(crate) async fn audit(world: &World, tag: &str) -> Audit {
    let mut audit = Audit::default();
    for prefix in PREFIXES {
        for (key, entry) in world.ring.entries(&format!("{prefix}{tag}")).await {
            let held = match entry.header.state {
                State::Value => serde_json::from_slice(&entry.payload).unwrap(),
                State::Negative => Value::Null,
                State::Tombstone | State::Stale => continue,
            };
            audit.entries += 1;
            let expected = expected(&world.table.lock().unwrap(), prefix, &key);
            if held != expected {
                audit.stale.push(format!("{key} holds {held}, the table {expected}"));
            }
        }
    }
    audit
}

fn expected(table: &Table, prefix: &str, key: &str) -> Value {
    let rest = &key[prefix.len()..];
    if prefix == "category:" {
        return json!(table.category(rest));
    }
    let Some(item) = table.get(rest) else { return Value::Null };
    match prefix {
        "price:" => json!(item.price),
        "mirror:" => {
            let Item { pk, rev, text, .. } = item;
            json!({ "pk": pk, "rev": rev, "text": text })
        }
        _ => json!(item),
    }
}
