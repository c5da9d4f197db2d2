//! Loading many items with `BatchGetItem`.

mod page;

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemError;
use aws_sdk_dynamodb::types::KeysAndAttributes;
use futures_util::StreamExt;
use futures_util::stream;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{ItemError, ItemLoader, PrimaryKey};
use crate::batch::BatchLoader;
use crate::loader::Loaded;
use page::{Item, Page, Retry, Wanted};

/// Pages of one load that are under way at once.
const PAGES_AT_ONCE: usize = 4;

/// How keys that a call left unprocessed are asked for again.
const RETRY: Retry = Retry { first: Duration::from_millis(25), most: Duration::from_secs(2), in_vain: 8 };

/// What one call answered.
#[derive(Debug, Default)]
struct Answer {
    items: Vec<Item>,
    unprocessed: Vec<Item>,
}

impl ItemLoader {
    /// Loads items with strongly consistent `BatchGetItem` calls of at most 100 keys each; keys of items that do not
    /// exist are missing in the map. Fit for [`crate::Space::get_many`].
    ///
    /// Keys that DynamoDB leaves unprocessed, for lack of capacity or because an answer has at most 16 MB, are asked
    /// for again after growing pauses. Keys that are equal are asked for once.
    ///
    /// # Errors
    /// None for the whole; [`ItemError`] for each key whose item could not be loaded.
    pub async fn load_many<K, T>(
        self,
        keys: impl IntoIterator<Item = K>,
    ) -> Result<HashMap<K, Result<Loaded<T>, ItemError>>, Infallible>
    where
        K: Clone + Eq + Hash + Into<PrimaryKey>,
        T: DeserializeOwned,
    {
        let fetch = |page| {
            let this = self.clone();
            async move { this.fetch(page).await }
        };
        Ok(self.load_pages(keys.into_iter().collect(), RETRY, fetch).await)
    }

    /// Makes a batch loader of it, for [`crate::Space::with_loader`].
    ///
    /// ```no_run
    /// # use ringtide::dynamodb::ItemLoader;
    /// # #[derive(serde::Serialize, serde::Deserialize)]
    /// # struct Product;
    /// # async fn example(cache: ringtide::Cache, client: aws_sdk_dynamodb::Client) -> Result<(), ringtide::Error> {
    /// let items = ItemLoader::new(client, "products").partition_key("pk");
    /// let products = cache.space::<Product>("product")?.with_loader(items.batched());
    /// let tea = products.get("42".to_owned()).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn batched<K, T>(self) -> BatchLoader<K, T>
    where
        K: Clone + Eq + Hash + Into<PrimaryKey> + Send + Sync + 'static,
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        BatchLoader::new(move |keys: Vec<K>| self.clone().load_many::<K, T>(keys))
    }

    /// Asks for some items once.
    async fn fetch(&self, keys: Vec<Item>) -> Result<Answer, Arc<SdkError<BatchGetItemError>>> {
        let request = KeysAndAttributes::builder().set_keys(Some(keys)).consistent_read(true);
        let request = request.build().map_err(|error| Arc::new(SdkError::construction_failure(error)))?;
        let answer = self.client.batch_get_item().request_items(&self.table, request).send().await.map_err(Arc::new)?;
        let items = answer.responses.and_then(|mut tables| tables.remove(&self.table)).unwrap_or_default();
        let left = answer.unprocessed_keys.and_then(|mut tables| tables.remove(&self.table));
        Ok(Answer { items, unprocessed: left.map(|left| left.keys).unwrap_or_default() })
    }

    async fn load_pages<K, T, Fut>(
        &self,
        keys: Vec<K>,
        retry: Retry,
        fetch: impl Fn(Vec<Item>) -> Fut,
    ) -> HashMap<K, Result<Loaded<T>, ItemError>>
    where
        Fut: Future<Output = Result<Answer, Arc<SdkError<BatchGetItemError>>>>,
        K: Clone + Eq + Hash + Into<PrimaryKey>,
        T: DeserializeOwned,
    {
        let mut loaded = HashMap::with_capacity(keys.len());
        let mut wanted = Wanted::new(&self.partition_key, self.sort_key.as_deref());
        for key in keys {
            let refused = match self.key(key.clone().into()) {
                Ok(item) => {
                    wanted.add(key, item).err().map(|key| (key, ItemError::KeyType { table: self.table.clone() }))
                }
                Err(error) => Some((key, error)),
            };
            loaded.extend(refused.map(|(key, error)| (key, Err(error))));
        }
        let pages = wanted.into_pages().into_iter().map(|page| self.load_page(page, retry, &fetch));
        let mut done = stream::iter(pages.collect::<Vec<_>>()).buffer_unordered(PAGES_AT_ONCE);
        while let Some(page) = done.next().await {
            loaded.extend(page);
        }
        loaded
    }

    async fn load_page<K, T, Fut>(
        &self,
        mut page: Page<K>,
        retry: Retry,
        fetch: &impl Fn(Vec<Item>) -> Fut,
    ) -> Vec<(K, Result<Loaded<T>, ItemError>)>
    where
        Fut: Future<Output = Result<Answer, Arc<SdkError<BatchGetItemError>>>>,
        K: Clone,
        T: DeserializeOwned,
    {
        let (mut loaded, mut in_vain) = (Vec::new(), 0);
        let table = || self.table.clone();
        loop {
            let Answer { items, unprocessed } = match fetch(page.keys()).await {
                Ok(answer) => answer,
                Err(source) => {
                    let error = || ItemError::BatchGetItem { table: table(), source: source.clone() };
                    loaded.extend(page.into_keys().map(|key| (key, Err(error()))));
                    return loaded;
                }
            };
            let (mut processed, mut unknown) = (!items.is_empty(), false);
            for item in items {
                // Read once for each of the keys that stand for it.
                let keys = page.take(&item);
                unknown |= keys.is_empty();
                for key in keys {
                    loaded.push((key, self.read(Some(item.clone()))));
                }
            }
            let absent = page.keep(&unprocessed);
            processed |= !absent.is_empty();
            if unknown {
                // One of the absent keys may be that item's, and must not be cached as an absence.
                loaded.extend(absent.into_iter().map(|key| (key, Err(ItemError::Unmatched { table: table() }))));
            }
            if page.is_empty() {
                return loaded;
            }
            in_vain = if processed { 0 } else { in_vain + 1 };
            match retry.pause(in_vain, fastrand::f64()) {
                Some(pause) => {
                    tracing::debug!(table = %self.table, keys = page.len(), ?pause, "unprocessed keys, asking again");
                    tokio::time::sleep(pause).await;
                }
                None => {
                    let error = || ItemError::Unprocessed { table: table(), calls: in_vain };
                    loaded.extend(page.into_keys().map(|key| (key, Err(error()))));
                    return loaded;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use aws_sdk_dynamodb::config::BehaviorVersion;
    use aws_sdk_dynamodb::types::AttributeValue;
    use aws_sdk_dynamodb::{Client, Config};
    use serde::Deserialize;

    use super::*;

    const EAGER: Retry = Retry { first: Duration::from_millis(1), most: Duration::from_millis(1), in_vain: 3 };

    #[derive(Debug, PartialEq, Deserialize)]
    struct Product {
        pk: u64,
    }

    fn loader() -> ItemLoader {
        let config = Config::builder().behavior_version(BehaviorVersion::latest()).build();
        ItemLoader::new(Client::from_conf(config), "products")
    }

    fn value(item: &Item) -> u64 {
        item["pk"].as_n().unwrap().parse().unwrap()
    }

    /// Loads from a table of even numbers that answers as `process` says: how many of a call's keys, or an error.
    async fn load(
        keys: Vec<u64>,
        process: impl Fn(usize) -> Option<usize>,
    ) -> (HashMap<u64, Result<Loaded<Product>, ItemError>>, Vec<usize>) {
        let calls = Mutex::new(Vec::new());
        let fetch = |mut page: Vec<Item>| {
            calls.lock().unwrap().push(page.len());
            let processed = process(calls.lock().unwrap().len());
            async move {
                let Some(processed) = processed else { return Err(Arc::new(SdkError::construction_failure("down"))) };
                page.sort_by_key(value);
                let unprocessed = page.split_off(processed.min(page.len()));
                Ok(Answer {
                    items: page.into_iter().filter(|item| value(item).is_multiple_of(2)).collect(),
                    unprocessed,
                })
            }
        };
        let loaded = loader().load_pages(keys, EAGER, fetch).await;
        let calls = calls.lock().unwrap().clone();
        (loaded, calls)
    }

    #[tokio::test]
    async fn pages_have_100_keys_and_absent_items_are_left_out() {
        let (loaded, mut calls) = load((0..250).chain(0..250).collect(), |_| Some(100)).await;
        calls.sort_unstable();
        assert_eq!(calls, [50, 100, 100]);
        assert_eq!(loaded.len(), 125);
        for (pk, item) in loaded {
            assert_eq!(item.unwrap().value, Some(Product { pk }));
        }
    }

    #[tokio::test]
    async fn what_was_left_unprocessed_is_asked_for_again_and_nothing_else_is() {
        // As where an answer is full at 16 MB: ten keys fit.
        let (loaded, calls) = load((0..60).collect(), |_| Some(10)).await;
        assert_eq!(calls, [60, 50, 40, 30, 20, 10]);
        assert_eq!(loaded.len(), 30);
        assert!(loaded.values().all(Result::is_ok));
    }

    #[tokio::test]
    async fn keys_that_turn_out_not_to_exist_are_progress_too() {
        let (loaded, calls) = load((0..20).filter(|pk| pk % 2 == 1).collect(), |_| Some(1)).await;
        assert_eq!(calls, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
        assert!(loaded.is_empty(), "{loaded:?}");
    }

    #[tokio::test]
    async fn a_page_without_progress_is_given_up_and_what_came_before_is_kept() {
        let (loaded, calls) = load((0..20).collect(), |call| Some(if call == 1 { 10 } else { 0 })).await;
        assert_eq!(calls, [20, 10, 10, 10]);
        for (pk, item) in loaded {
            match item {
                Ok(item) => assert!(pk < 10 && item.value == Some(Product { pk })),
                Err(error) => assert!(pk >= 10 && matches!(error, ItemError::Unprocessed { calls: 3, .. }), "{error}"),
            }
        }
    }

    #[tokio::test]
    async fn a_call_that_fails_fails_the_keys_of_its_page_alone() {
        let (loaded, _) = load((0..200).collect(), |call| (call != 2).then_some(100)).await;
        let failed = loaded.values().filter(|item| matches!(item, Err(ItemError::BatchGetItem { .. }))).count();
        assert_eq!((failed, loaded.values().filter(|item| item.is_ok()).count()), (100, 50));
    }

    #[tokio::test]
    async fn an_item_that_nobody_asked_for_makes_no_absence_of_another() {
        let strange = Item::from([("pk".to_owned(), AttributeValue::S("2".to_owned()))]);
        let fetch = async |_| Ok(Answer { items: vec![strange.clone()], unprocessed: Vec::new() });
        let loaded: HashMap<u64, Result<Loaded<Product>, ItemError>> = loader().load_pages(vec![2], EAGER, fetch).await;
        assert!(matches!(loaded[&2], Err(ItemError::Unmatched { .. })));
        let fetch = async |_| Ok(Answer::default());
        let loaded: HashMap<Vec<u8>, Result<Loaded<Product>, ItemError>> =
            loader().sort_key("sk").load_pages(vec![vec![1]], EAGER, fetch).await;
        assert!(matches!(loaded[&vec![1]], Err(ItemError::KeyShape { .. })));
    }
}
