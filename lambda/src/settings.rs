//! Where the function's configuration comes from.

use std::path::PathBuf;

use ringtide_core::config::{Config, ConfigError};

/// The environment variable that names the configuration file.
pub const FILE: &str = "RINGTIDE_CONFIG";

/// Loads the file that `RINGTIDE_CONFIG` names, else `ringtide.toml` in the function's package, and lays the
/// environment's overrides over it.
///
/// # Errors
/// [`ConfigError`].
pub fn load(env: Vec<(String, String)>) -> Result<Config, ConfigError> {
    let of = |name: &str| env.iter().find(|(key, _)| key == name).map(|(_, value)| PathBuf::from(value));
    let path = of(FILE).unwrap_or_else(|| of("LAMBDA_TASK_ROOT").unwrap_or_default().join("ringtide.toml"));
    Config::load(&path, env)
}
