//! A function with its sandboxes, a ring, a table and readers: made once, used by many schedules.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ringtide::Cache;
use ringtide_core::config::Config;
use tempfile::TempDir;

use super::destination::Objects;
use super::fleet::Fleet;
use super::readers::Spaces;
use super::ring::Ring;
use super::table::Table;

/// Key spaces of every way in which an entry is kept true.
const SPACES: &str = r#"
[spaces.versioned]
key = "versioned:{pk}"
mode = "versioned"
version_attribute = "rev"
[spaces.plain]
key = "plain:{pk}"
[spaces.category]
key = "category:{category}"
[spaces.price]
key = "price:{pk}"
[spaces.copy]
key = "copy:{pk}"
[spaces.mirror]
key = "mirror:{pk}"
"#;

/// A route for each of them.
pub(crate) const ROUTES: &str = r#"
[[routes]]
table = "products"
space = "versioned"
[[routes]]
table = "products"
space = "plain"
[[routes]]
table = "products"
space = "category"
when_changed = ["category"]
[[routes]]
table = "products"
space = "price"
when_changed = ["price"]
[[routes]]
table = "products"
space = "copy"
action = "refresh"
[[routes]]
table = "products"
space = "mirror"
action = "refresh"
projection = ["pk", "rev", "text"]
populate = true
"#;

/// One key an item, so that each record is of one ring shard.
pub(crate) const PLAIN_ROUTE: &str = "[[routes]]\ntable = \"products\"\nspace = \"plain\"\n";

/// A refresh of each item, and nothing else.
pub(crate) const MIRROR_ROUTE: &str = "[[routes]]\ntable = \"products\"\nspace = \"mirror\"\naction = \"refresh\"\nprojection = [\"pk\", \"rev\", \"text\"]\npopulate = true\n";

/// Time-outs that make an outage short.
const HASTY: &str = "[valkey]\ncommand_timeout = \"120ms\"\nconnect_timeout = \"300ms\"\n";

pub(crate) struct World {
    pub(crate) ring: Ring,
    pub(crate) fleet: Fleet,
    pub(crate) table: Arc<Mutex<Table>>,
    pub(crate) spaces: Spaces,
    pub(crate) objects: Objects,
    pub(crate) parked: PathBuf,
    _directory: TempDir,
    _cache: Cache,
}

impl World {
    /// Starts with time-outs that make an outage short.
    pub(crate) async fn start(routes: &str) -> Self {
        Self::with(HASTY, routes).await
    }

    /// Starts with time-outs that the busiest machine keeps to: no command is sent twice.
    pub(crate) async fn start_patient(routes: &str) -> Self {
        Self::with("[valkey]\ncommand_timeout = \"10s\"\n", routes).await
    }

    async fn with(valkey: &str, routes: &str) -> Self {
        let ring = Ring::start().await;
        let objects = Objects::serve().await;
        let directory = tempfile::tempdir().unwrap();
        let parked = directory.path().join("parked");
        std::fs::create_dir(&parked).unwrap();
        let text = format!("park = {{ to = \"file://{}\" }}\n{valkey}{}{SPACES}", parked.display(), ring.text(true));
        let text = format!("{text}{routes}");
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = vec![
            variable("RINGTIDE_CONFIG_TEXT", &text),
            variable("AWS_ENDPOINT_URL", &objects.url),
            variable("RINGTIDE_LOG", "info"),
        ];
        let config = Config::parse(&format!("{valkey}{}{SPACES}", ring.text(false)), []).unwrap();
        let cache = Cache::from_config(config).await.unwrap();
        let table = Arc::new(Mutex::new(Table::default()));
        let spaces = Spaces::new(&cache, table.clone());
        let fleet = Fleet::new(environment);
        Self { ring, fleet, table, spaces, objects, parked, _directory: directory, _cache: cache }
    }

    /// The sequence numbers of the records that were parked with content.
    pub(crate) fn parked(&self) -> Vec<u128> {
        let mut parked = Vec::new();
        let mut directories = vec![self.parked.clone()];
        while let Some(directory) = directories.pop() {
            for file in std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()) {
                if file.is_dir() {
                    directories.push(file);
                    continue;
                }
                let Ok(text) = std::fs::read_to_string(&file) else { continue };
                let Ok(record) = serde_json::from_str::<serde_json::Value>(&text) else { continue };
                if !record["content"].is_null() {
                    parked.extend(record["sequence"].as_str().and_then(|number| number.parse::<u128>().ok()));
                }
            }
        }
        parked
    }
}
