//! DynamoDB's clients.

use aws_config::{SdkConfig, retry::RetryConfig};
use ringtide_core::aws::sdk_config;
pub(crate) use ringtide_core::aws::{Failure, SdkError, ServiceError, is_denial, is_throttle};
use ringtide_core::config::Aws;

/// The clients of one region.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Tables, the lease table among them. The SDK tries a call three times.
    pub tables: aws_sdk_dynamodb::Client,
    /// Streams. The SDK tries a call once: the stream's policy decides about the next try.
    pub streams: aws_sdk_dynamodbstreams::Client,
}

impl Clients {
    /// Builds the clients; region and credentials that the configuration leaves open come from the SDK's chain.
    ///
    /// For an endpoint on the loopback interface without credentials or region in the environment, placeholders are
    /// used, since emulators accept any.
    pub async fn connect(settings: &Aws) -> Self {
        Self::new(&sdk_config(settings).await)
    }

    /// Builds the clients from a loaded configuration of the SDK.
    #[must_use]
    pub fn new(config: &SdkConfig) -> Self {
        let streams =
            aws_sdk_dynamodbstreams::config::Builder::from(config).retry_config(RetryConfig::disabled()).build();
        Self {
            tables: aws_sdk_dynamodb::Client::new(config),
            streams: aws_sdk_dynamodbstreams::Client::from_conf(streams),
        }
    }
}
