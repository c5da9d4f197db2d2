//! Slot tables and the hash functions behind them.

use xxhash_rust::xxh64::xxh64;

use super::{Placement, ShardIndex, ShardSpec};

/// Number of slots of the default placement.
pub const SLOTS: u32 = 16_384;

/// Number of slots of [`Placement::Skipper`].
pub const SKIPPER_SLOTS: u32 = 10_000;

/// Fraction bits of a [`cost`].
const FRACTION_BITS: u32 = 40;

/// What a lookup reads.
#[derive(Clone, Debug)]
pub(super) enum Table {
    /// Owner of each of [`SLOTS`] slots.
    Ringtide(Owners),
    /// Owner of each of [`SKIPPER_SLOTS`] slots.
    Skipper(Owners),
    /// Hash of each shard's name, in the order of the shards.
    GoRedis(Box<[u64]>),
}

impl Table {
    /// Makes the table for `shards`, which are valid and ordered by name.
    pub(super) fn new(placement: Placement, shards: &[ShardSpec]) -> Self {
        match placement {
            Placement::Ringtide => Self::Ringtide(Owners::new(rendezvous_slots(shards))),
            Placement::Skipper => Self::Skipper(Owners::new(skipper_slots(shards))),
            Placement::GoRedis => Self::GoRedis(shards.iter().map(|s| xxh64(s.name.as_str().as_bytes(), 0)).collect()),
        }
    }

    #[inline]
    pub(super) fn locate(&self, key: &[u8]) -> ShardIndex {
        match self {
            Self::Ringtide(owners) => owners.of(xxh64(hashed_part(key), 0) % u64::from(SLOTS)),
            Self::Skipper(owners) => owners.of(xxh64(key, 0) % u64::from(SKIPPER_SLOTS)),
            Self::GoRedis(names) => go_redis_owner(names, xxh64(hashed_part(key), 0)),
        }
    }

    pub(super) fn slot(&self, key: &[u8]) -> u32 {
        let slot = match self {
            Self::Ringtide(_) => xxh64(hashed_part(key), 0) % u64::from(SLOTS),
            Self::Skipper(_) => xxh64(key, 0) % u64::from(SKIPPER_SLOTS),
            Self::GoRedis(_) => 0,
        };
        slot as u32
    }

    #[cfg(test)]
    pub(super) fn slots(&self) -> Vec<ShardIndex> {
        match self {
            Self::Ringtide(Owners::Few(owners)) | Self::Skipper(Owners::Few(owners)) => {
                owners.iter().map(|owner| ShardIndex(u16::from(*owner))).collect()
            }
            Self::Ringtide(Owners::Many(owners)) | Self::Skipper(Owners::Many(owners)) => owners.to_vec(),
            Self::GoRedis(_) => Vec::new(),
        }
    }
}

/// The owners of slots, in a byte each where that is enough: half as much for lookups to fetch from memory.
#[derive(Clone, Debug)]
pub(super) enum Owners {
    Few(Box<[u8]>),
    Many(Box<[ShardIndex]>),
}

impl Owners {
    fn new(owners: Box<[ShardIndex]>) -> Self {
        let few: Option<Box<[u8]>> = owners.iter().map(|owner| u8::try_from(owner.0).ok()).collect();
        few.map_or(Self::Many(owners), Self::Few)
    }

    #[inline]
    fn of(&self, slot: u64) -> ShardIndex {
        let owner = match self {
            Self::Few(owners) => owners.get(slot as usize).map(|owner| ShardIndex(u16::from(*owner))),
            Self::Many(owners) => owners.get(slot as usize).copied(),
        };
        owner.unwrap_or(ShardIndex(0))
    }
}

/// Returns the part of a key that places it: the content of its hash tag, or all of it.
///
/// The tag is what stands between the first `{` and the first `}` after it; an empty one does not count.
#[inline]
#[must_use]
pub fn hashed_part(key: &[u8]) -> &[u8] {
    match find(key, b'{') {
        None => key,
        Some(open) => hash_tag(key, open),
    }
}

fn hash_tag(key: &[u8], open: usize) -> &[u8] {
    let inner = key.get(open + 1..).unwrap_or_default();
    match find(inner, b'}') {
        None | Some(0) => key,
        Some(close) => inner.get(..close).unwrap_or(key),
    }
}

/// Finds the first `wanted` in `bytes`, eight bytes at a time.
#[inline]
fn find(bytes: &[u8], wanted: u8) -> Option<usize> {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let pattern = LOW * u64::from(wanted);
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let zero_where_equal = u64::from_le_bytes(*word) ^ pattern;
        let hits = zero_where_equal.wrapping_sub(LOW) & !zero_where_equal & HIGH;
        if hits != 0 {
            // Borrows can only raise false hits above the first true one.
            return Some(at * 8 + hits.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|b| *b == wanted).map(|at| words.len() * 8 + at)
}

/// Gives every slot to the shard with the lowest cost ÷ weight.
///
/// The cost falls as the draw rises, so of the shards of one weight only the one with the greatest draw can win, and
/// a logarithm is due only for each different weight.
fn rendezvous_slots(shards: &[ShardSpec]) -> Box<[ShardIndex]> {
    let mut weights: Vec<u32> = shards.iter().map(|shard| shard.weight).collect();
    weights.sort_unstable();
    weights.dedup();
    let groups: Vec<(u32, Vec<(ShardIndex, u64)>)> = weights
        .into_iter()
        .map(|weight| {
            let group = (0..).map(ShardIndex).zip(shards).filter(|(_, shard)| shard.weight == weight);
            (weight, group.map(|(index, shard)| (index, xxh64(shard.name.as_str().as_bytes(), 0))).collect())
        })
        .collect();
    (0..SLOTS).map(|slot| rendezvous_owner(slot, &groups)).collect()
}

/// Finds the owner of one slot among shards grouped by weight, each given as its index and its name's hash.
fn rendezvous_owner(slot: u32, groups: &[(u32, Vec<(ShardIndex, u64)>)]) -> ShardIndex {
    let slot = slot.to_le_bytes();
    let mut best: Option<Candidate> = None;
    for (weight, group) in groups {
        let draws = group.iter().map(|&(index, seed)| (xxh64(&slot, seed), std::cmp::Reverse(index)));
        let Some((draw, std::cmp::Reverse(index))) = draws.max() else {
            continue;
        };
        let cost = if groups.len() == 1 { 0 } else { cost(draw) };
        let candidate = Candidate { cost, weight: u64::from(*weight), draw, index };
        if best.as_ref().is_none_or(|best| candidate.beats(best)) {
            best = Some(candidate);
        }
    }
    best.map_or(ShardIndex(0), |best| best.index)
}

struct Candidate {
    cost: u64,
    weight: u64,
    draw: u64,
    index: ShardIndex,
}

impl Candidate {
    fn beats(&self, other: &Self) -> bool {
        // At most 2^46 × 1000: no overflow.
        let (mine, theirs) = (self.cost * other.weight, other.cost * self.weight);
        (mine, other.draw, self.index) < (theirs, self.draw, other.index)
    }
}

/// Returns 64 less the binary logarithm of a draw, with [`FRACTION_BITS`] fraction bits, by integer arithmetic alone.
///
/// The mantissa stands in [1, 2) with 63 fraction bits; each squaring brings forth the next bit of the logarithm.
fn cost(draw: u64) -> u64 {
    let draw = draw.max(1);
    let mut mantissa = draw << draw.leading_zeros();
    let mut log = u64::from(63 - draw.leading_zeros());
    for _ in 0..FRACTION_BITS {
        let square = (u128::from(mantissa) * u128::from(mantissa)) >> 63;
        let bit = (square >> 64) as u64;
        mantissa = (square >> bit) as u64;
        log = log << 1 | bit;
    }
    (64 << FRACTION_BITS) - log
}

/// Gives runs of equal length to the shards in the order of their addresses.
fn skipper_slots(shards: &[ShardSpec]) -> Box<[ShardIndex]> {
    let mut by_address: Vec<(&str, ShardIndex)> =
        shards.iter().map(|shard| shard.address.as_str()).zip((0..).map(ShardIndex)).collect();
    by_address.sort_unstable();
    let run = (SKIPPER_SLOTS as usize).div_ceil(shards.len().max(1));
    let slots = by_address.iter().flat_map(|&(_, index)| std::iter::repeat_n(index, run));
    slots.take(SKIPPER_SLOTS as usize).collect()
}

/// Finds the shard with the greatest mix of the key's and the name's hash; the first name wins a tie.
fn go_redis_owner(names: &[u64], key: u64) -> ShardIndex {
    let mut best = (0, 0);
    for (at, name) in names.iter().enumerate() {
        let score = xorshift_multiply(key ^ name);
        if at == 0 || score > best.0 {
            best = (score, at);
        }
    }
    ShardIndex(best.1 as u16)
}

#[inline]
fn xorshift_multiply(mut x: u64) -> u64 {
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    x.wrapping_mul(2_685_821_657_736_338_717)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_tag_is_the_first_nonempty_braced_part() {
        for (key, part) in [
            ("", ""),
            ("plain", "plain"),
            ("{a}", "a"),
            ("x{y}z", "y"),
            ("{}", "{}"),
            ("a{}{b}", "a{}{b}"),
            ("{a}{b}", "a"),
            ("{{a}}", "{a"),
            ("a}b{c}", "c"),
            ("a{b", "a{b"),
            ("0123456{tag}", "tag"),
            ("01234567{tag}", "tag"),
            ("{0123456789abcdef}x", "0123456789abcdef"),
        ] {
            assert_eq!(hashed_part(key.as_bytes()), part.as_bytes(), "{key}");
        }
    }

    #[test]
    fn every_slot_has_its_owner_however_many_shards_there_are() {
        for shards in [1_u16, 3, 256, 257, 1000] {
            let owners: Box<[ShardIndex]> = (0..SLOTS as u16).map(|slot| ShardIndex(slot % shards)).collect();
            let made = Owners::new(owners.clone());
            assert_eq!(matches!(made, Owners::Few(_)), shards <= 256);
            assert!(owners.iter().enumerate().all(|(slot, owner)| made.of(slot as u64) == *owner), "{shards}");
        }
    }

    #[test]
    fn find_agrees_with_a_plain_search() {
        // Bytes next to the wanted one provoke borrows between lanes.
        let alphabet = [b'{', b'{' ^ 1, b'{' ^ 0x80, 0, 0xff];
        let mut state = 7_u64;
        for len in 0..40 {
            for _ in 0..200 {
                let draw = |_| {
                    state = xorshift_multiply(state);
                    alphabet[(state >> 40) as usize % alphabet.len()]
                };
                let bytes: Vec<u8> = (0..len).map(draw).collect();
                assert_eq!(find(&bytes, b'{'), bytes.iter().position(|b| *b == b'{'), "{bytes:?}");
            }
        }
    }

    #[test]
    fn cost_is_exact_at_powers_of_two_and_close_elsewhere() {
        assert_eq!(cost(0), 64 << 40);
        assert_eq!(cost(1), 64 << 40);
        assert_eq!(cost(1 << 63), 1 << 40);
        assert_eq!(cost(u64::MAX), 1);
        for draw in [3_u64, 1_000_003, 0x9e37_79b9_7f4a_7c15, u64::MAX / 3] {
            let expected = 64.0 - (draw as f64).log2();
            let got = cost(draw) as f64 / (1_u64 << 40) as f64;
            assert!((got - expected).abs() < 1e-9, "{draw}: {got} {expected}");
        }
    }

    #[test]
    fn cost_never_rises_with_the_draw() {
        let mut draws: Vec<u64> = (0..20_000_u64).map(|i| xorshift_multiply(i + 1)).collect();
        draws.extend((0..1000).map(|i| u64::MAX - i));
        draws.extend(0..1000);
        draws.sort_unstable();
        assert!(draws.windows(2).all(|pair| cost(pair[0]) >= cost(pair[1])));
    }
}
