//! Where the function's configuration comes from.

use std::path::PathBuf;

use ringtide_core::config::{Config, ConfigError};

/// The environment variable that holds the configuration itself, as TOML.
pub const TEXT: &str = "RINGTIDE_CONFIG_TEXT";

/// The environment variable that names the configuration file.
pub const FILE: &str = "RINGTIDE_CONFIG";

/// Reads the text of `RINGTIDE_CONFIG_TEXT`, else the file that `RINGTIDE_CONFIG` names, else `ringtide.toml` in the
/// function's package, and lays the environment's overrides over it.
///
/// # Errors
/// [`ConfigError`].
pub fn load(env: Vec<(String, String)>) -> Result<Config, ConfigError> {
    let of = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    if let Some(text) = of(TEXT) {
        return Config::parse(&text, env);
    }
    let packaged = || PathBuf::from(of("LAMBDA_TASK_ROOT").unwrap_or_default()).join("ringtide.toml");
    let path = of(FILE).map_or_else(packaged, PathBuf::from);
    Config::load(&path, env)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_from(env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        load(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn the_text_of_the_environment_comes_first_and_overrides_over_it() {
        let text = "[[ring.shards]]\nname = \"a\"\naddress = \"h:1\"\n";
        let shards = "[{ name = \"b\", address = \"h:2\" }]";
        let config = load_from(&[(TEXT, text), (FILE, "/nowhere"), ("RINGTIDE_RING_SHARDS", shards)]).unwrap();
        assert_eq!(config.ring.shards[0].address, "h:2");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load_from(&[(FILE, "/nowhere/r.toml")]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/r.toml"), "{error}");
        let error = load_from(&[("LAMBDA_TASK_ROOT", "/nowhere/task")]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/task/ringtide.toml"), "{error}");
    }
}
