//! Which ring shard is asked for which keys. Pure.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use ringtide_core::key::CacheKey;

/// Most keys of one `MGET`: more would hold up other commands of that ring shard.
pub(super) const MOST_KEYS: usize = 250;

/// One `MGET`.
#[derive(Debug, PartialEq)]
pub(super) struct Lookup {
    /// The ring shard, by its place in the ring.
    pub(super) shard: usize,
    /// What to ask for: never empty, no key twice.
    pub(super) keys: Vec<CacheKey>,
    /// The place of each key among those that were given, the first where it was given more than once.
    pub(super) places: Vec<usize>,
}

/// The look-ups for some keys, each key in exactly one of them.
#[derive(Debug, Default)]
pub(super) struct Partition {
    pub(super) lookups: Vec<Lookup>,
    pub(super) twins: Twins,
}

/// The later places of keys that were given more than once, by the first.
#[derive(Debug, Default)]
pub(super) struct Twins(HashMap<usize, Vec<usize>>);

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

impl Partition {
    /// Divides keys among `shards` ring shards; places that are `None` are left out.
    ///
    /// `owner` gives a key's ring shard, below `shards`.
    pub(super) fn new(keys: Vec<Option<CacheKey>>, shards: usize, owner: impl Fn(&CacheKey) -> usize) -> Self {
        let mut partition = Self::default();
        let mut first: HashMap<&CacheKey, usize, RandomState> =
            HashMap::with_capacity_and_hasher(keys.len(), RandomState::default());
        let mut again = vec![false; keys.len()];
        for (place, key) in keys.iter().enumerate() {
            let Some(key) = key else { continue };
            let twin = *first.entry(key).or_insert(place);
            if twin != place {
                partition.twins.0.entry(twin).or_default().push(place);
                again[place] = true;
            }
        }
        // All in a row, so that what has to be fetched from memory for one of them does not wait for another.
        let owners: Vec<usize> = keys.iter().map(|key| key.as_ref().map_or(0, &owner)).collect();
        // The look-up of each ring shard that still takes keys.
        let mut open: Vec<Option<usize>> = vec![None; shards];
        let room = (keys.len() / shards.max(1)).saturating_mul(5).div_ceil(4).clamp(4, MOST_KEYS);
        for (place, ((key, again), shard)) in keys.into_iter().zip(again).zip(owners).enumerate() {
            let Some(key) = key.filter(|_| !again) else { continue };
            let full = |at: &usize| partition.lookups[*at].keys.len() >= MOST_KEYS;
            let at = match open[shard] {
                Some(at) if !full(&at) => at,
                Some(_) | None => {
                    let (keys, places) = (Vec::with_capacity(room), Vec::with_capacity(room));
                    partition.lookups.push(Lookup { shard, keys, places });
                    partition.lookups.len() - 1
                }
            };
            open[shard] = Some(at);
            partition.lookups[at].keys.push(key);
            partition.lookups[at].places.push(place);
        }
        partition
    }
}

impl Twins {
    /// The later places of the key whose first place this is.
    pub(super) fn of(&self, first: usize) -> impl Iterator<Item = usize> {
        let later = if self.0.is_empty() { None } else { self.0.get(&first) };
        later.into_iter().flatten().copied()
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
        fn every_key_is_asked_for_once_at_its_owner_and_every_place_is_answered(
            // Few different keys, so that many are given twice.
            given in proptest::collection::vec(proptest::option::weighted(0.95, 0_u16..400), 0..1500),
            shards in 1_usize..5,
        ) {
            // Made once: a ring takes long to make.
            static RINGS: LazyLock<Vec<Ring>> = LazyLock::new(|| (1..5).map(ring).collect());
            let ring = &RINGS[shards - 1];
            let owner = |key: &CacheKey| ring.locate(key.as_bytes()).index();
            let keys: Vec<_> = given.iter().map(|key| Some(CacheKey::new(format!("product:{}", (*key)?)).unwrap())).collect();
            let partition = Partition::new(keys.clone(), shards, owner);
            let mut asked: HashMap<&CacheKey, usize> = HashMap::new();
            let mut answered = vec![None; keys.len()];
            for lookup in &partition.lookups {
                prop_assert!((1..=MOST_KEYS).contains(&lookup.keys.len()));
                prop_assert_eq!(lookup.keys.len(), lookup.places.len());
                for (key, place) in lookup.keys.iter().zip(&lookup.places) {
                    prop_assert_eq!(lookup.shard, owner(key));
                    *asked.entry(key).or_default() += 1;
                    for place in std::iter::once(*place).chain(partition.twins.of(*place)) {
                        prop_assert!(answered[place].replace(key.clone()).is_none(), "two answers at {}", place);
                    }
                }
            }
            prop_assert!(asked.values().all(|times| *times == 1));
            prop_assert_eq!(answered, keys, "answers stand where their keys stood");
            // One command a ring shard, unless it has too many keys.
            for shard in 0..shards {
                let lookups: Vec<_> = partition.lookups.iter().filter(|lookup| lookup.shard == shard).collect();
                let keys: usize = lookups.iter().map(|lookup| lookup.keys.len()).sum();
                prop_assert_eq!(lookups.len(), keys.div_ceil(MOST_KEYS));
            }
        }
    }
}
