//! What ends a reading before its time.

use std::panic::resume_unwind;

use tokio::sync::oneshot;
use tokio_util::task::AbortOnDropHandle;

use super::Exit;

/// Tells once that the reading is to stop, and why.
///
/// A task of its own waits for the causes, so that a consumer looks at one word, and not at each of them, whenever it is
/// woken.
pub(crate) struct Halt {
    told: oneshot::Receiver<Exit>,
    waiting: AbortOnDropHandle<()>,
}

impl Halt {
    /// Begins to wait for the order to stop, and for the loss of the lease.
    pub(super) fn new(
        stop: impl Future<Output = ()> + Send + 'static,
        lost: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let (tell, told) = oneshot::channel();
        // Boxed: as an argument of the task it would take its room twice.
        let (stop, lost) = (Box::pin(stop), Box::pin(lost));
        let waiting = tokio::spawn(async move {
            // In a fixed order, so that a simulation runs the same way twice.
            let exit = tokio::select! {
                biased;
                () = stop => Exit::Stopped,
                () = lost => Exit::LeaseLost,
            };
            let _unheard = tell.send(exit);
        });
        Self { told, waiting: AbortOnDropHandle::new(waiting) }
    }

    /// Resolves once, to [`Exit::Stopped`] or [`Exit::LeaseLost`]; not to be asked again after that.
    pub(super) async fn told(&mut self) -> Exit {
        match (&mut self.told).await {
            Ok(exit) => exit,
            Err(_) => self.broke_off().await,
        }
    }

    /// The consumer breaks off as what it relies on did; where the runtime ends, it stops.
    #[cold]
    async fn broke_off(&mut self) -> Exit {
        match (&mut self.waiting).await.map_err(tokio::task::JoinError::try_into_panic) {
            Err(Ok(panic)) => resume_unwind(panic),
            Ok(()) | Err(Err(_)) => Exit::Stopped,
        }
    }
}
