//! Pages of keys: which are asked for together, which item is whose, and when to ask again. Pure.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::AttributeValue;
use ringtide_core::record::canonical_number;

/// Most keys of one `BatchGetItem` call, by DynamoDB's own limit.
pub(super) const MOST_KEYS: usize = 100;

/// An item, or a primary key.
pub(super) type Item = HashMap<String, AttributeValue>;

/// A primary key as it is compared: numbers by their values, however they are written.
type Identity = (Part, Option<Part>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Part {
    Text(String),
    Number(String),
    Bytes(Vec<u8>),
}

/// The key attributes' names.
#[derive(Clone, Debug)]
struct Schema {
    partition: String,
    sort: Option<String>,
}

/// Primary keys that are to be loaded, each with all the keys that stand for it.
pub(super) struct Wanted<K> {
    schema: Schema,
    places: HashMap<Identity, usize>,
    entries: Vec<Entry<K>>,
}

struct Entry<K> {
    identity: Identity,
    key: Item,
    stands_for: Vec<K>,
}

/// What one call asks for.
pub(super) struct Page<K> {
    schema: Schema,
    left: HashMap<Identity, (Item, Vec<K>)>,
}

impl Schema {
    fn identity(&self, item: &Item) -> Option<Identity> {
        let part = |attribute: &String| Part::of(item.get(attribute)?);
        let sort = match &self.sort {
            Some(attribute) => Some(part(attribute)?),
            None => None,
        };
        Some((part(&self.partition)?, sort))
    }
}

impl Part {
    /// Reads a key attribute; nothing for what DynamoDB takes for no key.
    fn of(value: &AttributeValue) -> Option<Self> {
        match value {
            AttributeValue::S(text) => Some(Self::Text(text.clone())),
            AttributeValue::N(digits) => Some(Self::Number(canonical_number(digits)?.into_owned())),
            AttributeValue::B(bytes) => Some(Self::Bytes(bytes.as_ref().to_vec())),
            _ => None,
        }
    }
}

impl<K> Wanted<K> {
    pub(super) fn new(partition: &str, sort: Option<&str>) -> Self {
        let schema = Schema { partition: partition.to_owned(), sort: sort.map(str::to_owned) };
        Self { schema, places: HashMap::new(), entries: Vec::new() }
    }

    /// Adds a key; gives it back where no key attribute can have its value.
    pub(super) fn add(&mut self, key: K, item: Item) -> Result<(), K> {
        let Some(identity) = self.schema.identity(&item) else { return Err(key) };
        match self.places.get(&identity) {
            Some(at) => self.entries[*at].stands_for.push(key),
            None => {
                self.places.insert(identity.clone(), self.entries.len());
                self.entries.push(Entry { identity, key: item, stands_for: vec![key] });
            }
        }
        Ok(())
    }

    /// Divides them into pages of [`MOST_KEYS`] at most, each primary key on one of them.
    pub(super) fn into_pages(self) -> Vec<Page<K>> {
        let mut pages = Vec::with_capacity(self.entries.len().div_ceil(MOST_KEYS));
        let mut entries = self.entries.into_iter().peekable();
        while entries.peek().is_some() {
            let of_page = entries.by_ref().take(MOST_KEYS);
            let left = of_page.map(|entry| (entry.identity, (entry.key, entry.stands_for))).collect();
            pages.push(Page { schema: self.schema.clone(), left });
        }
        pages
    }
}

impl<K> Page<K> {
    /// What to ask for.
    pub(super) fn keys(&self) -> Vec<Item> {
        self.left.values().map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.left.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// Takes the keys that an item is for; none where it was not asked for.
    pub(super) fn take(&mut self, item: &Item) -> Vec<K> {
        let entry = self.schema.identity(item).and_then(|identity| self.left.remove(&identity));
        entry.map(|(_, keys)| keys).unwrap_or_default()
    }

    /// Keeps what was left unprocessed, and gives up the rest: what was processed and had no item.
    pub(super) fn keep(&mut self, unprocessed: &[Item]) -> Vec<K> {
        let mut kept = HashMap::with_capacity(unprocessed.len());
        for key in unprocessed {
            if let Some(identity) = self.schema.identity(key)
                && let Some(entry) = self.left.remove(&identity)
            {
                kept.insert(identity, entry);
            }
        }
        std::mem::replace(&mut self.left, kept).into_values().flat_map(|(_, keys)| keys).collect()
    }

    pub(super) fn into_keys(self) -> impl Iterator<Item = K> {
        self.left.into_values().flat_map(|(_, keys)| keys)
    }
}

/// How often, and after which pauses, keys are asked for again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retry {
    /// The longest first pause.
    pub(super) first: Duration,
    /// The longest pause.
    pub(super) most: Duration,
    /// Calls in a row without any item after which a page is given up.
    pub(super) in_vain: u32,
}

impl Retry {
    /// Decides about the next call after so many in a row that processed nothing; nothing to give up. `random` is
    /// uniform in 0 to 1.
    ///
    /// Pauses are drawn from zero to a bound that doubles with every call in vain ("full jitter"), so that readers that
    /// were throttled together do not come back together. After a call that made progress the bound is the first.
    pub(super) fn pause(&self, in_vain: u32, random: f64) -> Option<Duration> {
        if in_vain >= self.in_vain {
            return None;
        }
        let doublings = in_vain.saturating_sub(1).min(30);
        Some(self.first.saturating_mul(1 << doublings).min(self.most).mul_f64(random.clamp(0.0, 1.0)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(pk: &str) -> Item {
        Item::from([("pk".to_owned(), AttributeValue::S(pk.to_owned()))])
    }

    fn number(digits: &str) -> Item {
        Item::from([("pk".to_owned(), AttributeValue::N(digits.to_owned()))])
    }

    #[test]
    fn keys_that_are_equal_are_asked_for_once_and_an_item_is_everybodys_who_asked() {
        let mut wanted = Wanted::new("pk", None);
        for (at, digits) in ["1", "1.0", "10e-1", "2"].into_iter().enumerate() {
            wanted.add(at, number(digits)).unwrap();
        }
        let mut pages = wanted.into_pages();
        assert_eq!((pages.len(), pages[0].len()), (1, 2));
        assert_eq!(pages[0].take(&number("1")), [0, 1, 2]);
        assert_eq!(pages[0].take(&key("1")), [0; 0], "a text is no number");
        assert_eq!(pages[0].keep(&[]), [3], "no item, and not unprocessed");
    }

    #[test]
    fn both_key_attributes_count() {
        let line = |order: &str, number: &str| {
            Item::from([
                ("order".to_owned(), AttributeValue::S(order.to_owned())),
                ("line".to_owned(), AttributeValue::N(number.to_owned())),
                ("note".to_owned(), AttributeValue::Null(true)),
            ])
        };
        let mut wanted = Wanted::new("order", Some("line"));
        wanted.add('a', line("o", "1")).unwrap();
        wanted.add('b', line("o", "2")).unwrap();
        assert_eq!(wanted.add('c', key("o")), Err('c'), "it has no such attributes");
        let mut page = wanted.into_pages().remove(0);
        assert_eq!(page.take(&line("o", "2.00")), ['b']);
        assert_eq!(page.take(&line("o", "3")), [] as [char; 0]);
        assert_eq!(page.keep(&[line("o", "1")]), [] as [char; 0]);
        assert_eq!(page.into_keys().collect::<Vec<_>>(), ['a']);
    }

    proptest! {
        #[test]
        fn every_key_is_on_one_page_and_ends_as_found_absent_or_left(
            pks in proptest::collection::vec(0_u16..600, 0..900), found in 0_u16..600, left in 0_u16..600
        ) {
            let mut wanted = Wanted::new("pk", None);
            for (at, pk) in pks.iter().enumerate() {
                wanted.add((at, *pk), number(&pk.to_string())).unwrap();
            }
            let mut ended = Vec::new();
            for mut page in wanted.into_pages() {
                let asked = page.keys();
                prop_assert!((1..=MOST_KEYS).contains(&asked.len()));
                let value = |item: &Item| item["pk"].as_n().unwrap().parse::<u16>().unwrap();
                for item in asked.iter().filter(|item| value(item) < found) {
                    let keys = page.take(item);
                    prop_assert!(!keys.is_empty() && keys.iter().all(|(_, pk)| *pk == value(item)));
                    ended.extend(keys);
                }
                let unprocessed: Vec<_> = asked.into_iter().filter(|item| value(item) >= found.max(left)).collect();
                let absent = page.keep(&unprocessed);
                prop_assert!(absent.iter().all(|(_, pk)| (found..found.max(left)).contains(pk)));
                prop_assert_eq!(page.len(), unprocessed.len());
                ended.extend(absent);
                ended.extend(page.into_keys());
            }
            ended.sort_unstable();
            prop_assert_eq!(ended, pks.into_iter().enumerate().collect::<Vec<_>>());
        }
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_end() {
        let retry = Retry { first: Duration::from_millis(25), most: Duration::from_millis(300), in_vain: 6 };
        let longest: Vec<_> = (0..=6).map(|in_vain| retry.pause(in_vain, 1.0).map(|pause| pause.as_millis())).collect();
        assert_eq!(longest, [Some(25), Some(25), Some(50), Some(100), Some(200), Some(300), None]);
        assert_eq!(retry.pause(3, 0.5), Some(Duration::from_millis(50)));
        assert_eq!(retry.pause(0, 0.0), Some(Duration::ZERO));
    }
}
