//! The pipeline's tasks: each ends with it, and none ends unnoticed.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// All tasks of a pipeline.
#[derive(Clone, Default)]
pub(super) struct Tasks {
    all: TaskTracker,
    /// Asks them to end.
    stop: CancellationToken,
    /// One of them has broken off.
    broken: CancellationToken,
}

impl Tasks {
    /// Starts a task that ends by itself or with the pipeline; `broke_off` is called where it panics.
    pub(super) fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
        broke_off: impl FnOnce() + Send + 'static,
    ) -> JoinHandle<()> {
        let guard = Guard { broken: self.broken.clone(), broke_off: Some(broke_off) };
        let stop = self.stop.clone();
        self.all.spawn(async move {
            let _guard = guard;
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        })
    }

    /// Resolves when a task has broken off.
    pub(super) async fn broken(&self) {
        self.broken.cancelled().await;
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits for the end of all.
    pub(super) async fn ended(&self) {
        self.all.close();
        self.all.wait().await;
    }
}

struct Guard<F: FnOnce()> {
    broken: CancellationToken,
    broke_off: Option<F>,
}

impl<F: FnOnce()> Drop for Guard<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a task of the pipeline has broken off, nothing more is delivered in full");
            if let Some(broke_off) = self.broke_off.take() {
                broke_off();
            }
            self.broken.cancel();
        }
    }
}
