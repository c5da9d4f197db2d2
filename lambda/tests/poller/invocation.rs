//! Invocations that are under way, each in a task of its own with the sandbox that it holds.

use std::time::Duration;

use super::mapping::Batch;
use super::plan::Chance;
use super::sandbox::{Ended, Fate, Sandbox};

/// What an invocation is for.
#[derive(Debug)]
pub(crate) enum Work {
    /// A batch of a lane.
    Batch(usize, Batch),
    /// So many messages from the front of the on-failure queue.
    Messages(usize),
}

/// An invocation that has ended.
pub(crate) struct Finished {
    pub(crate) work: Work,
    pub(crate) chance: Chance,
    pub(crate) ended: Ended,
    /// The second time, where the batch was sent twice.
    pub(crate) again: Option<Ended>,
    /// The sandboxes that can be used again.
    pub(crate) sandboxes: Vec<Option<Sandbox>>,
    /// One that was frozen past its time.
    pub(crate) zombie: Option<Sandbox>,
    /// How often the ring had been in trouble when it began.
    pub(crate) troubles: Option<usize>,
}

/// An invocation about to begin.
pub(crate) struct Begun {
    pub(crate) work: Work,
    pub(crate) event: String,
    pub(crate) chance: Chance,
    pub(crate) sandbox: Sandbox,
    pub(crate) second: Option<Sandbox>,
    pub(crate) time: Duration,
    pub(crate) troubles: Option<usize>,
}

impl Begun {
    pub(crate) async fn run(mut self) -> Finished {
        let (time, event) = (self.time, self.event.as_str());
        let mut sandboxes = Vec::new();
        let (ended, again) = match &mut self.second {
            Some(second) => {
                let both = tokio::join!(
                    self.sandbox.invoke(event, time, self.chance.fate),
                    second.invoke(event, time, Fate::Undisturbed)
                );
                (both.0, Some(both.1))
            }
            None => {
                let ended = self.sandbox.invoke(event, time, self.chance.fate).await;
                let again = match ended {
                    Ended::Said(_) if self.chance.twice && self.sandbox.lives() => {
                        Some(self.sandbox.invoke(event, time, Fate::Undisturbed).await)
                    }
                    _ => None,
                };
                (ended, again)
            }
        };
        if let Some(second) = self.second {
            sandboxes.push(after(second, again.as_ref()).await);
        }
        let outlived = matches!((&ended, self.chance.fate), (Ended::TimedOut, Fate::Outlived(_)));
        let mut zombie = None;
        if outlived {
            zombie = Some(self.sandbox);
            sandboxes.push(None);
        } else {
            let last = again.as_ref().filter(|_| sandboxes.is_empty()).unwrap_or(&ended);
            sandboxes.push(after(self.sandbox, Some(last)).await);
        }
        let (work, chance, troubles) = (self.work, self.chance, self.troubles);
        Finished { work, chance, ended, again, sandboxes, zombie, troubles }
    }
}

/// A sandbox whose time is over is killed; one that answered is used again.
async fn after(mut sandbox: Sandbox, ended: Option<&Ended>) -> Option<Sandbox> {
    if matches!(ended, Some(Ended::Said(_))) && sandbox.lives() {
        return Some(sandbox);
    }
    sandbox.kill().await;
    None
}
