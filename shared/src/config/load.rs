//! The file and the environment → one TOML table.

use std::path::Path;

use super::raw::RawConfig;
use super::validate::validate;
use super::{Config, ConfigError};

/// What the name of every override begins with.
const PREFIX: &str = "RINGTIDE_";

/// The sections whose fields the environment can set: `RINGTIDE_<SECTION>_<FIELD>`.
const SECTIONS: [&str; 8] = ["aws", "valkey", "ring", "park", "delivery", "worker", "probe", "reader"];

/// The process's environment, for [`Config::load`]: names and values, as far as they are text.
///
/// [`std::env::vars`] panics at what is not.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl Config {
    /// Loads the file at `path` and lays the overrides of `env` (names and values, usually [`environment`]) over it.
    ///
    /// `RINGTIDE_WORKER_IDLE_POLL=2s` sets `idle_poll` of `[worker]`. A value that is TOML (a number, a truth value, an
    /// array such as `[{ name = "a", address = "127.0.0.1:6379" }]` for `RINGTIDE_RING_SHARDS`) is taken as such, any
    /// other as a text.
    ///
    /// # Errors
    /// [`ConfigError`]: the file cannot be read or is not TOML, or every violation of a rule at once.
    pub fn load(path: &Path, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
        let config = Self::parse(&text, env).map_err(|error| error.at(path))?;
        Ok(Self { file: Some(path.to_owned()), ..config })
    }

    /// Reads a configuration from a text; otherwise as [`Config::load`].
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, env: impl IntoIterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut table: toml::Table = text.parse().map_err(ConfigError::malformed)?;
        for (name, value) in env {
            lay_over(&mut table, &name, value)?;
        }
        let raw: RawConfig = table.try_into().map_err(ConfigError::malformed)?;
        validate(raw).map_err(|violations| ConfigError::Invalid { path: None, violations })
    }
}

fn lay_over(table: &mut toml::Table, name: &str, value: String) -> Result<(), ConfigError> {
    let Some(rest) = name.strip_prefix(PREFIX).map(str::to_ascii_lowercase) else { return Ok(()) };
    let Some((section, field)) = rest.split_once('_').filter(|(section, _)| SECTIONS.contains(section)) else {
        return Ok(());
    };
    let secret = (section, field) == ("valkey", "password");
    let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    let Some(section) = section.as_table_mut() else { return Ok(()) };
    let value = if secret { toml::Value::String(value) } else { toml_or_text(value) };
    section.insert(field.to_owned(), value);
    Ok(())
}

fn toml_or_text(value: String) -> toml::Value {
    let parsed = format!("value = {value}").parse::<toml::Table>().ok().and_then(|mut table| table.remove("value"));
    match parsed {
        // A date is the one TOML value that no field takes.
        Some(toml::Value::Datetime(_)) | None => toml::Value::String(value),
        Some(parsed) => parsed,
    }
}
