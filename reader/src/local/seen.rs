//! Which entries were just kept as a fallback, at the price of a few instructions a hit.
//!
//! A hit of a ring shard is to cost what its `GET` costs, so that what is kept for the ring shard's failures must not cost a
//! look-up and a look at the clock each time. Nothing depends on the answer but how soon a copy is kept anew: entries may be
//! taken for one another, and the time is that of a task that runs now and then.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ringtide_core::entry::HEADER_LEN;
use ringtide_core::key::CacheKey;

/// How often the time is looked at.
pub(super) const TICK: Duration = Duration::from_millis(50);

const SLOTS: usize = 4096;

/// Bits of a slot that hold the tick; the others tell entries apart.
const TICKS: u64 = (1 << 24) - 1;

pub(super) struct Seen {
    slots: Box<[AtomicU64]>,
    tick: AtomicU64,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self { slots: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(), tick: AtomicU64::new(0) }
    }

    pub(super) fn tick(&self) {
        self.tick.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether this very entry was noted within the last quarter of `ttl`; if not, it is now.
    #[inline]
    pub(super) fn note(&self, key: &CacheKey, entry: &Bytes, ttl: Duration) -> bool {
        let mark = mark(key, entry);
        let tick = self.tick.load(Ordering::Relaxed) & TICKS;
        let Some(slot) = self.slots.get(mark as usize % SLOTS) else { return false };
        let noted = slot.load(Ordering::Relaxed);
        let age = tick.wrapping_sub(noted & TICKS) & TICKS;
        let quarter = ttl.as_secs().saturating_mul(5).saturating_add(u64::from(ttl.subsec_millis()) / 200);
        if noted & !TICKS == mark & !TICKS && age < quarter {
            return true;
        }
        slot.store((mark & !TICKS) | tick, Ordering::Relaxed);
        false
    }
}

/// Mixes what tells entries apart: the header's times and length, and the ends of payload and key.
#[inline]
fn mark(key: &CacheKey, entry: &Bytes) -> u64 {
    let word = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let header = entry.get(HEADER_LEN - 16..HEADER_LEN).unwrap_or_default();
    let (soft, cost_and_len) = (word(header.first_chunk()), word(header.last_chunk()));
    let (key, payload_end) = (key.as_bytes(), word(entry.last_chunk()));
    let tail = match key.last_chunk() {
        Some(tail) => u64::from_le_bytes(*tail),
        None => key.iter().fold(0, |tail, byte| tail << 8 | u64::from(*byte)),
    };
    let len = key.len() as u64 ^ payload_end.rotate_left(7);
    let mixed = soft.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ cost_and_len.rotate_left(29) ^ len;
    let mixed = (mixed ^ (mixed >> 32) ^ tail.rotate_left(17)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    mixed ^ (mixed >> 32)
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
        seen.tick();
        assert!(!seen.note(&key(1), &entry(5), ttl) && seen.note(&key(1), &entry(5), ttl));
        assert!(!seen.note(&key(1), &entry(6), ttl), "another fill");
        assert!(!seen.note(&key(2), &entry(6), ttl), "another key");
        for _ in 0..4 {
            seen.tick();
        }
        assert!(seen.note(&key(2), &entry(6), ttl));
        seen.tick();
        assert!(!seen.note(&key(2), &entry(6), ttl), "a quarter later");
        assert!(!seen.note(&key(2), &entry(6), Duration::from_millis(100)), "too short a time to be left out");
        let fresh: Vec<_> = (0..1000).filter(|n| !seen.note(&key(*n), &entry(7), ttl)).collect();
        assert!(fresh.len() > 990, "entries of the same moment are told apart");
        let short = ["a", "b", "ab", "ba", "item:1", "item:2"].map(|key| CacheKey::new(key).unwrap());
        assert!(short.iter().all(|key| !seen.note(key, &entry(8), ttl)), "and so are those of short keys");
    }
}
