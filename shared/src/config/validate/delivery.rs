//! The rules of `[delivery]`.

use super::Checker;
use crate::config::raw::RawDelivery;
use crate::config::{Delivery, Valkey};

impl Checker {
    pub(super) fn delivery(&mut self, raw: RawDelivery, valkey: &Valkey) -> Delivery {
        self.unknown("delivery", &raw.unknown);
        let default = Delivery::default();
        let wait_replicas = self.whole("delivery.wait_replicas", raw.wait_replicas, 0..=100, default.wait_replicas);
        let wait_timeout = self.duration("delivery.wait_timeout", raw.wait_timeout, default.wait_timeout);
        if wait_replicas > 0 && wait_timeout >= valkey.command_timeout {
            self.refuse(
                "delivery.wait_timeout",
                format!(
                    "replicas may take {wait_timeout:?}, and the command that waits for them {:?}",
                    valkey.command_timeout
                ),
                "use less than valkey.command_timeout",
            );
        }
        if wait_replicas > 0 && valkey.cluster {
            self.refuse(
                "delivery.wait_replicas",
                "replicas of a cluster cannot be waited for",
                "use 0, or a ring of servers that have replicas",
            );
        }
        let keys = self.whole("delivery.redeliver_keys", raw.redeliver_keys, 0..=10_000_000, default.redeliver_keys);
        let mut time = |field: &str, raw, default| self.duration(&format!("delivery.{field}"), raw, default);
        Delivery {
            redeliver_window: time("redeliver_window", raw.redeliver_window, default.redeliver_window),
            redeliver_keys: keys,
            check_interval: time("check_interval", raw.check_interval, default.check_interval),
            wait_replicas,
            wait_timeout,
            watch: time("watch", raw.watch, default.watch),
        }
    }
}
