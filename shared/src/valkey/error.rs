//! What can go wrong with a ring shard that was reached once, or should have been.

use std::sync::Arc;

use redis::{RedisError, ServerError};

use crate::ring::ShardName;

/// The longest text of a server's error that is kept, in bytes.
const TEXT_MAX: usize = 200;

/// Why a ring shard did not do what it was asked; holds no values and no credentials.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ShardError {
    /// There is no connection, or it was lost before the answer: the command may have been carried out.
    #[error("ring shard {shard} cannot be reached: {reason}")]
    Unavailable {
        /// The ring shard.
        shard: ShardName,
        /// Why, as far as it is known.
        reason: Arc<str>,
    },
    /// No answer in time; the command may still be carried out later.
    #[error("ring shard {shard} did not answer in time")]
    TimedOut {
        /// The ring shard.
        shard: ShardName,
    },
    /// The server answered with an error.
    #[error("ring shard {shard} answered {code}: {text}")]
    Rejected {
        /// The ring shard.
        shard: ShardName,
        /// The error's first word: `OOM`, `READONLY`, `NOPERM`, `ERR`.
        code: Arc<str>,
        /// The rest of it, cut to 200 bytes.
        text: Arc<str>,
    },
}

impl ShardError {
    /// Tells whether the same command may succeed later without anybody changing the configuration.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            ShardError::Unavailable { .. } | ShardError::TimedOut { .. } => true,
            ShardError::Rejected { code, .. } => matches!(
                &**code,
                "OOM"
                    | "BUSY"
                    | "LOADING"
                    | "READONLY"
                    | "MASTERDOWN"
                    | "MISCONF"
                    | "NOREPLICAS"
                    | "TRYAGAIN"
                    | "MOVED"
                    | "ASK"
                    | "CLUSTERDOWN"
                    | "UNKILLABLE"
                    | NO_SCRIPT
            ),
        }
    }

    /// Returns the ring shard that it is about.
    #[must_use]
    pub fn shard(&self) -> &ShardName {
        match self {
            ShardError::Unavailable { shard, .. }
            | ShardError::TimedOut { shard }
            | ShardError::Rejected { shard, .. } => shard,
        }
    }

    pub(super) fn lost(shard: &ShardName) -> Self {
        ShardError::Unavailable { shard: shard.clone(), reason: "the connection was lost".into() }
    }

    /// What no server of a known version answers.
    pub(super) fn unexpected(shard: &ShardName, to: &'static str) -> Self {
        ShardError::Rejected {
            shard: shard.clone(),
            code: "UNEXPECTED".into(),
            text: format!("the answer to {to} cannot be read").into(),
        }
    }

    pub(super) fn answered(shard: &ShardName, error: &ServerError) -> Self {
        ShardError::Rejected {
            shard: shard.clone(),
            code: error.code().into(),
            text: printable(error.details().unwrap_or_default()).into(),
        }
    }

    pub(super) fn of_call(shard: &ShardName, error: RedisError) -> Self {
        if error.is_timeout() {
            return ShardError::TimedOut { shard: shard.clone() };
        }
        match ServerError::try_from(error) {
            Ok(error) => Self::answered(shard, &error),
            Err(_) => Self::lost(shard),
        }
    }
}

/// The code of an error for a script that the server does not have.
pub(super) const NO_SCRIPT: &str = "NOSCRIPT";

/// Cuts a server's text short, and before it repeats a command's arguments.
fn printable(text: &str) -> &str {
    let text = text.split(", with args beginning with").next().unwrap_or_default();
    &text[..text.floor_char_boundary(TEXT_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_text_is_cut_before_arguments_and_between_characters() {
        assert_eq!(printable("unknown command 'X', with args beginning with: 'secret'"), "unknown command 'X'");
        assert!(printable(&"ä".repeat(150)).len() <= TEXT_MAX);
    }

    #[test]
    fn only_what_may_pass_by_itself_is_retryable() {
        let rejected =
            |code: &str| ShardError::Rejected { shard: ShardName::new("a"), code: code.into(), text: "".into() };
        assert!(rejected("OOM").is_retryable());
        assert!(rejected("READONLY").is_retryable());
        assert!(!rejected("NOPERM").is_retryable());
        assert!(!rejected("NOAUTH").is_retryable());
        assert!(ShardError::TimedOut { shard: ShardName::new("a") }.is_retryable());
    }
}
