//! Who asks a ring shard: the seam behind which passwords stand still, are rotated, or are signed anew.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;

use crate::config::Secret;

/// A user and its proof, good for one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The ACL user; `None` for the default one.
    pub username: Option<String>,
    /// Its password, or a token in its place.
    pub password: Secret,
    /// How long a connection may live on it before it has to authenticate again; `None` for ever.
    pub renew_within: Option<Duration>,
}

/// Why there are no credentials at the moment.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no credentials for the ring: {0}")]
pub struct NoLogin(pub String);

/// Hands out logins; asked before every connection is made, and again before one has to be renewed.
#[async_trait]
pub trait Credentials: fmt::Debug + Send + Sync {
    /// Answers with a login that is good now.
    ///
    /// # Errors
    /// [`NoLogin`]: the connection is tried again later.
    async fn login(&self) -> Result<Login, NoLogin>;

    /// Is told that a server refused the last login: what is kept of it is to be forgotten.
    fn refused(&self);
}
