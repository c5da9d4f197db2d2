//! Keys whose invalidation is on its way and that nobody waits for any more. Pure.

use std::collections::{BTreeMap, HashMap};

use ringtide_core::key::CacheKey;

use crate::shard::Place;

/// The keys by the server that has yet to answer, each as often as an invalidation of it is on its way.
#[derive(Default)]
pub(super) struct Late {
    keys: BTreeMap<Place, HashMap<CacheKey, usize>>,
    len: usize,
}

impl Late {
    /// How many keys there are, over all servers.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn add<'k>(&mut self, place: &Place, keys: impl Iterator<Item = &'k CacheKey>) {
        let of_place = self.keys.entry(place.clone()).or_default();
        for key in keys {
            let times = of_place.entry(key.clone()).or_default();
            self.len += usize::from(*times == 0);
            *times += 1;
        }
    }

    pub(super) fn remove<'k>(&mut self, place: &Place, keys: impl Iterator<Item = &'k CacheKey>) {
        let Some(of_place) = self.keys.get_mut(place) else { return };
        for key in keys {
            let Some(times) = of_place.get_mut(key) else { continue };
            *times -= 1;
            if *times == 0 {
                of_place.remove(key);
                self.len -= 1;
            }
        }
        if of_place.is_empty() {
            self.keys.remove(place);
        }
    }

    pub(super) fn has(&self, place: &Place, key: &CacheKey) -> bool {
        self.keys.get(place).is_some_and(|keys| keys.contains_key(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_late_until_every_invalidation_of_it_is_answered() {
        let place = |name: &str| Place { name: name.into(), address: format!("{name}:6379") };
        let keys = ["1", "2"].map(|key| CacheKey::new(key).unwrap());
        let mut late = Late::default();
        late.add(&place("a"), keys.iter());
        late.add(&place("a"), keys[..1].iter());
        assert_eq!(late.len(), 2);
        late.remove(&place("b"), keys.iter());
        late.remove(&place("a"), keys.iter());
        assert!(late.has(&place("a"), &keys[0]) && !late.has(&place("a"), &keys[1]));
        assert!(!late.has(&place("b"), &keys[0]));
        late.remove(&place("a"), keys.iter());
        assert!(late.len() == 0 && late.keys.is_empty());
    }
}
