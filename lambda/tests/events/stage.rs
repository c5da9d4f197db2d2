//! A handler on a ring that only takes notes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use ringtide_core::command::Command;
use ringtide_core::config::Config;
use ringtide_core::park::{ParkError, ParkStore, ParkedRecord};
use ringtide_core::pipeline::{Limits, Pipeline, RingShard, plan};
use ringtide_core::ring::{Ring, RingHistory, ShardName};
use ringtide_core::route::Router;
use ringtide_core::valkey::{Applied, ShardError};
use ringtide_lambda::Handler;
use ringtide_lambda::event::Event;
use ringtide_lambda::event::given_up::ObjectPlace;
use ringtide_lambda::handler::{ObjectError, Objects};

const CONFIG: &str = r#"
ring = { shards = [{ name = "a", address = "h:1" }, { name = "b", address = "h:2" }] }
[spaces.product]
key = "product:{pk}"
mode = "versioned"
version_attribute = "rev"
[spaces.category]
key = "category:{category}:top"
[spaces.slow]
key = "slow:{pk}"
mode = "settle"
[spaces.copy]
key = "copy:{pk}"
[[routes]]
table = "products"
space = "product"
[[routes]]
table = "products"
space = "category"
[[routes]]
table = "products"
space = "slow"
[[routes]]
table = "products"
space = "copy"
action = "refresh"
"#;

pub(crate) struct Stage {
    pub(crate) handler: Handler,
    pub(crate) notes: Arc<Notes>,
    router: Router,
    ring: RingHistory,
}

/// What reached the ring and the other places that the handler writes to.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    applied: Mutex<BTreeMap<String, String>>,
    flushed: Mutex<Vec<String>>,
    parked: Mutex<Vec<ParkedRecord>>,
    objects: Mutex<HashMap<Place, Result<Bytes, ObjectError>>>,
    pub(crate) down: AtomicBool,
}

type Place = (String, String);

impl Stage {
    pub(crate) fn new() -> Self {
        let config = Config::parse(CONFIG, []).unwrap();
        let ring = Ring::new(config.ring.clone()).unwrap();
        let notes = Arc::new(Notes::default());
        let shards: Vec<(ShardName, Arc<dyn RingShard>)> = ring
            .shards()
            .iter()
            .map(|spec| (spec.name.clone(), Arc::new(NotedShard(notes.clone())) as Arc<dyn RingShard>))
            .collect();
        let history = || RingHistory::new(Ring::new(config.ring.clone()).unwrap(), 1000);
        let router = || Router::new(config.routes.clone());
        let park: Arc<dyn ParkStore> = notes.clone();
        let pipeline = Pipeline::start(router(), history(), shards, Limits::default(), Some(park));
        let handler = Handler::new(pipeline, notes.clone());
        Self { handler, notes, router: router(), ring: history() }
    }

    /// What was asked of each key since it was last taken.
    pub(crate) fn take_applied(&self) -> BTreeMap<String, String> {
        std::mem::take(&mut *self.notes.applied.lock().unwrap())
    }

    /// What an event's records ask of each key.
    pub(crate) fn planned(&self, text: &str) -> BTreeMap<String, String> {
        let Some(event) = Event::parse(text.to_owned()) else { return BTreeMap::new() };
        let plan = plan(&self.router, &self.ring, 0, &event.read());
        plan.batches.iter().flat_map(|batch| batch.commands.iter()).map(shown).collect()
    }

    /// The number of records that were parked.
    pub(crate) fn parked(&self) -> usize {
        self.notes.parked.lock().unwrap().len()
    }

    /// The prefixes that were flushed since they were last taken, without repetitions.
    pub(crate) fn take_flushed(&self) -> Vec<String> {
        let mut flushed = std::mem::take(&mut *self.notes.flushed.lock().unwrap());
        flushed.sort();
        flushed.dedup();
        flushed
    }

    pub(crate) fn store(&self, bucket: &str, key: &str, object: Result<String, ObjectError>) {
        let place = (bucket.to_owned(), key.to_owned());
        self.notes.objects.lock().unwrap().insert(place, object.map(Bytes::from));
    }
}

/// A command without what the number of the records before it decides.
fn shown(command: &Command) -> (String, String) {
    (String::from_utf8_lossy(command.key.as_bytes()).into_owned(), format!("{:?}", command.action))
}

struct NotedShard(Arc<Notes>);

impl RingShard for NotedShard {
    fn apply<'a>(&'a self, commands: &'a [Command], _: u64) -> BoxFuture<'a, Result<Applied, ShardError>> {
        Box::pin(async move {
            if self.0.down.load(Ordering::SeqCst) {
                return Err(ShardError::TimedOut { shard: "a".into() });
            }
            self.0.applied.lock().unwrap().extend(commands.iter().map(shown));
            Ok(Applied::default())
        })
    }

    fn flush<'a>(&'a self, prefix: &'a str, _: Duration) -> BoxFuture<'a, Result<u64, ShardError>> {
        Box::pin(async move {
            if self.0.down.load(Ordering::SeqCst) {
                return Err(ShardError::TimedOut { shard: "a".into() });
            }
            self.0.flushed.lock().unwrap().push(prefix.to_owned());
            Ok(0)
        })
    }

    fn reachable(&self, within: Duration) -> BoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(within))
    }
}

#[async_trait]
impl ParkStore for Notes {
    async fn park(&self, record: &ParkedRecord) -> Result<(), ParkError> {
        self.parked.lock().unwrap().push(record.clone());
        Ok(())
    }
}

#[async_trait]
impl Objects for Notes {
    async fn fetch(&self, place: &ObjectPlace) -> Result<Bytes, ObjectError> {
        let objects = self.objects.lock().unwrap();
        objects.get(&(place.bucket.clone(), place.key.clone())).cloned().unwrap_or(Err(ObjectError::Missing))
    }
}
