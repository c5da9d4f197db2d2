//! Which entries were just kept as a fallback, at the price of a few instructions a hit.
//!
//! A hit of a ring shard is to cost what its `GET` costs, so that what is kept for the ring shard's failures must not cost a
//! look-up and a look at the clock each time. Nothing depends on the answer but how soon a copy is kept anew: entries may be
//! taken for one another, and the time is that of a task that runs now and then.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ringtide_core::entry::HEADER_LEN;
use ringtide_core::key::CacheKey;

/// How often the time is looked at.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// Sets of slots, 128 KB of them: some ten thousand entries that are read again and again have room.
const SETS: usize = 2048;

/// Slots of a set: as many as there are in a line of the processor's cache.
const SLOTS: usize = 8;

/// Bits of a slot that hold the tick; the others tell entries apart.
const TICKS: u64 = (1 << 24) - 1;

pub(super) struct Seen {
    sets: Box<[Set]>,
    tick: AtomicU64,
}

/// The slots that an entry may be noted in.
#[derive(Default)]
#[repr(align(64))]
struct Set([AtomicU64; SLOTS]);

impl Seen {
    pub(super) fn new() -> Self {
        Self { sets: (0..SETS).map(|_| Set::default()).collect(), tick: AtomicU64::new(0) }
    }

    pub(super) fn tick(&self) {
        self.tick.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the very entry of a mark was noted within the last quarter of `ttl`; if not, it is now.
    #[inline]
    pub(super) fn note(&self, Mark(mark): Mark, ttl: Duration) -> bool {
        let tick = self.tick.load(Ordering::Relaxed) & TICKS;
        let Some(Set(slots)) = self.sets.get(mark as usize % SETS) else { return false };
        let quarter = ttl.as_secs().saturating_mul(5).saturating_add(u64::from(ttl.subsec_millis()) / 200);
        let age = |slot: &AtomicU64| tick.wrapping_sub(slot.load(Ordering::Relaxed)) & TICKS;
        let same = |slot: &&AtomicU64| (slot.load(Ordering::Relaxed) ^ mark) & !TICKS == 0;
        // Each mark has a slot where it is looked for first, and mostly found: a search that ends anywhere is mispredicted.
        let (before, from) = slots.split_at(mark as usize / SETS % SLOTS);
        let mut in_turn = from.iter().chain(before);
        let noted = in_turn.clone().find(same);
        if noted.is_some_and(|slot| age(slot) < quarter) {
            return true;
        }
        // The first of the oldest ones.
        let oldest = || in_turn.by_ref().min_by_key(|slot| Reverse(age(slot)));
        if let Some(slot) = noted.or_else(oldest) {
            slot.store((mark & !TICKS) | tick, Ordering::Relaxed);
        }
        false
    }
}

/// What an entry is told by.
#[derive(Clone, Copy)]
pub(super) struct Mark(u64);

/// Mixes what tells entries apart: the header's times and length, and the ends of payload and key.
#[inline]
pub(super) fn mark(key: &CacheKey, entry: &Bytes) -> Mark {
    let word = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let header = entry.get(HEADER_LEN - 16..HEADER_LEN).unwrap_or_default();
    let (soft, cost_and_len) = (word(header.first_chunk()), word(header.last_chunk()));
    let (key, payload_end) = (key.as_bytes(), word(entry.last_chunk()));
    let tail = match key.last_chunk() {
        Some(tail) => u64::from_le_bytes(*tail),
        None => key.iter().fold(0, |tail, byte| tail << 8 | u64::from(*byte)),
    };
    let len = key.len() as u64 ^ payload_end.rotate_left(7);
    let mixed = fold(soft ^ 0x9e37_79b9_7f4a_7c15, cost_and_len ^ len ^ 0xd6e8_feb8_6659_fd93);
    Mark(fold(mixed ^ tail, 0xa076_1d64_78bd_642f))
}

/// Multiplies, and brings the upper half of the product, which depends on all bits, down to the lower one.
#[inline]
fn fold(one: u64, other: u64) -> u64 {
    let product = u128::from(one) * u128::from(other);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use ringtide_core::entry::{Entry, Header};

    use super::*;

    fn entry(soft_expiry_ms: u64) -> Bytes {
        Entry { header: Header { soft_expiry_ms, ..Header::negative() }, payload: Bytes::new() }.to_bytes()
    }

    #[test]
    fn an_entry_is_noted_once_in_a_quarter_of_its_time() {
        let (seen, ttl) = (Seen::new(), Duration::from_secs(1));
        let key = |n: usize| CacheKey::new(format!("product:{n}")).unwrap();
        let note = |key: &CacheKey, entry: &Bytes, ttl| seen.note(mark(key, entry), ttl);
        seen.tick();
        assert!(!note(&key(1), &entry(5), ttl) && note(&key(1), &entry(5), ttl));
        assert!(!note(&key(1), &entry(6), ttl), "another fill");
        assert!(!note(&key(2), &entry(6), ttl), "another key");
        for _ in 0..4 {
            seen.tick();
        }
        assert!(note(&key(2), &entry(6), ttl));
        seen.tick();
        assert!(!note(&key(2), &entry(6), ttl), "a quarter later");
        assert!(!note(&key(2), &entry(6), Duration::from_millis(100)), "too short a time to be left out");
        let fresh: Vec<_> = (0..1000).filter(|n| !note(&key(*n), &entry(7), ttl)).collect();
        assert!(fresh.len() > 990, "entries of the same moment are told apart");
        let again: Vec<_> = fresh.iter().filter(|n| !note(&key(**n), &entry(7), ttl)).collect();
        assert!(again.len() < 5, "{} keys of a thousand have no slot of their own", again.len());
        let short = ["a", "b", "ab", "ba", "item:1", "item:2"].map(|key| CacheKey::new(key).unwrap());
        assert!(short.iter().all(|key| !note(key, &entry(8), ttl)), "and so are those of short keys");
    }
}
