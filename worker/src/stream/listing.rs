//! The stream shards of a stream, put together from pages. Pure.

use std::collections::{BTreeMap, HashSet};

use ringtide_core::record::SequenceNumber;

use super::{ShardId, StreamError};

/// A listing that does not end after so many pages is given up; at 100 stream shards a page it is beyond any table.
const MAX_PAGES: usize = 10_000;

/// All stream shards of one stream, as far as DynamoDB shows them: a listing is eventually consistent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Stream shards in no particular order, each once.
    pub shards: Vec<StreamShard>,
    /// Whether the stream is on.
    pub status: StreamStatus,
}

/// Whether a stream takes in records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StreamStatus {
    /// Not yet; it may list no stream shards.
    Enabling,
    /// It does.
    #[default]
    Enabled,
    /// Not any more, its leaves are being closed.
    Disabling,
    /// Not any more, and all of its stream shards are closed.
    Disabled,
}

/// One stream shard of a listing.
///
/// Whether it is closed is not part of it: emulators set an ending sequence number on open ones, so that only a
/// missing next iterator tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamShard {
    /// Its id.
    pub id: ShardId,
    /// The stream shard that it continues; `None` for a root.
    pub parent: Option<ShardId>,
    /// Where its records begin, whether they are still kept or not; `None` where that is not told.
    pub starting: Option<SequenceNumber>,
}

/// Which page of which listing is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardQuery {
    /// Only the children of this stream shard; services that do not know the filter may ignore or refuse it.
    pub children_of: Option<ShardId>,
    /// The last stream shard of the page before.
    pub after: Option<ShardId>,
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardsPage {
    /// Its stream shards.
    pub shards: Vec<StreamShard>,
    /// Whether the stream is on.
    pub status: StreamStatus,
    /// Where the next page begins; `None` on the last one.
    pub last: Option<ShardId>,
}

/// A listing of which some pages are there. A page that failed may be asked for again: what was gathered stays.
#[derive(Debug, Default)]
pub struct Gathering {
    query: ShardQuery,
    shards: BTreeMap<ShardId, StreamShard>,
    pages: usize,
}

impl StreamStatus {
    /// Whether stream shards may still get children.
    #[must_use]
    pub const fn is_on(self) -> bool {
        match self {
            Self::Enabling | Self::Enabled => true,
            Self::Disabling | Self::Disabled => false,
        }
    }
}

impl Listing {
    /// Takes in what a narrower listing has shown; tells whether there was anything new.
    pub fn merge(&mut self, narrower: Self) -> bool {
        let mut listed: HashSet<ShardId> = self.shards.iter().map(|shard| shard.id.clone()).collect();
        let before = self.shards.len();
        self.shards.extend(narrower.shards.into_iter().filter(|shard| listed.insert(shard.id.clone())));
        self.shards.len() > before
    }
}

impl Gathering {
    /// Begins a listing of all stream shards.
    #[must_use]
    pub fn of_all() -> Self {
        Self::default()
    }

    /// Begins a listing of one stream shard's children.
    #[must_use]
    pub fn of_children(parent: &ShardId) -> Self {
        let query = ShardQuery { children_of: Some(parent.clone()), after: None };
        Self { query, ..Self::default() }
    }

    /// The page that is missing next.
    #[must_use]
    pub const fn query(&self) -> &ShardQuery {
        &self.query
    }

    /// How many pages are there.
    #[must_use]
    pub const fn pages(&self) -> usize {
        self.pages
    }

    /// Takes in a page; returns the listing with its last one.
    ///
    /// # Errors
    /// A listing that does not end.
    pub fn take(&mut self, page: ShardsPage) -> Result<Option<Listing>, StreamError> {
        self.pages += 1;
        // Emulators list the last shard of a page again on the next one: the map keeps it once.
        self.shards.extend(page.shards.into_iter().map(|shard| (shard.id.clone(), shard)));
        match page.last {
            // The same place again would never end.
            Some(last) if self.query.after.as_ref() != Some(&last) => {
                if self.pages >= MAX_PAGES {
                    return Err(StreamError::Other("the listing of the stream does not end".to_owned()));
                }
                self.query.after = Some(last);
                Ok(None)
            }
            Some(_) | None => {
                let shards = std::mem::take(&mut self.shards).into_values().collect();
                Ok(Some(Listing { shards, status: page.status }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(ids: &[&str], last: Option<&str>) -> ShardsPage {
        let shards = ids.iter().map(|id| StreamShard { id: (*id).into(), parent: None, starting: None });
        ShardsPage { shards: shards.collect(), status: StreamStatus::Enabled, last: last.map(ShardId::from) }
    }

    fn ids(listing: &Listing) -> Vec<&str> {
        listing.shards.iter().map(|shard| shard.id.as_str()).collect()
    }

    #[test]
    fn pages_are_put_together_and_a_repeated_shard_is_listed_once() {
        let mut gathering = Gathering::of_all();
        assert_eq!(gathering.take(page(&["a", "b"], Some("b"))), Ok(None));
        assert_eq!(gathering.query().after, Some("b".into()));
        assert_eq!(gathering.take(page(&[], Some("c"))), Ok(None), "an empty page in the middle");
        let listing = gathering.take(page(&["b", "d"], None)).unwrap().unwrap();
        assert_eq!(ids(&listing), ["a", "b", "d"]);
    }

    #[test]
    fn the_same_place_again_ends_a_listing() {
        let mut gathering = Gathering::of_all();
        assert_eq!(gathering.take(page(&["a"], Some("a"))), Ok(None));
        assert_eq!(ids(&gathering.take(page(&["a"], Some("a"))).unwrap().unwrap()), ["a"]);
    }

    #[test]
    fn a_narrower_listing_adds_what_is_new() {
        let mut gathering = Gathering::of_all();
        let mut listing = gathering.take(page(&["a"], None)).unwrap().unwrap();
        let narrower = Gathering::of_children(&"a".into()).take(page(&["a", "b"], None)).unwrap().unwrap();
        assert!(listing.merge(narrower.clone()) && !listing.merge(narrower));
        assert_eq!(ids(&listing), ["a", "b"]);
    }
}
