//! Tables as tests want them.

use std::error::Error;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType, StreamSpecification,
    StreamViewType,
};

/// Creates a table whose primary key is one text, with a stream where a view of one is given.
///
/// # Errors
/// What the SDK says.
pub async fn create_table(
    client: &Client,
    name: &str,
    key: &str,
    view: Option<StreamViewType>,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let attribute = AttributeDefinition::builder().attribute_name(key).attribute_type(ScalarAttributeType::S);
    let schema = KeySchemaElement::builder().attribute_name(key).key_type(KeyType::Hash);
    let stream = view.map(|view| StreamSpecification::builder().stream_enabled(true).stream_view_type(view).build());
    let create = client.create_table().table_name(name).billing_mode(BillingMode::PayPerRequest);
    let create = create.attribute_definitions(attribute.build()?).key_schema(schema.build()?);
    create.set_stream_specification(stream.transpose()?).send().await?;
    Ok(())
}
