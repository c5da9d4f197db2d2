//! The origin: what is true of each key now, loads of it, and what has been delivered to the ring.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Keys that are read and written all the time.
pub(crate) const KEYS: u64 = 24;

/// A key whose loads wait to be allowed.
pub(crate) const HELD: u64 = 1000;

#[derive(Clone)]
pub(crate) struct Truth(Arc<State>);

struct State {
    /// By key.
    now: Vec<AtomicU64>,
    held: AtomicU64,
    /// Whose invalidations were acknowledged, and when, by key; in the order of both.
    delivered: Vec<Mutex<Vec<(Instant, u64)>>>,
    loads: AtomicUsize,
    begun: Semaphore,
    allowed: Semaphore,
}

impl Truth {
    pub(crate) fn new() -> Self {
        Self(Arc::new(State {
            now: (0..KEYS).map(|_| AtomicU64::new(1)).collect(),
            held: AtomicU64::new(1),
            delivered: (0..KEYS).map(|_| Mutex::default()).collect(),
            loads: AtomicUsize::new(0),
            begun: Semaphore::new(0),
            allowed: Semaphore::new(0),
        }))
    }

    fn cell(&self, key: u64) -> &AtomicU64 {
        self.0.now.get(key as usize).unwrap_or(&self.0.held)
    }

    pub(crate) fn now(&self, key: u64) -> u64 {
        self.cell(key).load(Ordering::SeqCst)
    }

    /// Changes a key; its new value.
    pub(crate) fn write(&self, key: u64) -> u64 {
        self.cell(key).fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Notes that a change's invalidation was acknowledged.
    pub(crate) fn deliver(&self, key: u64, value: u64) {
        let mut delivered = self.0.delivered[key as usize].lock().unwrap();
        if delivered.last().is_none_or(|(_, latest)| *latest < value) {
            delivered.push((Instant::now(), value));
        }
    }

    /// What had been delivered of a key until some time ago, and so has to be known to a read that begins now.
    pub(crate) fn delivered(&self, key: u64, ago: Duration) -> u64 {
        let (delivered, now) = (self.0.delivered[key as usize].lock().unwrap(), Instant::now());
        let until = delivered.partition_point(|(at, _)| now - *at >= ago);
        until.checked_sub(1).map_or(1, |latest| delivered[latest].1)
    }

    /// A strongly consistent load: what is true when it begins, some time later.
    pub(crate) async fn load(&self, key: u64) -> u64 {
        let value = self.now(key);
        self.0.loads.fetch_add(1, Ordering::SeqCst);
        if key == HELD {
            self.0.begun.add_permits(1);
            self.0.allowed.acquire().await.unwrap().forget();
        } else {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(0..15))).await;
        }
        value
    }

    /// Waits for one more load of [`HELD`] to begin.
    pub(crate) async fn begun(&self) {
        self.0.begun.acquire().await.unwrap().forget();
    }

    /// Lets loads of [`HELD`] return.
    pub(crate) fn allow(&self, loads: usize) {
        self.0.allowed.add_permits(loads);
    }

    pub(crate) fn loads(&self) -> usize {
        self.0.loads.load(Ordering::SeqCst)
    }

    /// Serves loads of other processes: eight bytes of key, eight bytes of value.
    pub(crate) async fn serve(&self) -> (String, AbortOnDropHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (truth, address) = (self.clone(), listener.local_addr().unwrap().to_string());
        let serving = tokio::spawn(async move {
            let connections = TaskTracker::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let truth = truth.clone();
                connections.spawn(async move {
                    let Ok(key) = stream.read_u64().await else { return };
                    let value = truth.load(key).await;
                    // Whoever asked may have been killed.
                    let _gone = stream.write_u64(value).await;
                });
            }
        });
        (address, AbortOnDropHandle::new(serving))
    }
}

/// Loads from another process's origin.
pub(crate) async fn load_from(address: String, key: u64) -> std::io::Result<Option<u64>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_u64(key).await?;
    Ok(Some(stream.read_u64().await?))
}
