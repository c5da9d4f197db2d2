//! Workers that are started, crash, hang, are stopped and started again.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use ringtide_core::config::Config;
use tokio::task::JoinHandle;

use super::flaw::Flaw;
use super::leases::Leases;
use super::line::Line;
use super::ring;
use super::source::Source;
use super::world::World;
use crate::lease::{MemoryLeases, OwnerId};
use crate::worker::{RunningWorker, Worker};

const CONFIG: &str = r#"
[worker]
application = "simulated"
listen = ""
idle_poll = "400ms"
max_reads_per_second = 20
discovery_interval = "3s"
checkpoint_interval = "500ms"
drain_timeout = "3s"
lease_timeout = "6s"
unhealthy_after = "20s"
pages_in_flight = 3
[[ring.shards]]
name = "a"
address = "127.0.0.1:1"
[spaces.product]
key = "product:{pk}"
[[routes]]
table = "products"
space = "product"
"#;

pub(super) fn config() -> Config {
    static PARSED: OnceLock<Config> = OnceLock::new();
    PARSED.get_or_init(|| Config::parse(CONFIG, []).unwrap()).clone()
}

pub(super) struct Fleet {
    world: Arc<Mutex<World>>,
    pub(super) leases: Arc<MemoryLeases>,
    slots: Vec<Slot>,
    started: u32,
    seed: u64,
    flaw: Flaw,
}

struct Slot {
    name: String,
    lease_timeout: Duration,
    at_work: Option<AtWork>,
}

/// A worker that is starting or has started.
struct AtWork {
    line: Line,
    running: Arc<Mutex<Option<RunningWorker>>>,
    starting: JoinHandle<()>,
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.starting.abort();
        drop(self.running.lock().unwrap().take());
    }
}

impl Fleet {
    pub(super) fn new(world: Arc<Mutex<World>>, lease_timeouts: &[Duration], seed: u64, flaw: Flaw) -> Self {
        let slot = |(number, lease_timeout): (usize, &Duration)| {
            let name = format!("worker-{number}");
            Slot { name, lease_timeout: *lease_timeout, at_work: None }
        };
        let slots = lease_timeouts.iter().enumerate().map(slot).collect();
        Self { world, leases: Arc::default(), slots, started: 0, seed, flaw }
    }

    pub(super) fn size(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn start(&mut self, slot: usize) {
        if self.slots[slot].at_work.is_some() {
            return;
        }
        self.started += 1;
        let seed = self.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(self.started));
        let slot = &mut self.slots[slot];
        let line = Line::new(Arc::clone(&self.world), self.started, seed, self.flaw, slot.lease_timeout);
        let mut config = config();
        config.worker.lease_timeout = slot.lease_timeout;
        let running = Arc::new(Mutex::new(None));
        let started = Arc::clone(&running);
        let world = Arc::clone(&self.world);
        let (name, leases, at_the) = (slot.name.clone(), Arc::clone(&self.leases), line.clone());
        let starting = tokio::spawn(async move {
            loop {
                let worker = Worker {
                    source: Arc::new(Source(at_the.clone())),
                    leases: Arc::new(Leases::new(at_the.clone(), Arc::clone(&leases))),
                    deliver: ring::of(&at_the),
                    owner: OwnerId::named(&name),
                    metrics: None,
                    start_timeout: Duration::from_secs(600),
                };
                match worker.start(&config).await {
                    Ok(worker) => return *started.lock().unwrap() = Some(worker),
                    // The table has no stream now: whoever keeps the process running starts it again.
                    Err(error) if error.is_configuration() => tokio::time::sleep(Duration::from_secs(1)).await,
                    Err(error) => {
                        return world.lock().unwrap().ledger.breaks(format!("a worker does not start: {error}"));
                    }
                }
            }
        });
        slot.at_work = Some(AtWork { line, running, starting });
    }

    /// Ends a worker without warning; it comes back under its own name or another one.
    pub(super) fn crash(&mut self, slot: usize, renamed: bool) {
        let started = self.started;
        let slot = &mut self.slots[slot];
        slot.at_work = None;
        if renamed {
            slot.name = format!("{}-{started}", slot.name);
        }
    }

    pub(super) fn line(&self, slot: usize) -> Option<&Line> {
        self.slots[slot].at_work.as_ref().map(|at_work| &at_work.line)
    }

    /// Stops a worker in order; it has to end in time.
    pub(super) fn stop(&mut self, slot: usize) {
        let Some(at_work) = self.slots[slot].at_work.take() else { return };
        let Some(running) = at_work.running.lock().unwrap().take() else { return };
        let world = Arc::clone(&self.world);
        running.shutdown();
        tokio::spawn(async move {
            let _at_work = at_work;
            if tokio::time::timeout(Duration::from_secs(60), running.join()).await.is_err() {
                world.lock().unwrap().ledger.breaks("a worker does not stop".to_owned());
            }
        });
    }

    pub(super) fn heal(&mut self) {
        for slot in 0..self.size() {
            self.start(slot);
            if let Some(line) = self.line(slot) {
                line.heal();
            }
        }
    }

    /// Workers that ended by themselves, and what those at work complain about.
    pub(super) fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for slot in &self.slots {
            let running = slot.at_work.as_ref().map(|at_work| at_work.running.lock().unwrap());
            match running.as_ref().and_then(|running| running.as_ref()) {
                Some(running) => {
                    let (live, ready) = (running.health().live(), running.health().ready());
                    complaints.extend(live.reasons.into_iter().chain(ready.reasons));
                }
                None => complaints.push(format!("{} is not at work", slot.name)),
            }
        }
        complaints
    }

    pub(super) fn owners(&self) -> BTreeSet<String> {
        self.slots.iter().map(|slot| slot.name.clone()).collect()
    }

    /// Stops everybody, and waits for it.
    pub(super) async fn end(&mut self) -> Result<(), String> {
        for slot in &mut self.slots {
            let Some(at_work) = slot.at_work.take() else { continue };
            let running = at_work.running.lock().unwrap().take();
            let Some(running) = running else { continue };
            running.shutdown();
            match tokio::time::timeout(Duration::from_secs(10), running.join()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(format!("{} had ended: {error}", slot.name)),
                Err(_) => return Err(format!("{} does not stop", slot.name)),
            }
        }
        Ok(())
    }
}
