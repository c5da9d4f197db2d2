//! What is wrong with a configuration.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use crate::ring::RingError;

/// One violated rule: where, what, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The place, as the file has it: `routes[0].space`.
    pub place: String,
    /// What is wrong there.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl Violation {
    /// Describes a violation.
    pub fn new(place: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { place: place.into(), problem: problem.into(), remedy: remedy.into() }
    }

    /// Describes a number that is not one of `range`.
    pub(crate) fn outside(place: &str, number: i64, range: &RangeInclusive<i64>) -> Self {
        Self::new(place, format!("{number} is out of range"), format!("use {} to {}", range.start(), range.end()))
    }

    /// Takes an error's text that says what to do after its first semicolon.
    #[must_use]
    pub fn split(place: &str, text: &str) -> Self {
        let (problem, remedy) = text.split_once("; ").unwrap_or((text, "correct it"));
        Self::new(place, problem, remedy)
    }
}

impl From<RingError> for Violation {
    fn from(error: RingError) -> Self {
        Self::split("ring", &error.to_string())
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.place, self.problem, self.remedy)
    }
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("the configuration {} cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be fetched from where it is kept.
    #[error("the configuration {location} cannot be read: {reason}")]
    Unfetched {
        /// The place: `ssm:/name` or `s3://bucket/key`.
        location: String,
        /// Why.
        reason: String,
    },
    /// The text is not TOML, or a field has another type.
    #[error("the configuration{} is malformed: {reason}", place(path))]
    Malformed {
        /// The file, where it is one.
        path: Option<PathBuf>,
        /// Why, with line and column where the reader tells them.
        reason: String,
    },
    /// Rules are violated.
    #[error("the configuration{} has {} violation{}:{}", place(path), violations.len(), if violations.len() == 1 { "" } else { "s" }, list(violations))]
    Invalid {
        /// The file, where it is one.
        path: Option<PathBuf>,
        /// Every violation.
        violations: Vec<Violation>,
    },
}

impl ConfigError {
    pub(super) fn malformed(error: toml::de::Error) -> Self {
        // The error's own text quotes the line, which may hold a password: only its message and place are kept.
        Self::Malformed { path: None, reason: error.message().to_owned() }
    }

    pub(crate) fn at(self, file: &Path) -> Self {
        match self {
            Self::Malformed { reason, .. } => Self::Malformed { path: Some(file.to_owned()), reason },
            Self::Invalid { violations, .. } => Self::Invalid { path: Some(file.to_owned()), violations },
            other @ (Self::Unreadable { .. } | Self::Unfetched { .. }) => other,
        }
    }

    /// The violations, where there are any.
    #[must_use]
    pub fn violations(&self) -> &[Violation] {
        match self {
            Self::Invalid { violations, .. } => violations,
            Self::Malformed { .. } | Self::Unreadable { .. } | Self::Unfetched { .. } => &[],
        }
    }
}

fn place(path: &Option<PathBuf>) -> String {
    path.as_ref().map(|path| format!(" {}", path.display())).unwrap_or_default()
}

fn list(violations: &[Violation]) -> String {
    violations.iter().map(|violation| format!("\n  - {violation}")).collect()
}
