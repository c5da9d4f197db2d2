//! The SDK's configuration from the environment alone, as Lambda sets it: no profiles, no roles to assume, no services of
//! containers and instances to ask. A function's package is a tenth smaller without them.

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};
use aws_smithy_async::rt::sleep::default_async_sleep;
use aws_smithy_async::time::SystemTimeSource;
use aws_types::SdkConfig;
use aws_types::region::Region;
use aws_types::sdk_config::Builder;

/// Completes what is set already with region, endpoint and credentials of the environment, where none are given.
pub(super) fn complete(
    mut begun: Builder,
    region: Option<Region>,
    endpoint: Option<String>,
    credentials: Option<Credentials>,
) -> SdkConfig {
    let region = region.or_else(|| first(&["AWS_REGION", "AWS_DEFAULT_REGION"]).map(Region::new));
    begun
        .set_region(region)
        .set_endpoint_url(endpoint.or_else(|| first(&["AWS_ENDPOINT_URL"])))
        .set_sleep_impl(default_async_sleep());
    let provider = match credentials {
        Some(credentials) => SharedCredentialsProvider::new(credentials),
        None => SharedCredentialsProvider::new(Environment),
    };
    begun.set_credentials_provider(Some(provider));
    begun.time_source(SystemTimeSource::new()).build()
}

/// Reads the credentials anew whenever the SDK asks.
#[derive(Debug)]
struct Environment;

impl ProvideCredentials for Environment {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::ready(credentials(|name| first(&[name])))
    }
}

fn credentials(env: impl Fn(&str) -> Option<String>) -> Result<Credentials, CredentialsError> {
    let needed = |name: &str| {
        env(name)
            .ok_or_else(|| CredentialsError::not_loaded(format!("{name} is not set; Lambda sets it for a function")))
    };
    let (id, secret) = (needed("AWS_ACCESS_KEY_ID")?, needed("AWS_SECRET_ACCESS_KEY")?);
    Ok(Credentials::new(id, secret, env("AWS_SESSION_TOKEN"), None, "environment"))
}

fn first(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_come_from_the_environment_and_what_is_missing_is_named() {
        let env = |name: &str| match name {
            "AWS_ACCESS_KEY_ID" => Some("id".to_owned()),
            "AWS_SECRET_ACCESS_KEY" => Some("secret".to_owned()),
            "AWS_SESSION_TOKEN" => Some("token".to_owned()),
            _ => None,
        };
        let found = credentials(env).unwrap();
        assert_eq!((found.access_key_id(), found.session_token()), ("id", Some("token")));
        let error = credentials(|name| env(name).filter(|_| name != "AWS_SECRET_ACCESS_KEY")).unwrap_err();
        let text = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(text.contains("AWS_SECRET_ACCESS_KEY"), "{error}: {text}");
    }

    #[test]
    fn what_is_set_wins_over_the_environment() {
        let endpoint = Some("http://127.0.0.1:1".to_owned());
        let given = complete(SdkConfig::builder(), Some(Region::new("eu-west-1")), endpoint, None);
        assert_eq!(given.region().map(AsRef::as_ref), Some("eu-west-1"));
        assert_eq!(given.endpoint_url(), Some("http://127.0.0.1:1"));
        assert!(given.credentials_provider().is_some() && given.sleep_impl().is_some());
    }
}
