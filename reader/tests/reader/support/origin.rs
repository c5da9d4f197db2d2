//! An origin that counts its loads and holds them until the test lets them go.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ringtide::Cache;
use tokio::sync::Semaphore;

use super::LONG;

#[derive(Clone)]
pub(crate) struct Origin {
    state: Arc<State>,
}

struct State {
    loads: AtomicUsize,
    begun: Semaphore,
    allowed: Semaphore,
}

impl Origin {
    /// One whose loads return at once.
    pub(crate) fn open() -> Self {
        Self::allowing(Semaphore::MAX_PERMITS)
    }

    /// One whose loads wait for [`Origin::allow`].
    pub(crate) fn held() -> Self {
        Self::allowing(0)
    }

    fn allowing(loads: usize) -> Self {
        let (begun, allowed) = (Semaphore::new(0), Semaphore::new(loads));
        Self { state: Arc::new(State { loads: AtomicUsize::new(0), begun, allowed }) }
    }

    /// Takes part in a load: counts it as begun, and waits to be allowed; the number of the load, from 1.
    pub(crate) async fn load(&self) -> usize {
        let load = self.state.loads.fetch_add(1, Ordering::SeqCst) + 1;
        self.state.begun.add_permits(1);
        self.state.allowed.acquire().await.unwrap().forget();
        load
    }

    /// Waits for one more load to begin.
    pub(crate) async fn begun(&self) {
        tokio::time::timeout(LONG, self.state.begun.acquire()).await.expect("a load begins").unwrap().forget();
    }

    /// Lets loads return.
    pub(crate) fn allow(&self, loads: usize) {
        self.state.allowed.add_permits(loads);
    }

    pub(crate) fn loads(&self) -> usize {
        self.state.loads.load(Ordering::SeqCst)
    }
}

/// Reads 40 keys at once, whose values are their numbers, and tells how many of their loads ran at one moment.
pub(crate) async fn most_loads_at_once(cache: &Cache) -> usize {
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let readers: Vec<_> = (0..40)
        .map(|at| {
            let (cache, running, most) = (cache.clone(), running.clone(), most.clone());
            tokio::spawn(async move {
                let load = move || {
                    let (running, most) = (running.clone(), most.clone());
                    async move {
                        most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                        running.fetch_sub(1, Ordering::SeqCst);
                        Ok::<_, Infallible>(Some(at))
                    }
                };
                tokio::time::timeout(LONG, cache.get_or_load(format!("key:{at}"), load)).await.unwrap().unwrap()
            })
        })
        .collect();
    for (at, reader) in readers.into_iter().enumerate() {
        assert_eq!(reader.await.unwrap(), Some(at));
    }
    most.load(Ordering::SeqCst)
}
