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

/// Pairs of slots, 128 KB of them: some ten thousand entries that are read again and again have room.
const PAIRS: usize = 8192;

/// Bits of a slot that hold the tick; the others tell entries apart.
const TICKS: u64 = (1 << 24) - 1;

pub(super) struct Seen {
    pairs: Box<[[AtomicU64; 2]]>,
    tick: AtomicU64,
}

impl Seen {
    pub(super) fn new() -> Self {
        Self { pairs: (0..PAIRS).map(|_| Default::default()).collect(), tick: AtomicU64::new(0) }
    }

    pub(super) fn tick(&self) {
        self.tick.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether this very entry was noted within the last quarter of `ttl`; if not, it is now.
    #[inline]
    pub(super) fn note(&self, key: &CacheKey, entry: &Bytes, ttl: Duration) -> bool {
        let mark = mark(key, entry);
        let tick = self.tick.load(Ordering::Relaxed) & TICKS;
        let Some(pair) = self.pairs.get(mark as usize % PAIRS) else { return false };
        let quarter = ttl.as_secs().saturating_mul(5).saturating_add(u64::from(ttl.subsec_millis()) / 200);
        let noted = [pair[0].load(Ordering::Relaxed), pair[1].load(Ordering::Relaxed)];
        let age = noted.map(|noted| tick.wrapping_sub(noted & TICKS) & TICKS);
        if (0..2).any(|at| noted[at] & !TICKS == mark & !TICKS && age[at] < quarter) {
            return true;
        }
        let older = usize::from(age[1] > age[0]);
        pair[older].store((mark & !TICKS) | tick, Ordering::Relaxed);
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
    let mixed = fold(soft ^ 0x9e37_79b9_7f4a_7c15, cost_and_len ^ len ^ 0xd6e8_feb8_6659_fd93);
    fold(mixed ^ tail, 0xa076_1d64_78bd_642f)
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
        let again: Vec<_> = fresh.iter().filter(|n| !seen.note(&key(**n), &entry(7), ttl)).collect();
        assert!(again.len() < 20, "{} keys of a thousand have no slot of their own", again.len());
        let short = ["a", "b", "ab", "ba", "item:1", "item:2"].map(|key| CacheKey::new(key).unwrap());
        assert!(short.iter().all(|key| !seen.note(key, &entry(8), ttl)), "and so are those of short keys");
    }
}
