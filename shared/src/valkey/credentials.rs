//! Who asks a ring shard: the seam behind which passwords stand still, are rotated, or are signed anew.

use std::fmt;
use std::sync::Arc;
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

/// The longest that one login is waited for; nobody's command waits with it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where the logins of a ring shard's connections come from.
#[derive(Clone, Debug)]
pub(super) enum Access {
    /// Nobody is asked for.
    Open,
    /// The configuration's.
    Fixed(Login),
    /// Asked for every time.
    Asked(Arc<dyn Credentials>),
}

impl Access {
    /// A login for a connection that is about to be made, or renewed.
    pub(super) async fn login(&self) -> Result<Option<Login>, NoLogin> {
        match self {
            Access::Open => Ok(None),
            Access::Fixed(login) => Ok(Some(login.clone())),
            Access::Asked(credentials) => match tokio::time::timeout(PATIENCE, credentials.login()).await {
                Ok(login) => login.map(Some),
                Err(_) => Err(NoLogin(format!("their source did not answer within {} s", PATIENCE.as_secs()))),
            },
        }
    }

    /// Notes that a server refused a login; tells whether another one may be better.
    pub(super) fn refused(&self) -> bool {
        match self {
            Access::Open | Access::Fixed(_) => false,
            Access::Asked(credentials) => {
                credentials.refused();
                true
            }
        }
    }
}
