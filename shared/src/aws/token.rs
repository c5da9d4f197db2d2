//! ElastiCache's authentication by IAM: a request to connect, presigned, stands for the password.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::Credentials as AwsCredentials;
use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign};
use aws_sigv4::sign::v4;

use super::Sdk;
use crate::config::{Iam, Secret};
use crate::valkey::{Credentials, Login, NoLogin};

/// How long ElastiCache takes a token after it was signed: the most that it allows.
const VALID: Duration = Duration::from_secs(15 * 60);
/// How long a token is handed out, so that none is used when it is about to expire.
const KEPT: Duration = Duration::from_secs(10 * 60);
/// When a connection has to authenticate anew: ElastiCache ends it after 12 hours.
const RENEW: Duration = Duration::from_secs(6 * 60 * 60);

/// Signs tokens with the process's own AWS credentials, and keeps each for a while.
#[derive(Debug)]
pub(super) struct Tokens {
    sdk: Sdk,
    iam: Iam,
    user: String,
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    login: Login,
    signed_at: SystemTime,
    until: SystemTime,
}

impl Tokens {
    pub(super) fn new(sdk: Sdk, iam: &Iam, user: Option<String>) -> Self {
        Self { sdk, iam: iam.clone(), user: user.unwrap_or_default(), kept: Mutex::new(None) }
    }

    async fn sign(&self) -> Result<Kept, NoLogin> {
        let failed = |reason: String| NoLogin(format!("no token for ElastiCache: {reason}"));
        let config = self.sdk.config().await;
        let region = config.region().ok_or_else(|| failed("there is no region; set aws.region".to_owned()))?;
        let provider = config.credentials_provider().ok_or_else(|| failed("there are no credentials".to_owned()))?;
        let credentials = provider.provide_credentials().await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            failed(format!("{error}{cause}"))
        })?;
        let signed_at = SystemTime::now();
        let token = token(&self.iam, &self.user, region.as_ref(), &credentials, signed_at).map_err(failed)?;
        let until = credentials.expiry().map_or(signed_at + KEPT, |expiry| expiry.min(signed_at + KEPT));
        let username = Some(self.user.clone());
        Ok(Kept {
            login: Login { username, password: Secret::new(token), renew_within: Some(RENEW) },
            signed_at,
            until,
        })
    }
}

#[async_trait]
impl Credentials for Tokens {
    async fn login(&self) -> Result<Login, NoLogin> {
        {
            let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(kept) = kept.as_ref().filter(|kept| kept.is_good(SystemTime::now())) {
                return Ok(kept.login.clone());
            }
        }
        let signed = self.sign().await?;
        let login = signed.login.clone();
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = Some(signed);
        Ok(login)
    }

    fn refused(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Kept {
    /// By the wall clock, by which the token expires, and which goes on while a process is stopped; one that was set back
    /// tells nothing.
    fn is_good(&self, now: SystemTime) -> bool {
        now >= self.signed_at && now < self.until
    }
}

/// Signs a request to connect, and writes it without its scheme.
fn token(iam: &Iam, user: &str, region: &str, credentials: &AwsCredentials, now: SystemTime) -> Result<String, String> {
    // Names of caches are lower case, however somebody writes them.
    let mut request = format!("http://{}/?Action=connect&User=", iam.cache.to_ascii_lowercase());
    escape(user, &mut request);
    if iam.serverless {
        request.push_str("&ResourceType=ServerlessCache");
    }
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(VALID);
    let identity = credentials.clone().into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("elasticache")
        .time(now)
        .settings(settings)
        .build()
        .map_err(|error| error.to_string())?;
    let signable = SignableRequest::new("GET", request.as_str(), std::iter::empty(), SignableBody::Bytes(&[]))
        .map_err(|error| error.to_string())?;
    let (instructions, _) = sign(signable, &parameters.into()).map_err(|error| error.to_string())?.into_parts();
    for (name, value) in instructions.params() {
        request.push('&');
        request.push_str(name);
        request.push('=');
        escape(value, &mut request);
    }
    Ok(request.split_off("http://".len()))
}

/// Appends a text as a query carries it: everything but unreserved characters escaped.
fn escape(text: &str, out: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _infallible = write!(out, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-02T03:04:05Z.
    const NOW: Duration = Duration::from_secs(1_767_323_045);

    fn signed(iam: &Iam, session: Option<&str>) -> String {
        let credentials = AwsCredentials::new(
            "AKIDEXAMPLE",
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            session.map(str::to_owned),
            None,
            "test",
        );
        token(iam, "app-user", "eu-west-1", &credentials, SystemTime::UNIX_EPOCH + NOW).unwrap()
    }

    fn parameters(token: &str) -> std::collections::BTreeMap<&str, &str> {
        token.split_once("/?").unwrap().1.split('&').map(|pair| pair.split_once('=').unwrap()).collect()
    }

    /// The signatures were computed with botocore 1.43, whose presigner is another implementation: a GET of
    /// `http://CACHE/` with the parameters Action and User (and ResourceType), through
    /// `SigV4QueryAuth(credentials, "elasticache", "eu-west-1", expires=900)`, the clock held at 2026-01-02T03:04:05Z.
    #[test]
    fn tokens_are_those_of_another_implementation() {
        let nodes = Iam { cache: "My-Cache".into(), serverless: false };
        let token = signed(&nodes, None);
        assert!(token.starts_with("my-cache/?Action=connect&User=app-user&"), "{token}");
        let expected = [
            ("Action", "connect"),
            ("User", "app-user"),
            ("X-Amz-Algorithm", "AWS4-HMAC-SHA256"),
            ("X-Amz-Credential", "AKIDEXAMPLE%2F20260102%2Feu-west-1%2Felasticache%2Faws4_request"),
            ("X-Amz-Date", "20260102T030405Z"),
            ("X-Amz-Expires", "900"),
            ("X-Amz-Signature", "5164c0aff9c8f46cefe3b7830bc5773653a422b085cbd505aaedb0be8c5c203b"),
            ("X-Amz-SignedHeaders", "host"),
        ];
        assert_eq!(parameters(&token).into_iter().collect::<Vec<_>>(), expected);

        let serverless = Iam { cache: "my-serverless".into(), serverless: true };
        let token = signed(&serverless, Some("tok/en+=="));
        let parameters = parameters(&token);
        assert_eq!(parameters["ResourceType"], "ServerlessCache");
        assert_eq!(parameters["X-Amz-Security-Token"], "tok%2Fen%2B%3D%3D");
        let signature = "80665405d454cbcb5bc783926b1cd37d1c297742116b89a1c78f5b72a8b37e46";
        assert_eq!(parameters["X-Amz-Signature"], signature);
    }

    #[test]
    fn a_token_is_handed_out_for_less_time_than_it_is_valid() {
        let signed_at = SystemTime::UNIX_EPOCH + NOW;
        let login = Login { username: None, password: Secret::new(String::new()), renew_within: None };
        let kept = Kept { login, signed_at, until: signed_at + KEPT };
        assert!(KEPT < VALID && RENEW < Duration::from_secs(12 * 60 * 60));
        assert!(kept.is_good(signed_at) && kept.is_good(signed_at + KEPT - Duration::from_secs(1)));
        assert!(!kept.is_good(signed_at + KEPT) && !kept.is_good(signed_at - Duration::from_secs(1)));
    }

    #[tokio::test]
    async fn a_token_is_kept_until_it_is_refused() {
        let aws =
            crate::config::Aws { region: Some("eu-west-1".into()), endpoint_url: Some("http://127.0.0.1:1".into()) };
        let iam = Iam { cache: "c".into(), serverless: false };
        let tokens = Tokens::new(Sdk::new(&aws), &iam, Some("app-user".into()));
        let login = tokens.login().await.unwrap();
        assert_eq!((login.username.as_deref(), login.renew_within), (Some("app-user"), Some(RENEW)));
        assert!(login.password.reveal().starts_with("c/?Action=connect&User=app-user&X-Amz-"));
        let signed_at = || tokens.kept.lock().unwrap().as_ref().map(|kept| kept.signed_at);
        let first = signed_at().unwrap();
        assert_eq!(tokens.login().await.unwrap(), login);
        assert_eq!(signed_at(), Some(first));
        tokens.refused();
        assert_eq!(signed_at(), None);
        tokens.login().await.unwrap();
        assert!(signed_at().unwrap() > first);
        assert!(!format!("{tokens:?}").contains("Signature"));
    }
}
