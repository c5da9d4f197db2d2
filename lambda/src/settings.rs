//! Where the function's configuration comes from.

use std::path::PathBuf;

use ringtide_core::aws;
use ringtide_core::config::{Config, ConfigError};

/// The environment variable that holds the configuration itself, as TOML.
pub const TEXT: &str = "RINGTIDE_CONFIG_TEXT";

/// The environment variable that says where the configuration is: a path, `ssm:/name` or `s3://bucket/key`.
pub const PLACE: &str = "RINGTIDE_CONFIG";

/// Reads the text of `RINGTIDE_CONFIG_TEXT`, else what `RINGTIDE_CONFIG` names, else `ringtide.toml` in the function's
/// package, and lays the environment's overrides over it. A variable that is empty counts as not set.
///
/// # Errors
/// [`ConfigError`].
pub async fn load(env: Vec<(String, String)>) -> Result<Config, ConfigError> {
    let of = |name: &str| {
        let set = env.iter().find(|(key, value)| key == name && !value.trim().is_empty());
        set.map(|(_, value)| value.clone())
    };
    if let Some(text) = of(TEXT) {
        return Config::parse(&text, env);
    }
    match of(PLACE) {
        Some(place) => aws::load(&place, env).await,
        None => {
            let package = PathBuf::from(of("LAMBDA_TASK_ROOT").unwrap_or_default());
            Config::load(&package.join("ringtide.toml"), env)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn load_from(env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        load(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()).await
    }

    #[tokio::test]
    async fn the_text_of_the_environment_comes_first_and_overrides_over_it() {
        let text = "[[ring.shards]]\nname = \"a\"\naddress = \"h:1\"\n";
        let shards = "[{ name = \"b\", address = \"h:2\" }]";
        let env = [(TEXT, text), (PLACE, "/nowhere"), ("RINGTIDE_RING_SHARDS", shards)];
        assert_eq!(load_from(&env).await.unwrap().ring.shards[0].address, "h:2");
    }

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let error = load_from(&[(PLACE, "/nowhere/r.toml"), (TEXT, " ")]).await.unwrap_err().to_string();
        assert!(error.contains("/nowhere/r.toml"), "{error}");
        let error = load_from(&[("LAMBDA_TASK_ROOT", "/nowhere/task"), (PLACE, "")]).await.unwrap_err().to_string();
        assert!(error.contains("/nowhere/task/ringtide.toml"), "{error}");
    }

    #[tokio::test]
    async fn a_place_in_aws_that_cannot_be_reached_is_named() {
        let env = [(PLACE, "s3://bucket"), ("AWS_ENDPOINT_URL", "http://127.0.0.1:1")];
        let error = load_from(&env).await.unwrap_err().to_string();
        assert!(error.contains("s3://bucket"), "{error}");
    }
}
