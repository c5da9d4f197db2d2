//! Stamps on items of DynamoDB tables.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;

use super::VersionClock;

/// The name that the condition gives the version attribute.
const NAME: &str = "#ringtide_version";

/// The name that the condition gives the stamp.
const VALUE: &str = ":ringtide_version";

/// The condition that a write carries, so that a lower stamp never replaces a higher one: `attribute_not_exists(#v) OR
/// #v < :v`. An item without the attribute is replaced.
///
/// DynamoDB answers `ConditionalCheckFailedException` where the item has the same stamp, which is what a write that is
/// sent a second time finds of itself, or a higher one: of a writer that was faster, or whose system's clock is ahead.
/// Ask for `ReturnValuesOnConditionCheckFailure::AllOld`, give the item that comes with the answer to
/// [`VersionClock::observe_item`], decide again on what it holds, and write with a new stamp.
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub struct NewerOnly {
    /// The condition expression; to be joined with others by `AND` in parentheses.
    pub expression: String,
    /// The expression's attribute names.
    pub names: HashMap<String, String>,
    /// The expression's attribute values.
    pub values: HashMap<String, AttributeValue>,
}

/// An item whose version attribute no stamp can be compared with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the attribute {attribute:?} holds no whole number of at most 38 digits, which versions are")]
pub struct NotAStamp {
    /// The version attribute.
    pub attribute: String,
}

impl NewerOnly {
    /// Makes the condition for a write of `stamp` to `attribute`.
    pub fn new(attribute: impl Into<String>, stamp: u128) -> Self {
        Self {
            expression: format!("attribute_not_exists({NAME}) OR {NAME} < {VALUE}"),
            names: HashMap::from([(NAME.to_owned(), attribute.into())]),
            values: HashMap::from([(VALUE.to_owned(), AttributeValue::N(stamp.to_string()))]),
        }
    }
}

impl VersionClock {
    /// Puts a new stamp on an item, above the one that it carries, and makes the condition to write it with.
    ///
    /// ```no_run
    /// # use std::collections::HashMap;
    /// # use aws_sdk_dynamodb::{Client, types::AttributeValue};
    /// # async fn example(client: Client, clock: ringtide::VersionClock, mut item: HashMap<String, AttributeValue>)
    /// # -> Result<(), ringtide::BoxError> {
    /// let newer = clock.stamp_item(&mut item, "version")?;
    /// client
    ///     .put_item()
    ///     .table_name("products")
    ///     .set_item(Some(item))
    ///     .condition_expression(newer.expression)
    ///     .set_expression_attribute_names(Some(newer.names))
    ///     .set_expression_attribute_values(Some(newer.values))
    ///     .send()
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A text of digits, which is what a [`Stamp`](crate::Stamp) is written as, counts as its number.
    ///
    /// # Errors
    /// [`NotAStamp`] where the item carries something else in `attribute`; it is left as it is.
    pub fn stamp_item(
        &self,
        item: &mut HashMap<String, AttributeValue>,
        attribute: &str,
    ) -> Result<NewerOnly, NotAStamp> {
        self.observe_item(item, attribute)?;
        let stamp = self.now();
        item.insert(attribute.to_owned(), AttributeValue::N(stamp.to_string()));
        Ok(NewerOnly::new(attribute, stamp))
    }

    /// Takes the version of an item that was read into account, and returns it; `None` where it has none.
    ///
    /// # Errors
    /// [`NotAStamp`].
    pub fn observe_item(
        &self,
        item: &HashMap<String, AttributeValue>,
        attribute: &str,
    ) -> Result<Option<u128>, NotAStamp> {
        let Some(value) = item.get(attribute) else { return Ok(None) };
        let number = value.as_n().or_else(|_| value.as_s()).ok().and_then(|number| number.parse().ok());
        let number = number.ok_or_else(|| NotAStamp { attribute: attribute.to_owned() })?;
        self.observe(number);
        Ok(Some(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_item_is_stamped_above_the_version_that_it_carries_and_written_only_over_lower_ones() {
        let (ahead, clock) = (VersionClock::new(), VersionClock::new());
        let carried = ahead.at(4_000_000_000_000);
        let mut item = HashMap::from([("v".to_owned(), AttributeValue::N(carried.to_string()))]);
        let newer = clock.stamp_item(&mut item, "v").unwrap();
        let stamp: u128 = item["v"].as_n().unwrap().parse().unwrap();
        assert!(stamp > carried);
        assert_eq!(
            newer.expression,
            "attribute_not_exists(#ringtide_version) OR #ringtide_version < :ringtide_version"
        );
        assert_eq!(newer.names["#ringtide_version"], "v");
        assert_eq!(newer.values[":ringtide_version"], AttributeValue::N(stamp.to_string()));
    }

    #[test]
    fn what_is_no_version_is_not_written_over() {
        let clock = VersionClock::new();
        let text = |digits: &str| AttributeValue::S(digits.into());
        for value in [text("seven"), text("-7"), AttributeValue::N("1.5".into()), AttributeValue::N("-1".into())] {
            let mut item = HashMap::from([("v".to_owned(), value.clone())]);
            assert_eq!(clock.stamp_item(&mut item, "v"), Err(NotAStamp { attribute: "v".into() }));
            assert_eq!(item["v"], value);
        }
    }
}
