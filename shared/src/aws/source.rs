//! Where a configuration is read from: a file, a parameter of Systems Manager, or an object of S3.

use std::path::Path;

use super::{Failure, Objects, Sdk};
use crate::config::{Aws, Config, ConfigError};

/// Loads the configuration at `location`: a path, `ssm:/name` (a parameter, decrypted), or `s3://bucket/key`; and lays
/// the overrides of `env` (names and values, usually [`std::env::vars`]) over it.
///
/// Region and endpoint for reading a parameter or an object are those of `env` (`RINGTIDE_AWS_REGION`,
/// `RINGTIDE_AWS_ENDPOINT_URL`), else those of the SDK's own chain.
///
/// # Errors
/// [`ConfigError`]: it cannot be read or is not TOML, or every violation of a rule at once.
pub async fn load(location: &str, env: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let env: Vec<(String, String)> = env.into_iter().collect();
    let unfetched = |reason: String| ConfigError::Unfetched { location: location.to_owned(), reason };
    let text = if let Some(name) = location.strip_prefix("ssm:") {
        parameter(name, &reached_by(&env)).await.map_err(unfetched)?
    } else if let Some(rest) = location.strip_prefix("s3://") {
        let named = rest.split_once('/').filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty());
        let (bucket, key) = named.ok_or_else(|| unfetched("it has to be s3://bucket/key".to_owned()))?;
        let object = Objects::new(&reached_by(&env)).get(bucket, key).await;
        let object = object.map_err(|error| unfetched(error.to_string()))?;
        String::from_utf8(object.into()).map_err(|_| unfetched("it is not UTF-8".to_owned()))?
    } else {
        return Config::load(Path::new(location), env);
    };
    Config::parse(&text, env).map_err(|error| error.at(Path::new(location)))
}

async fn parameter(name: &str, settings: &Aws) -> Result<String, String> {
    let client = aws_sdk_ssm::Client::new(Sdk::new(settings).config().await);
    let got = client.get_parameter().name(name).with_decryption(true).send().await;
    let parameter = got.map_err(|error| Failure::of(&error).to_string())?.parameter;
    parameter.and_then(|parameter| parameter.value).ok_or_else(|| "it has no value".to_owned())
}

fn reached_by(env: &[(String, String)]) -> Aws {
    let of = |names: [&str; 2]| {
        let value = |name| env.iter().find(|(key, value)| key == name && !value.is_empty());
        names.into_iter().find_map(value).map(|(_, value)| value.clone())
    };
    Aws {
        region: of(["RINGTIDE_AWS_REGION", "AWS_REGION"]),
        endpoint_url: of(["RINGTIDE_AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL"]),
    }
}
