//! Which entries were just kept as a fallback, at the price of a few instructions a hit.
//!
//! A hit of a ring shard is to cost what its `GET` costs, so that what is kept for the ring shard's failures must not cost a
//! look-up and a look at the clock each time. Nothing depends on the answer but how soon a copy is kept anew: entries may be
//! taken for one another, and all are forgotten by a task that runs now and then.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ringtide_core::entry::HEADER_LEN;
use ringtide_core::key::CacheKey;

/// How often a part of what is noted is forgotten.
pub(super) const TICK: Duration = Duration::from_millis(50);

/// Words of notes: 32 KB, which stay in a processor's cache; of ten thousand entries one in thirteen is taken for another.
const WORDS: usize = 4096;

/// Bits of a word that are notes; those above count how often the word was forgotten.
const NOTES: u32 = 32;

pub(super) struct Seen {
    words: Box<[AtomicU64]>,
    /// How many words are forgotten with each tick; none where all notes would be older than they may be.
    at_once: usize,
    /// The word that is forgotten next.
    next: AtomicUsize,
}

impl Seen {
    /// Begins to note entries that are kept for `ttl` at least.
    pub(super) fn new(ttl: Duration) -> Self {
        let ticks = (ttl / 4).as_millis() / TICK.as_millis();
        let at_once = usize::try_from(ticks).unwrap_or(usize::MAX);
        let at_once = if at_once == 0 { 0 } else { WORDS.div_ceil(at_once) };
        Self { words: (0..WORDS).map(|_| AtomicU64::new(0)).collect(), at_once, next: AtomicUsize::new(0) }
    }

    /// Forgets a part of what is noted; all of it within a quarter of the time that entries are kept.
    pub(super) fn tick(&self) {
        let first = self.next.fetch_add(self.at_once, Ordering::Relaxed);
        for at in first..first.wrapping_add(self.at_once) {
            if let Some(word) = self.words.get(at % WORDS) {
                let forgotten = (word.load(Ordering::Relaxed) >> NOTES).wrapping_add(1);
                word.store(forgotten << NOTES, Ordering::Relaxed);
            }
        }
    }

    /// Whether the very entry of a mark was noted of late; if not, it is now.
    #[inline]
    pub(super) fn note(&self, Mark(mark): Mark) -> bool {
        let Some(word) = self.words.get(mark as usize % WORDS) else { return false };
        let noted = word.load(Ordering::Relaxed);
        // Entries that share a note share none once it is forgotten.
        let turn = (noted >> NOTES).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let note = 1 << (fold(mark ^ turn, 0xd6e8_feb8_6659_fd93) >> (64 - NOTES.ilog2()));
        if noted & note == 0 && self.at_once > 0 {
            word.fetch_or(note, Ordering::Relaxed);
        }
        noted & note != 0
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

    fn key(n: usize) -> CacheKey {
        CacheKey::new(format!("product:{n}")).unwrap()
    }

    #[test]
    fn the_very_entry_is_noted_once() {
        let seen = Seen::new(Duration::from_secs(1));
        let note = |key: &CacheKey, entry: &Bytes| seen.note(mark(key, entry));
        assert!(!note(&key(1), &entry(5)) && note(&key(1), &entry(5)));
        assert!(!note(&key(1), &entry(6)), "another fill");
        assert!(!note(&key(2), &entry(6)), "another key");
        let fresh: Vec<_> = (0..1000).filter(|n| !note(&key(*n), &entry(7))).collect();
        assert!(fresh.len() > 980, "entries of the same moment are told apart");
        let again: Vec<_> = fresh.iter().filter(|n| !note(&key(**n), &entry(7))).collect();
        assert_eq!(again.len(), 0, "each has its note");
        let short = ["a", "b", "ab", "ba", "item:1", "item:2"].map(|key| CacheKey::new(key).unwrap());
        assert!(short.iter().all(|key| !note(key, &entry(8))), "and so are those of short keys");
    }

    #[test]
    fn what_is_noted_is_forgotten_within_a_quarter_of_its_time_and_little_by_little() {
        let seen = Seen::new(Duration::from_secs(2));
        let mut left: Vec<usize> = (0..1000).filter(|n| !seen.note(mark(&key(*n), &entry(7)))).collect();
        let all = left.len();
        for tick in 1..=10 {
            seen.tick();
            let forgotten: Vec<_> = left.iter().copied().filter(|n| !seen.note(mark(&key(*n), &entry(7)))).collect();
            assert!((50..200).contains(&forgotten.len()), "tick {tick}: {}", forgotten.len());
            left.retain(|n| !forgotten.contains(n));
        }
        // Who shares a note with one that was noted anew is not told apart from it.
        assert!(left.len() < 20 && all > 980, "{} of {all} are left", left.len());
    }

    #[test]
    fn who_shares_a_note_does_so_once_in_many_times() {
        let seen = Seen::new(Duration::from_secs(1));
        let mut missed = vec![0_usize; 20_000];
        for _ in 0..20 {
            // Always in the same order, so that whoever comes later would be the one that is missed each time.
            for (n, missed) in missed.iter_mut().enumerate() {
                *missed += usize::from(seen.note(mark(&key(n), &entry(7))));
            }
            for _ in 0..5 {
                seen.tick();
            }
        }
        let most = missed.iter().max().unwrap();
        assert!(missed.iter().sum::<usize>() > 0 && *most < 20, "one was missed each time");
    }

    #[test]
    fn an_entry_with_too_short_a_time_is_never_noted() {
        let seen = Seen::new(Duration::from_millis(100));
        assert!(!seen.note(mark(&key(1), &entry(5))) && !seen.note(mark(&key(1), &entry(5))));
    }
}
