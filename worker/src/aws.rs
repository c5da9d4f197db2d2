//! How DynamoDB and its streams are reached: one HTTP client, time-outs everywhere, few retries, failures sorted once.

use std::time::Duration;

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_dynamodb::config::Credentials;
use aws_sdk_dynamodb::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use ringtide_core::config::Aws;

/// Any failed call of the SDK.
pub(crate) type SdkError<E> = aws_sdk_dynamodb::error::SdkError<E, aws_sdk_dynamodb::config::http::HttpResponse>;

/// What the SDK's service errors have in common.
pub(crate) trait ServiceError: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static {}

impl<E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static> ServiceError for E {}

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
        let http =
            aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(3))
            .read_timeout(Duration::from_secs(10))
            .operation_attempt_timeout(Duration::from_secs(10))
            .operation_timeout(Duration::from_secs(25))
            .build();
        let mut loader = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_max_attempts(3));
        if let Some(region) = &settings.region {
            loader = loader.region(Region::new(region.clone()));
        }
        if let Some(endpoint) = &settings.endpoint_url {
            loader = loader.endpoint_url(endpoint);
            if is_loopback(endpoint) {
                if !["AWS_ACCESS_KEY_ID", "AWS_PROFILE"].iter().any(|name| std::env::var_os(name).is_some()) {
                    loader = loader.credentials_provider(Credentials::new("local", "local", None, None, "loopback"));
                }
                let named = ["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"];
                if settings.region.is_none() && !named.iter().any(|name| std::env::var_os(name).is_some()) {
                    loader = loader.region(Region::new("us-east-1"));
                }
            }
        }
        Self::new(&loader.load().await)
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

/// A failed call, sorted by where it failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No answer, or not in time: the call may have been carried out.
    Unreachable(String),
    /// The service refused.
    Service {
        /// Its error code.
        code: String,
        /// Its words.
        text: String,
    },
    /// The call was never sent, or its answer is not understood.
    Other(String),
}

impl Failure {
    pub(crate) fn of<E: ServiceError>(error: &SdkError<E>) -> Self {
        let text = || DisplayErrorContext(error).to_string().chars().take(300).collect::<String>();
        match error {
            aws_sdk_dynamodb::error::SdkError::DispatchFailure(_)
            | aws_sdk_dynamodb::error::SdkError::TimeoutError(_) => Self::unsent(text()),
            aws_sdk_dynamodb::error::SdkError::ServiceError(service) => {
                let code = service.err().code().unwrap_or_default().to_owned();
                let words = service.err().message().unwrap_or_default();
                Self::Service { text: format!("{code}: {words}"), code }
            }
            _ => Self::Other(text()),
        }
    }

    /// Missing credentials come as a failed dispatch as well.
    fn unsent(text: String) -> Self {
        if text.contains("credential") {
            return Self::Service { code: "MissingAuthenticationToken".to_owned(), text };
        }
        Self::Unreachable(text)
    }
}

/// Whether an error code says that there were too many calls.
pub(crate) fn is_throttle(code: &str) -> bool {
    [
        "LimitExceededException",
        "ThrottlingException",
        "Throttling",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
    ]
    .contains(&code)
}

/// Whether an error code says that the caller may not do this.
pub(crate) fn is_denial(code: &str) -> bool {
    [
        "AccessDeniedException",
        "UnrecognizedClientException",
        "InvalidSignatureException",
        "IncompleteSignatureException",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
    ]
    .contains(&code)
}

fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    ["127.", "localhost", "[::1]"].iter().any(|prefix| host.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_loopback_interface_gets_placeholders() {
        for (endpoint, expected) in [
            ("http://127.0.0.1:4566", true),
            ("http://localhost:8000", true),
            ("http://[::1]:8000", true),
            ("https://dynamodb.eu-west-1.amazonaws.com", false),
            ("http://10.0.0.1:8000", false),
        ] {
            assert_eq!(is_loopback(endpoint), expected, "{endpoint}");
        }
    }
}
