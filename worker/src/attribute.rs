//! Attributes as the SDK has them: the same type twice, once in the crate of tables and once in that of streams.

use ringtide_core::record::Attribute;

macro_rules! attribute {
    ($name:ident, $sdk:ident, $what:literal) => {
        #[doc = $what]
        pub(crate) fn $name(value: &$sdk::types::AttributeValue) -> Result<Attribute, String> {
            use $sdk::types::AttributeValue as Value;
            Ok(match value {
                Value::S(text) => Attribute::S(text.clone()),
                Value::N(digits) => Attribute::N(digits.clone()),
                Value::B(bytes) => Attribute::B(bytes.as_ref().to_vec()),
                Value::Bool(truth) => Attribute::Bool(*truth),
                Value::Null(_) => Attribute::Null,
                Value::L(items) => Attribute::L(items.iter().map($name).collect::<Result<_, _>>()?),
                Value::M(map) => {
                    Attribute::M(map.iter().map(|(k, v)| $name(v).map(|v| (k.clone(), v))).collect::<Result<_, _>>()?)
                }
                Value::Ss(set) => Attribute::Ss(set.iter().cloned().collect()),
                Value::Ns(set) => Attribute::Ns(set.iter().cloned().collect()),
                Value::Bs(set) => Attribute::Bs(set.iter().map(|bytes| bytes.as_ref().to_vec()).collect()),
                _ => return Err("it is not one of DynamoDB's attribute types".to_owned()),
            })
        }
    };
}

attribute!(of_table, aws_sdk_dynamodb, "Reads an attribute of an item; an unknown type is refused.");
attribute!(of_stream, aws_sdk_dynamodbstreams, "Reads an attribute of a record; an unknown type is refused.");
