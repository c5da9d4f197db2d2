//! What lies between a caller and a server in memory: calls that take their time, and calls that are lost.

use std::time::Duration;

use super::{COMMAND_TIMEOUT, MemoryServer};
use crate::valkey::ShardError;

/// How calls travel; none takes any time where nothing is said.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Weather {
    /// The longest that a call, its answer or a message takes one way.
    pub(super) longest: Duration,
    /// The share of calls that are lost.
    pub(super) lost: f64,
}

/// What becomes of one call.
enum Fate {
    Answered,
    /// Its caller gives it up; it is carried out after so long, or never.
    Lost(Option<Duration>),
}

impl Weather {
    pub(super) fn is_calm(&self) -> bool {
        self.longest.is_zero() && self.lost == 0.0
    }

    /// How long something takes one way: mostly little, at times close to the longest.
    pub(super) fn one_way(&self) -> Duration {
        self.longest.mul_f64(fastrand::f64().powi(4))
    }

    fn fate(&self) -> Fate {
        if fastrand::f64() >= self.lost {
            return Fate::Answered;
        }
        Fate::Lost(match fastrand::u8(..3) {
            0 => None,
            1 => Some(self.one_way()),
            _ => Some(COMMAND_TIMEOUT.mul_f64(2.0 * fastrand::f64())),
        })
    }
}

impl MemoryServer {
    /// Makes a call as the weather has it. It is under way by itself, as on a connection: a caller that leaves takes nothing
    /// back.
    pub(in crate::valkey) async fn travel<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Self) -> Result<T, ShardError> + Send + 'static,
    ) -> Result<T, ShardError> {
        let weather = self.state().weather;
        if weather.is_calm() {
            return call(self);
        }
        let (server, timed_out) = (self.clone(), ShardError::TimedOut { shard: self.name.clone() });
        match weather.fate() {
            Fate::Answered => {
                let (there, back) = (weather.one_way(), weather.one_way());
                let under_way = tokio::spawn(async move {
                    tokio::time::sleep(there).await;
                    let answer = call(&server);
                    tokio::time::sleep(back).await;
                    answer
                });
                // It only ends by itself, or with the runtime.
                under_way.await.unwrap_or(Err(timed_out))
            }
            Fate::Lost(after) => {
                if let Some(after) = after {
                    tokio::spawn(async move {
                        tokio::time::sleep(after).await;
                        let _nobody_listens = call(&server);
                    });
                }
                tokio::time::sleep(COMMAND_TIMEOUT).await;
                Err(timed_out)
            }
        }
    }
}
