//! A password that is kept in Secrets Manager.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::{Failure, Sdk};
use crate::config::Secret;
use crate::valkey::{Credentials, Login, NoLogin};

/// A secret is not read again within this time, however many connections are refused: it is either rotated or wrong.
const PATIENCE: Duration = Duration::from_secs(5);

/// Reads a secret when it is first needed, and again when a server refuses what it held.
pub(super) struct SecretPassword {
    sdk: Sdk,
    secret: String,
    username: Option<String>,
    /// One reading for all who ask at once; replaced by an empty one after a refusal.
    kept: Mutex<Arc<OnceCell<Kept>>>,
}

struct Kept {
    login: Login,
    read_at: Instant,
}

/// The form in which Secrets Manager itself keeps the logins of databases.
#[derive(Deserialize)]
struct Fields {
    password: String,
    username: Option<String>,
}

impl SecretPassword {
    pub(super) fn new(sdk: Sdk, secret: &str, username: Option<String>) -> Self {
        Self { sdk, secret: secret.to_owned(), username, kept: Mutex::default() }
    }

    fn kept(&self) -> Arc<OnceCell<Kept>> {
        Arc::clone(&self.kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn read(&self) -> Result<Kept, NoLogin> {
        let client = aws_sdk_secretsmanager::Client::new(self.sdk.config().await);
        let failed = |reason: String| NoLogin(format!("secret {}: {reason}", self.secret));
        let value = client.get_secret_value().secret_id(&self.secret).send().await;
        let value = value.map_err(|error| failed(Failure::of(&error).to_string()))?;
        let text = value.secret_string().ok_or_else(|| failed("it holds no text".to_owned()))?;
        let login = login_of(text, self.username.clone()).ok_or_else(|| failed("it is empty".to_owned()))?;
        tracing::info!(secret = self.secret, "password read");
        Ok(Kept { login, read_at: Instant::now() })
    }
}

#[async_trait]
impl Credentials for SecretPassword {
    async fn login(&self) -> Result<Login, NoLogin> {
        let kept = self.kept();
        kept.get_or_try_init(|| self.read()).await.map(|kept| kept.login.clone())
    }

    fn refused(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.get().is_some_and(|kept| kept.read_at.elapsed() >= PATIENCE) {
            *kept = Arc::default();
        }
    }
}

impl std::fmt::Debug for SecretPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretPassword").field("secret", &self.secret).finish_non_exhaustive()
    }
}

/// Reads a JSON object with `password` and perhaps `username`, or takes the whole text as the password; a configured
/// user comes before the secret's.
fn login_of(text: &str, username: Option<String>) -> Option<Login> {
    let (password, named) = match serde_json::from_str::<Fields>(text) {
        Ok(fields) => (fields.password, fields.username),
        Err(_) => (text.trim_end_matches(['\r', '\n']).to_owned(), None),
    };
    let password = Some(password).filter(|password| !password.is_empty())?;
    Some(Login { username: username.or(named), password: Secret::new(password), renew_within: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_and_a_plain_text_are_read() {
        let login = |text: &str, user: Option<&str>| login_of(text, user.map(str::to_owned));
        let object = r#"{"username":"app","password":"p{1}","engine":"valkey"}"#;
        let read = login(object, None).unwrap();
        assert_eq!((read.username.as_deref(), read.password.reveal()), (Some("app"), "p{1}"));
        assert_eq!(login(object, Some("me")).unwrap().username.as_deref(), Some("me"));
        let read = login("plain\n", None).unwrap();
        assert_eq!((read.username, read.password.reveal()), (None, "plain"));
        assert_eq!(login("{\"other\":1}", None).unwrap().password.reveal(), "{\"other\":1}");
        assert!(login("", None).is_none() && login(r#"{"password":""}"#, None).is_none());
    }
}
