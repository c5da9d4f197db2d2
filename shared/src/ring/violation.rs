//! What makes a membership unfit for a ring.

use std::collections::HashMap;

use super::{Membership, Placement, Ring, ShardName};

/// Tells why a membership makes no ring: the place, counted from 0 in the order given, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The epoch is 0.
    #[error("epoch is 0; count memberships from 1 and raise the epoch with every change")]
    NoEpoch,
    /// The list of shards is empty.
    #[error("shards is empty; name at least one shard")]
    NoShard,
    /// The list of shards is too long.
    #[error("shards has {count} entries; a ring has at most {max}, use larger shards", max = Ring::MAX_SHARDS)]
    TooManyShards {
        /// Number of shards given.
        count: usize,
    },
    /// A name is empty, too long, or has characters other than printable ASCII.
    #[error(
        "shards[{at}].name is {name:?}; use 1 to {max} printable ASCII characters without spaces",
        max = ShardName::MAX_LEN
    )]
    IllFormedName {
        /// Place of the shard in the list.
        at: usize,
        /// The shard's name.
        name: ShardName,
    },
    /// Two shards have one name.
    #[error("shards[{at}].name repeats {name:?} of shards[{first}]; give every shard a name of its own")]
    RepeatedName {
        /// Place of the shard in the list.
        at: usize,
        /// Place of the shard that has it already.
        first: usize,
        /// The shard's name.
        name: ShardName,
    },
    /// An address is empty or has spaces.
    #[error("shards[{at}].address of {name:?} is {address:?}; give the server's address, without spaces")]
    IllFormedAddress {
        /// Place of the shard in the list.
        at: usize,
        /// The shard's name.
        name: ShardName,
        /// The address as given.
        address: String,
    },
    /// Two shards have one address.
    #[error("shards[{at}].address repeats {address:?} of shards[{first}]; a server is one shard, remove one of them")]
    RepeatedAddress {
        /// Place of the shard in the list.
        at: usize,
        /// Place of the shard that has it already.
        first: usize,
        /// The address as given.
        address: String,
    },
    /// A weight is 0 or too great.
    #[error(
        "shards[{at}].weight of {name:?} is {weight}; use 1 to {max}, or remove the shard to take its keys away",
        max = Ring::MAX_WEIGHT
    )]
    WeightOutOfRange {
        /// Place of the shard in the list.
        at: usize,
        /// The shard's name.
        name: ShardName,
        /// The weight as given.
        weight: u32,
    },
    /// The placement treats all shards alike and a weight is not 1.
    #[error(
        "shards[{at}].weight of {name:?} is {weight}, but the {placement} placement treats all shards alike; remove \
         the weight, or use the ringtide placement"
    )]
    WeightNotKnown {
        /// Place of the shard in the list.
        at: usize,
        /// The shard's name.
        name: ShardName,
        /// The weight as given.
        weight: u32,
        /// The placement that was asked for.
        placement: Placement,
    },
}

impl Membership {
    /// Returns everything that makes this membership unfit for a ring, in the order of its parts.
    pub(crate) fn violations(&self) -> Vec<RingError> {
        let mut found = Vec::new();
        if self.epoch == 0 {
            found.push(RingError::NoEpoch);
        }
        if self.shards.is_empty() {
            found.push(RingError::NoShard);
        }
        if self.shards.len() > Ring::MAX_SHARDS {
            found.push(RingError::TooManyShards { count: self.shards.len() });
        }
        let mut names = HashMap::new();
        let mut addresses = HashMap::new();
        for (at, shard) in self.shards.iter().enumerate() {
            let name = || shard.name.clone();
            if !shard.name.is_well_formed() {
                found.push(RingError::IllFormedName { at, name: name() });
            }
            let first = *names.entry(&shard.name).or_insert(at);
            if first != at {
                found.push(RingError::RepeatedName { at, first, name: name() });
            }
            if shard.address.is_empty() || shard.address.contains(|c: char| c.is_whitespace() || c.is_control()) {
                found.push(RingError::IllFormedAddress { at, name: name(), address: shard.address.clone() });
            }
            let first = *addresses.entry(&shard.address).or_insert(at);
            if first != at {
                found.push(RingError::RepeatedAddress { at, first, address: shard.address.clone() });
            }
            if !self.placement.has_weights() && shard.weight != 1 {
                let (weight, placement) = (shard.weight, self.placement);
                found.push(RingError::WeightNotKnown { at, name: name(), weight, placement });
            } else if !(1..=Ring::MAX_WEIGHT).contains(&shard.weight) {
                found.push(RingError::WeightOutOfRange { at, name: name(), weight: shard.weight });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::ShardSpec;
    use super::*;

    fn shard(name: &str, address: &str, weight: u32) -> ShardSpec {
        ShardSpec { name: name.into(), address: address.to_owned(), weight }
    }

    fn violations(epoch: u64, placement: Placement, shards: Vec<ShardSpec>) -> Vec<RingError> {
        match Ring::new(Membership { epoch, changed_at_ms: 0, placement, shards }) {
            Ok(_) => Vec::new(),
            Err(found) => found,
        }
    }

    #[test]
    fn every_violation_is_reported_at_once() {
        let found = violations(
            0,
            Placement::Ringtide,
            vec![
                shard("a", "h:1", 1000),
                shard("a", "h:2", 0),
                shard("", "h:3", 1001),
                shard("b c", "h:1", 1),
                shard(&"n".repeat(129), "", 1),
                shard("é", "h 5", 1),
            ],
        );
        assert_eq!(
            found,
            [
                RingError::NoEpoch,
                RingError::RepeatedName { at: 1, first: 0, name: "a".into() },
                RingError::WeightOutOfRange { at: 1, name: "a".into(), weight: 0 },
                RingError::IllFormedName { at: 2, name: "".into() },
                RingError::WeightOutOfRange { at: 2, name: "".into(), weight: 1001 },
                RingError::IllFormedName { at: 3, name: "b c".into() },
                RingError::RepeatedAddress { at: 3, first: 0, address: "h:1".to_owned() },
                RingError::IllFormedName { at: 4, name: "n".repeat(129).into() },
                RingError::IllFormedAddress { at: 4, name: "n".repeat(129).into(), address: String::new() },
                RingError::IllFormedName { at: 5, name: "é".into() },
                RingError::IllFormedAddress { at: 5, name: "é".into(), address: "h 5".to_owned() },
            ]
        );
    }

    #[test]
    fn a_ring_has_1_to_1000_shards() {
        let shards = |count| (0..count).map(|i| shard(&format!("s{i}"), &format!("h:{i}"), 1)).collect();
        assert_eq!(violations(1, Placement::Ringtide, shards(0)), [RingError::NoShard]);
        assert_eq!(violations(1, Placement::GoRedis, shards(1000)), []);
        assert_eq!(violations(1, Placement::GoRedis, shards(1001)), [RingError::TooManyShards { count: 1001 }]);
    }

    #[test]
    fn compatible_placements_refuse_weights() {
        for placement in [Placement::Skipper, Placement::GoRedis] {
            let found = violations(1, placement, vec![shard("a", "h:1", 1), shard("b", "h:2", 2)]);
            assert_eq!(found, [RingError::WeightNotKnown { at: 1, name: "b".into(), weight: 2, placement }]);
        }
    }

    #[test]
    fn messages_name_the_place_and_the_remedy() {
        let found = violations(1, Placement::Ringtide, vec![shard("a", "h:1", 1), shard("b", "h:2", 0)]);
        assert_eq!(
            found[0].to_string(),
            "shards[1].weight of \"b\" is 0; use 1 to 1000, or remove the shard to take its keys away"
        );
    }
}
