//! Loads items of a DynamoDB table with strongly consistent reads, one by one or many at once.

mod batch;

use std::collections::HashMap;
use std::error::Error;
use std::fmt;
use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::batch_get_item::BatchGetItemError;
use aws_sdk_dynamodb::operation::get_item::GetItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::de::DeserializeOwned;

use crate::loader::Loaded;

/// Loads items of one table by their primary keys; cheap to clone.
///
/// ```no_run
/// use ringtide::dynamodb::ItemLoader;
/// # #[derive(serde::Serialize, serde::Deserialize)]
/// # struct Product;
/// # async fn example(cache: ringtide::Cache, client: aws_sdk_dynamodb::Client) -> Result<(), ringtide::Error> {
/// let products = cache.space::<Product>("product")?;
/// let items = ItemLoader::new(client, "products").partition_key("pk");
/// let tea = products.get_or_load("42", move || items.clone().load::<Product>("42")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ItemLoader {
    client: Client,
    table: String,
    partition_key: String,
    sort_key: Option<String>,
    version_attribute: Option<String>,
}

/// Why an item could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ItemError {
    /// DynamoDB did not answer with an item.
    #[error("GetItem on table {table} failed: {source}", source = InWords(source.as_ref()))]
    GetItem {
        /// The table.
        table: String,
        /// Why.
        source: Box<SdkError<GetItemError>>,
    },
    /// DynamoDB did not answer a call for several items.
    #[error("BatchGetItem on table {table} failed: {source}", source = InWords(source.as_ref()))]
    BatchGetItem {
        /// The table.
        table: String,
        /// Why; the same for all keys of the call.
        source: Arc<SdkError<BatchGetItemError>>,
    },
    /// DynamoDB left the key unprocessed call after call.
    #[error("table {table} processed nothing in {calls} calls in a row; it lacks read capacity")]
    Unprocessed {
        /// The table.
        table: String,
        /// Calls in a row.
        calls: u32,
    },
    /// DynamoDB answered with items that were not asked for, so that it is not known which do not exist.
    #[error("the answer of table {table} holds items that were not asked for; check the loader's key attributes")]
    Unmatched {
        /// The table.
        table: String,
    },
    /// A key's value is neither text nor number nor bytes.
    #[error("table {table}: the value of a key attribute has to be a text, a number or bytes")]
    KeyType {
        /// The table.
        table: String,
    },
    /// The item is not read as the type asked for.
    #[error("an item of table {table} is not read: {source}")]
    Decode {
        /// The table.
        table: String,
        /// Why.
        source: serde_dynamo::Error,
    },
    /// The version attribute holds no whole number of at most 38 digits.
    #[error(
        "an item of table {table} has no usable version in {attribute:?}; it has to be a whole number, not negative"
    )]
    Version {
        /// The table.
        table: String,
        /// The version attribute.
        attribute: String,
    },
    /// A sort key was given and none is named, or the other way round.
    #[error(
        "table {table}: the loader's key attributes and the values given differ in number; see `ItemLoader::sort_key`"
    )]
    KeyShape {
        /// The table.
        table: String,
    },
}

/// An error and its sources, each in its own words: what the SDK shows of its errors besides are whole answers.
struct InWords<'a>(&'a (dyn Error + 'static));

impl fmt::Display for InWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut words: Vec<String> =
            std::iter::successors(Some(self.0), |&error| error.source()).map(ToString::to_string).collect();
        // An error of one kind of many says what the kind says.
        words.dedup();
        f.write_str(&words.join(": "))
    }
}

/// The value of a key attribute.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyValue(AttributeValue);

/// An item's primary key: the partition key, or it and the sort key.
#[derive(Clone, Debug, PartialEq)]
pub struct PrimaryKey {
    partition: KeyValue,
    sort: Option<KeyValue>,
}

impl ItemLoader {
    /// Begins with a client and a table whose partition key is `pk`, and which has no sort key.
    pub fn new(client: Client, table: impl Into<String>) -> Self {
        Self { client, table: table.into(), partition_key: "pk".to_owned(), sort_key: None, version_attribute: None }
    }

    /// Names the partition key's attribute.
    pub fn partition_key(mut self, attribute: impl Into<String>) -> Self {
        self.partition_key = attribute.into();
        self
    }

    /// Names the sort key's attribute.
    pub fn sort_key(mut self, attribute: impl Into<String>) -> Self {
        self.sort_key = Some(attribute.into());
        self
    }

    /// Names the attribute that holds the item's version, for key spaces in versioned mode. A field for it is of the type
    /// [`Stamp`](crate::Stamp): what does not fit a `u64` comes as a text of its digits, to any type.
    pub fn version_attribute(mut self, attribute: impl Into<String>) -> Self {
        self.version_attribute = Some(attribute.into());
        self
    }

    /// Loads an item with a strongly consistent `GetItem`; no value where it does not exist.
    ///
    /// # Errors
    /// [`ItemError`].
    pub async fn load<T: DeserializeOwned>(self, key: impl Into<PrimaryKey>) -> Result<Loaded<T>, ItemError> {
        let key = self.key(key.into())?;
        let answer = self.client.get_item().table_name(&self.table).set_key(Some(key)).consistent_read(true).send();
        let answer = answer
            .await
            .map_err(|source| ItemError::GetItem { table: self.table.clone(), source: Box::new(source) })?;
        self.read(answer.item)
    }

    fn key(&self, key: PrimaryKey) -> Result<HashMap<String, AttributeValue>, ItemError> {
        let partition = (self.partition_key.clone(), key.partition.0);
        match (&self.sort_key, key.sort) {
            (Some(attribute), Some(value)) => Ok(HashMap::from([partition, (attribute.clone(), value.0)])),
            (None, None) => Ok(HashMap::from([partition])),
            (Some(_), None) | (None, Some(_)) => Err(ItemError::KeyShape { table: self.table.clone() }),
        }
    }

    fn read<T: DeserializeOwned>(&self, item: Option<HashMap<String, AttributeValue>>) -> Result<Loaded<T>, ItemError> {
        let Some(mut item) = item else { return Ok(Loaded::new(None)) };
        let version = self.version_attribute.as_ref().map(|attribute| {
            let number = item.get(attribute).and_then(|value| value.as_n().ok()).and_then(|digits| digits.parse().ok());
            let number: u128 =
                number.ok_or_else(|| ItemError::Version { table: self.table.clone(), attribute: attribute.clone() })?;
            // Numbers with so many digits are not read whole from an item, into whichever type.
            if u64::try_from(number).is_err() {
                item.insert(attribute.clone(), AttributeValue::S(number.to_string()));
            }
            Ok(number)
        });
        let version: Option<u128> = version.transpose()?;
        let value =
            serde_dynamo::from_item(item).map_err(|source| ItemError::Decode { table: self.table.clone(), source })?;
        let loaded = Loaded::new(Some(value));
        Ok(match version {
            Some(number) => loaded.version_number(number),
            None => loaded,
        })
    }
}

impl From<&str> for KeyValue {
    fn from(text: &str) -> Self {
        Self(AttributeValue::S(text.to_owned()))
    }
}

impl From<String> for KeyValue {
    fn from(text: String) -> Self {
        Self(AttributeValue::S(text))
    }
}

impl From<&[u8]> for KeyValue {
    fn from(bytes: &[u8]) -> Self {
        Self(AttributeValue::B(bytes.to_vec().into()))
    }
}

impl From<Vec<u8>> for KeyValue {
    fn from(bytes: Vec<u8>) -> Self {
        Self(AttributeValue::B(bytes.into()))
    }
}

impl From<AttributeValue> for KeyValue {
    fn from(value: AttributeValue) -> Self {
        Self(value)
    }
}

macro_rules! from_integers {
    ($($integer:ty),*) => {$(
        impl From<$integer> for KeyValue {
            fn from(number: $integer) -> Self {
                Self(AttributeValue::N(number.to_string()))
            }
        }

        impl From<$integer> for PrimaryKey {
            fn from(number: $integer) -> Self {
                Self { partition: number.into(), sort: None }
            }
        }
    )*};
}

from_integers!(u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize);

macro_rules! from_single {
    ($($value:ty),*) => {$(
        impl From<$value> for PrimaryKey {
            fn from(value: $value) -> Self {
                Self { partition: value.into(), sort: None }
            }
        }
    )*};
}

from_single!(&str, String, &[u8], Vec<u8>, AttributeValue);

impl<P: Into<KeyValue>, S: Into<KeyValue>> From<(P, S)> for PrimaryKey {
    fn from((partition, sort): (P, S)) -> Self {
        Self { partition: partition.into(), sort: Some(sort.into()) }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::Config;
    use aws_sdk_dynamodb::config::BehaviorVersion;
    use ringtide_core::version::Version;

    use super::*;

    fn loader() -> ItemLoader {
        let config = Config::builder().behavior_version(BehaviorVersion::latest()).build();
        ItemLoader::new(Client::from_conf(config), "products")
    }

    fn item(version: AttributeValue) -> Option<HashMap<String, AttributeValue>> {
        Some(HashMap::from([("v".to_owned(), version), ("name".to_owned(), AttributeValue::S("tea".into()))]))
    }

    #[test]
    fn a_key_has_the_loaders_shape() {
        let lines = loader().partition_key("order").sort_key("line");
        let key = lines.key(("o1", 7_u64).into()).unwrap();
        assert_eq!(key["order"], AttributeValue::S("o1".into()));
        assert_eq!(key["line"], AttributeValue::N("7".into()));
        assert!(matches!(lines.key("o1".into()), Err(ItemError::KeyShape { .. })));
        assert!(matches!(loader().key(("o1", 7_u64).into()), Err(ItemError::KeyShape { .. })));
    }

    #[test]
    fn an_item_is_read_with_its_version() {
        #[derive(serde::Deserialize, PartialEq, Debug)]
        struct Product {
            name: String,
        }
        let versioned = loader().version_attribute("v");
        let loaded = versioned.read::<Product>(item(AttributeValue::N("7".into()))).unwrap();
        assert_eq!(loaded.value.unwrap().name, "tea");
        assert_eq!(loaded.version, Version::from_number(7));
        assert!(versioned.read::<Product>(None).unwrap().value.is_none());
        let error = versioned.read::<Product>(item(AttributeValue::N("-1".into()))).unwrap_err();
        assert!(matches!(error, ItemError::Version { .. }));
    }

    #[test]
    fn a_stamp_is_read_whole_into_its_field() {
        #[derive(serde::Serialize, serde::Deserialize)]
        struct Product {
            v: crate::Stamp,
        }
        let versioned = loader().version_attribute("v");
        let stamp = crate::VersionClock::new().now();
        for number in [7, stamp, 10_u128.pow(38) - 1] {
            let loaded = versioned.read::<Product>(item(AttributeValue::N(number.to_string()))).unwrap();
            assert_eq!(loaded.version, Version::from_number(number));
            let product = loaded.value.unwrap();
            assert_eq!(product.v.0, number);
            // And written again, under a higher one.
            let mut item = serde_dynamo::to_item(product).unwrap();
            let _condition = crate::VersionClock::new().stamp_item(&mut item, "v").unwrap();
            let written: u128 = item["v"].as_n().unwrap().parse().unwrap();
            assert!(written > number || number > 1 << 119, "{written} is not above {number}");
        }
    }

    #[test]
    fn a_stamp_comes_as_text_to_who_takes_anything() {
        let number = 1_u128 << 100;
        let loaded = loader().version_attribute("v").read(item(AttributeValue::N(number.to_string()))).unwrap();
        let value: serde_json::Value = loaded.value.unwrap();
        assert_eq!(value["v"], number.to_string());
    }

    #[test]
    fn a_failed_call_is_told_in_words() {
        let refused = GetItemError::ResourceNotFoundException(
            aws_sdk_dynamodb::types::error::ResourceNotFoundException::builder().message("no such table").build(),
        );
        let answer = aws_sdk_dynamodb::config::http::HttpResponse::new(400.try_into().unwrap(), "a whole item".into());
        let source = Box::new(SdkError::service_error(refused, answer));
        let told = ItemError::GetItem { table: "products".into(), source }.to_string();
        assert_eq!(told, "GetItem on table products failed: service error: ResourceNotFoundException: no such table");
    }
}
