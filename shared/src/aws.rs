//! What both edges need of AWS besides streams: the SDK's configuration, parameters, secrets, ElastiCache's tokens,
//! objects, and places for parked records.
//!
//! Nothing here connects, reads a profile or builds a client before it is first needed: a function that starts cold and
//! asks none of it pays for none of it.

#[cfg_attr(feature = "aws-chain", allow(dead_code, reason = "the chain looks there, too"))]
mod environment;
mod failure;
mod objects;
mod park;
mod secret;
mod source;
mod token;

use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials as AwsCredentials;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::behavior_version::BehaviorVersion;
use aws_smithy_types::retry::RetryConfig;
use aws_smithy_types::timeout::TimeoutConfig;
use aws_types::SdkConfig;
use aws_types::region::Region;
use tokio::sync::OnceCell;

pub use failure::{Failure, SdkError, ServiceError, is_denial, is_throttle};
pub use objects::{ObjectError, Objects};
pub use source::load;

use crate::config::{Aws, Config};
use crate::park::ParkReader;
use crate::pipeline::Services;
use crate::valkey::Credentials;

/// Prepares what a configuration asks of AWS: logins for the ring shards, a place for parked records.
///
/// Nothing is sent and nothing is checked before it is first used; a secret that cannot be read is told by the ring
/// shards that wait for it, a queue that cannot be written to by the pages whose records wait to be parked.
#[must_use]
pub fn services(config: &Config) -> Services {
    let sdk = Sdk::new(&config.aws);
    let park = config.park.as_ref().and_then(|target| park::store(&sdk, target));
    Services { credentials: logins(&config.valkey, &sdk), park }
}

/// Prepares the reading of the place that a configuration names for parked records; `None` where it names none, or a
/// table and this build lacks the feature `dynamodb`.
#[must_use]
pub fn park_reader(config: &Config) -> Option<Arc<dyn ParkReader>> {
    park::reader(&Sdk::new(&config.aws), config.park.as_ref()?)
}

/// Prepares the logins that a configuration of `[valkey]` leaves to AWS: a secret's password, or tokens; `None` where it
/// leaves none.
#[must_use]
pub fn credentials(config: &Config) -> Option<Arc<dyn Credentials>> {
    logins(&config.valkey, &Sdk::new(&config.aws))
}

fn logins(valkey: &crate::config::Valkey, sdk: &Sdk) -> Option<Arc<dyn Credentials>> {
    let user = valkey.username.clone();
    if let Some(iam) = &valkey.iam {
        return Some(Arc::new(token::Tokens::new(sdk.clone(), iam, user)));
    }
    let secret = valkey.password_secret.as_ref()?;
    Some(Arc::new(secret::SecretPassword::new(sdk.clone(), secret, user)))
}

/// Loads the SDK's configuration: one HTTP client, time-outs everywhere, few retries; region and credentials that
/// `settings` leaves open come from the SDK's own chain; without the feature `aws-chain` from the environment.
///
/// For an endpoint on the loopback interface without credentials or region in the environment, placeholders are used,
/// since emulators accept any.
pub async fn sdk_config(settings: &Aws) -> SdkConfig {
    let http = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https();
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(3))
        .read_timeout(Duration::from_secs(10))
        .operation_attempt_timeout(Duration::from_secs(10))
        .operation_timeout(Duration::from_secs(25))
        .build();
    let retries = RetryConfig::standard().with_max_attempts(3);
    let endpoint = settings.endpoint_url.clone();
    let used = endpoint.clone().or_else(|| std::env::var("AWS_ENDPOINT_URL").ok());
    let set = |names: &[&str]| names.iter().any(|name| std::env::var_os(name).is_some());
    let local = used.is_some_and(|endpoint| is_loopback(&endpoint));
    let placeholders = local && !set(&["AWS_ACCESS_KEY_ID", "AWS_PROFILE"]);
    let nowhere = settings.region.is_none() && !set(&["AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE"]);
    let region = settings.region.clone().or_else(|| (local && nowhere).then(|| "us-east-1".to_owned()));
    let region = region.map(Region::new);
    let credentials = placeholders.then(|| AwsCredentials::new("local", "local", None, None, "loopback"));

    #[cfg(feature = "aws-chain")]
    {
        let mut chain = aws_config::defaults(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(retries);
        if let Some(region) = region {
            chain = chain.region(region);
        }
        if let Some(endpoint) = endpoint {
            chain = chain.endpoint_url(endpoint);
        }
        if let Some(credentials) = credentials {
            chain = chain.credentials_provider(credentials);
        }
        chain.load().await
    }
    #[cfg(not(feature = "aws-chain"))]
    {
        let begun = SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .timeout_config(timeouts)
            .retry_config(retries);
        environment::complete(begun, region, endpoint, credentials)
    }
}

/// The SDK's configuration, loaded when it is first asked for; cheap to clone.
#[derive(Clone, Debug)]
struct Sdk {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    settings: Aws,
    config: OnceCell<SdkConfig>,
}

impl Sdk {
    fn new(settings: &Aws) -> Self {
        Self { inner: Arc::new(Inner { settings: settings.clone(), config: OnceCell::new() }) }
    }

    async fn config(&self) -> &SdkConfig {
        self.inner.config.get_or_init(|| sdk_config(&self.inner.settings)).await
    }
}

fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest);
    ["127.", "localhost", "[::1]"].iter().any(|prefix| host.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

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

    #[test]
    fn services_are_prepared_without_doing_anything() {
        let text = r#"
            valkey = { username = "u", tls = true, iam_cache = "c" }
            park = { to = "https://sqs.eu-west-1.amazonaws.com/123456789012/parked" }
            ring = { shards = [{ name = "a", address = "h:1" }] }
        "#;
        let config = Config::parse(text, []).unwrap();
        // Outside of a runtime: there is nothing that could connect.
        let times = (0..10).map(|_| {
            let begun = Instant::now();
            let services = services(&config);
            assert!(services.credentials.is_some() && services.park.is_some());
            begun.elapsed()
        });
        let fastest = times.min().unwrap();
        assert!(fastest < Duration::from_micros(500), "{fastest:?}");
        let text = text.replace("iam_cache = \"c\"", "password = \"p\"").replace("https://sqs", "http://sqs");
        assert!(super::services(&Config::parse(&text, []).unwrap()).credentials.is_none());
    }
}
