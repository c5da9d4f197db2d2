//! How much may wait for one ring shard, how much is remembered of it, and what counts as delivered.

use std::time::Duration;

use crate::config::{Config, Delivery};

/// How much may wait for one ring shard, how much is remembered of it, and what counts as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Commands past which a ring shard that is down is flushed instead.
    pub capacity: usize,
    /// Commands past which taking in waits for a ring shard that is up.
    pub high_water: usize,
    /// What is delivered again after a fail-over.
    pub redelivery: Redelivery,
    /// The replicas that have to hold a batch before it counts as delivered; `None` for none.
    pub replicas: Option<Replicas>,
}

/// What is remembered, to be delivered again to servers that may have lost it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redelivery {
    /// How far back.
    pub window: Duration,
    /// The most commands; where they do not reach back far enough, the ring shard is flushed.
    pub keys: usize,
    /// How often a ring shard is asked which servers it is.
    pub check: Duration,
}

/// Replicas that have to hold a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replicas {
    /// How many.
    pub count: u32,
    /// How long they may take.
    pub within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { capacity: 200_000, high_water: 20_000, redelivery: Redelivery::of(&Delivery::default()), replicas: None }
    }
}

impl Limits {
    /// The limits of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let delivery = &config.delivery;
        Self {
            capacity: config.worker.log_capacity,
            redelivery: Redelivery::of(delivery),
            replicas: (delivery.wait_replicas > 0)
                .then_some(Replicas { count: delivery.wait_replicas, within: delivery.wait_timeout }),
            ..Self::default()
        }
    }
}

impl Redelivery {
    const fn of(delivery: &Delivery) -> Self {
        Self { window: delivery.redeliver_window, keys: delivery.redeliver_keys, check: delivery.check_interval }
    }
}
