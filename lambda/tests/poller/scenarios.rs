//! What the random schedules come across by chance, one thing at a time.

mod delivery;
mod giving_up;
mod sandboxes;

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::audit::audit;
use super::mapping::{Batch, Lane, Settings, Verdict};
use super::sandbox::{Ended, Fate, Sandbox};
use super::table::Record;
use super::world::World;

/// Enough for everything that goes well.
const AMPLE: Duration = Duration::from_secs(10);

/// Short, where the time is to run out.
const SHORT: Duration = Duration::from_millis(400);

const SETTINGS: Settings = Settings {
    batch_size: 100,
    parallelization: 1,
    bisect: false,
    retries: None,
    maximum_age: None,
    progress_gives_retries_back: false,
    splits_at_the_first_record: true,
};

impl World {
    fn put(&self, pk: &str) -> Arc<Record> {
        self.table.lock().unwrap().put(pk, "tea", 1)
    }

    /// Makes items that are cached at once.
    async fn cached_items(&self, count: usize) -> Vec<String> {
        let pks: Vec<String> = (0..count).map(|n| format!("item{n}")).collect();
        pks.iter().for_each(|pk| drop(self.put(pk)));
        self.read(&pks).await;
        pks
    }

    async fn read(&self, pks: &[String]) {
        self.spaces.read_everything(pks, &["tea".to_owned()]).await.unwrap();
        self.spaces.settled().await;
    }

    /// Whether something is cached under this name.
    async fn holds(&self, name: &str) -> bool {
        self.ring.shard_of(name).await.is_some()
    }

    async fn sandbox(&mut self) -> Sandbox {
        self.fleet.take().await.unwrap()
    }

    /// No entry differs from the table.
    async fn nothing_is_stale(&self) {
        let audit = audit(self, "").await;
        assert!(audit.stale.is_empty(), "{:?}", audit.stale);
    }
}

async fn send(sandbox: &mut Sandbox, records: &[Arc<Record>], time: Duration, fate: Fate) -> (Verdict, Ended) {
    let batch = Batch { records: records.to_vec() };
    let ended = sandbox.invoke(&batch.event(), time, fate).await;
    (batch.verdict(&ended), ended)
}

/// Sends records that are to be delivered.
async fn deliver(sandbox: &mut Sandbox, records: &[Arc<Record>]) {
    let (verdict, ended) = send(sandbox, records, AMPLE, Fate::Undisturbed).await;
    assert_eq!(verdict, Verdict::Delivered, "{ended:?}");
}

/// Sums up a counter of the sandbox's metrics, where it has these labels.
fn counted(sandbox: &Sandbox, name: &str, labels: &[(&str, &str)]) -> u64 {
    let lines = sandbox.output.lock().unwrap();
    let documents = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let labelled = |document: &Value| labels.iter().all(|(label, value)| document[*label] == *value);
    documents.filter(labelled).filter_map(|document| document[name].as_u64()).sum()
}

/// Waits until the table's records are counted up to this one: what is counted by table is written last.
async fn records_are_counted(sandbox: &Sandbox, records: u64) {
    let counted = async {
        while counted(sandbox, "ringtide_pipeline_records_total", &[("table", "products")]) < records {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(AMPLE, counted).await.expect("metrics are written with each answer");
}

fn lane(records: impl IntoIterator<Item = Arc<Record>>) -> Lane {
    let mut lane = Lane::default();
    records.into_iter().for_each(|record| lane.push(record));
    lane
}
