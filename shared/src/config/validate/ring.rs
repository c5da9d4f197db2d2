//! The rules of `[ring]`.

use super::Checker;
use crate::config::Violation;
use crate::config::raw::RawRing;
use crate::ring::{Membership, Placement, ShardName, ShardSpec};

impl Checker {
    /// The membership in use, and those before it, oldest first.
    pub(super) fn rings(&mut self, mut raw: RawRing) -> (Membership, Vec<Membership>) {
        let raw_earlier = std::mem::take(&mut raw.earlier);
        let ring = self.ring("ring", raw);
        let mut earlier: Vec<Membership> = Vec::new();
        for (index, raw) in raw_earlier.into_iter().enumerate() {
            let at = format!("ring.earlier[{index}]");
            if !raw.earlier.is_empty() {
                let remedy = "list all of them as ring.earlier, oldest first";
                self.refuse(format!("{at}.earlier"), "an earlier membership has none of its own", remedy);
            }
            let membership = self.ring(&at, raw);
            if earlier.last().is_some_and(|before| before.epoch >= membership.epoch) || membership.epoch >= ring.epoch {
                self.refuse(
                    format!("{at}.epoch"),
                    format!("epoch {} does not rise towards that of the ring, {}", membership.epoch, ring.epoch),
                    "list earlier memberships oldest first, each with the epoch that it had",
                );
            }
            earlier.push(membership);
        }
        (ring, earlier)
    }

    fn ring(&mut self, at: &str, raw: RawRing) -> Membership {
        self.unknown(at, &raw.unknown);
        let placement = raw.placement.map_or(Placement::default(), |text| {
            text.parse().unwrap_or_else(|_| {
                self.refuse(
                    format!("{at}.placement"),
                    format!("{text:?} is not a placement"),
                    "use ringtide, skipper or go-redis",
                );
                Placement::default()
            })
        });
        let mut shards = Vec::new();
        for (index, shard) in raw.shards.into_iter().enumerate() {
            let place = format!("{at}.shards[{index}]");
            self.unknown(&place, &shard.unknown);
            let weight = self.whole(&format!("{place}.weight"), shard.weight, 1..=1000, 1);
            match (shard.name, shard.address) {
                (Some(name), Some(address)) => {
                    shards.push(ShardSpec { name: ShardName::from(name.as_str()), address, weight });
                }
                (name, _) => {
                    let missing = if name.is_none() { "name" } else { "address" };
                    self.refuse(
                        format!("{place}.{missing}"),
                        format!("the ring shard has no {missing}"),
                        "write name = \"a\" and address = \"host:6379\"",
                    );
                }
            }
        }
        let membership = Membership {
            epoch: self.whole(&format!("{at}.epoch"), raw.epoch, 1..=i64::MAX, 1),
            changed_at_ms: self.whole(&format!("{at}.changed_at_ms"), raw.changed_at_ms, 0..=i64::MAX, 0),
            placement,
            shards,
        };
        let found = membership.violations();
        self.violations.extend(found.into_iter().map(|error| Violation::split(at, &error.to_string())));
        membership
    }
}
