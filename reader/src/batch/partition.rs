//! Which ring shard is asked for which keys. Pure.

use ringtide_core::key::CacheKey;
use ringtide_core::ring::ShardIndex;

/// Most keys of one `MGET`: more would hold up other commands of that ring shard.
pub(super) const MOST_KEYS: usize = 250;

/// One `MGET`.
#[derive(Debug, PartialEq)]
pub(super) struct Lookup {
    /// The ring shard, by its place in the ring.
    pub(super) shard: usize,
    /// What to ask for, never empty. A key that was given twice is asked for twice: to notice it costs each key more than
    /// its second value costs the few that have one.
    pub(super) keys: Vec<CacheKey>,
    /// The place of each key among those that were given.
    pub(super) places: Vec<usize>,
}

impl Lookup {
    /// Parts the keys of which `stays` holds from the others; nothing where there are none.
    pub(super) fn split(self, stays: impl Fn(&CacheKey) -> bool) -> (Option<Self>, Option<Self>) {
        let pairs = self.keys.into_iter().zip(self.places);
        let (theirs, others) = pairs.partition(|(key, _)| stays(key));
        (Self::of(self.shard, theirs), Self::of(self.shard, others))
    }

    /// Makes look-ups of the parts into which `split` divides the keys with their places.
    pub(super) fn split_up(
        self,
        split: impl FnOnce(Vec<(CacheKey, usize)>) -> Vec<Vec<(CacheKey, usize)>>,
    ) -> Vec<Self> {
        let parts = split(self.keys.into_iter().zip(self.places).collect());
        parts.into_iter().filter_map(|part| Self::of(self.shard, part)).collect()
    }

    fn of(shard: usize, part: Vec<(CacheKey, usize)>) -> Option<Self> {
        let (keys, places): (Vec<_>, Vec<_>) = part.into_iter().unzip();
        (!keys.is_empty()).then_some(Self { shard, keys, places })
    }
}

/// Divides keys by their owners, as they come.
pub(super) struct Partition {
    lookups: Vec<Lookup>,
    /// The look-up that takes the next key of each ring shard, until that is full.
    open: Vec<Option<usize>>,
    /// How many keys a look-up has room for before it grows.
    room: usize,
}

impl Partition {
    /// Begins to divide at most `keys` keys among `shards` ring shards.
    pub(super) fn new(keys: usize, shards: usize) -> Self {
        let fair = keys / shards.max(1);
        // Somewhat more than its fair share, so that few look-ups grow.
        let room = (fair + fair / 8 + 4).min(keys).min(MOST_KEYS);
        Self { lookups: Vec::with_capacity(shards), open: vec![None; shards], room }
    }

    /// Takes a key that was given at a place.
    #[inline]
    pub(super) fn add(&mut self, key: CacheKey, place: usize, owner: ShardIndex) {
        let (shard, room) = (owner.index(), self.room);
        let open = &mut self.open[shard];
        let at = match *open {
            Some(at) if self.lookups[at].keys.len() < MOST_KEYS => at,
            Some(_) | None => {
                let (keys, places) = (Vec::with_capacity(room), Vec::with_capacity(room));
                self.lookups.push(Lookup { shard, keys, places });
                *open.insert(self.lookups.len() - 1)
            }
        };
        let lookup = &mut self.lookups[at];
        lookup.keys.push(key);
        lookup.places.push(place);
    }

    /// What is to be asked, in no particular order.
    pub(super) fn lookups(self) -> Vec<Lookup> {
        self.lookups
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use ringtide_core::ring::{Membership, Placement, Ring, ShardName, ShardSpec};

    use super::*;

    fn ring(shards: usize) -> Ring {
        let shards = (0..shards)
            .map(|at| ShardSpec { name: ShardName::new(&format!("s{at}")), address: format!("h:{at}"), weight: 1 })
            .collect();
        Ring::new(Membership { epoch: 1, changed_at_ms: 0, shards, placement: Placement::default() }).unwrap()
    }

    proptest! {
        #[test]
        fn every_place_is_asked_for_once_at_its_keys_owner(
            // Few different keys, so that many are given twice.
            given in proptest::collection::vec(proptest::option::weighted(0.95, 0_u16..400), 0..1500),
            shards in 1_usize..5,
        ) {
            // Made once: a ring takes long to make.
            static RINGS: LazyLock<Vec<Ring>> = LazyLock::new(|| (1..5).map(ring).collect());
            let ring = &RINGS[shards - 1];
            let owner = |key: &CacheKey| ring.locate(key.as_bytes());
            let keys: Vec<_> = given.iter().map(|key| Some(CacheKey::new(format!("product:{}", (*key)?)).unwrap())).collect();
            let mut partition = Partition::new(keys.len(), shards);
            for (place, key) in keys.iter().enumerate() {
                if let Some(key) = key {
                    partition.add(key.clone(), place, owner(key));
                }
            }
            let lookups = partition.lookups();
            let mut answered = vec![None; keys.len()];
            for lookup in &lookups {
                prop_assert!((1..=MOST_KEYS).contains(&lookup.keys.len()));
                prop_assert_eq!(lookup.keys.len(), lookup.places.len());
                for (key, place) in lookup.keys.iter().zip(&lookup.places) {
                    prop_assert_eq!(lookup.shard, owner(key).index());
                    prop_assert!(answered[*place].replace(key.clone()).is_none(), "two answers at {}", place);
                }
            }
            prop_assert_eq!(answered, keys, "answers stand where their keys stood");
            // One command a ring shard, unless it has too many keys.
            for shard in 0..shards {
                let lookups: Vec<_> = lookups.iter().filter(|lookup| lookup.shard == shard).collect();
                let keys: usize = lookups.iter().map(|lookup| lookup.keys.len()).sum();
                prop_assert_eq!(lookups.len(), keys.div_ceil(MOST_KEYS));
            }
        }
    }
}
