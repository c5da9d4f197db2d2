//! Where and how a ring shard is reached: its address, its TLS files and who is asking.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2};
use redis::{
    Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, RedisResult,
    TlsCertificates,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use super::address::{self, parse, without_credentials};
use super::credentials::{Access, Credentials, Login};
use crate::config;
use crate::ring::{ShardName, ShardSpec};

/// An idle connection whose peer has vanished is noticed after about this long, two probes and a reset.
const KEEPALIVE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// A busy connection whose peer has vanished is given up after this long.
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);

/// Why a ring shard can never be reached as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address cannot be read, or not be reached by TLS.
    #[error("ring shard {shard}: the address {address:?} {why}")]
    Address {
        /// The ring shard.
        shard: ShardName,
        /// The address, without what may be a credential.
        address: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The CA file cannot be read.
    #[error("ring shard {shard}: the CA file {} cannot be read", path.display())]
    CaFile {
        /// The ring shard.
        shard: ShardName,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The TLS settings cannot be used.
    #[error("ring shard {shard}: the TLS settings cannot be used: {why}")]
    Tls {
        /// The ring shard.
        shard: ShardName,
        /// Why.
        why: String,
    },
    /// The configuration names a source of credentials that nobody has opened.
    #[error(
        "ring shard {shard}: the credentials come from {source_of_them}, which needs the feature `aws`, or credentials \
         that are given in the program"
    )]
    Credentials {
        /// The ring shard.
        shard: ShardName,
        /// The field of the configuration.
        source_of_them: &'static str,
    },
    /// The build lacks what the configuration asks for.
    #[error("ring shard {shard}: `valkey.cluster` needs the feature `cluster`")]
    ClusterFeature {
        /// The ring shard.
        shard: ShardName,
    },
}

/// One server's address and how connections to it begin; everything that can be checked without the network is.
#[derive(Clone)]
pub(super) struct Endpoint {
    info: ConnectionInfo,
}

impl Endpoint {
    pub(super) fn new(spec: &ShardSpec, options: &config::Valkey) -> Result<Self, ConnectError> {
        let shard = || spec.name.clone();
        let address_error =
            |why| ConnectError::Address { shard: shard(), address: without_credentials(&spec.address), why };
        let address = parse(&spec.address).map_err(address_error)?;
        let tls_error = |why: String| ConnectError::Tls { shard: shard(), why };
        let encrypted = options.tls || address.tls;
        if encrypted {
            ServerName::try_from(address.host.as_str())
                .map_err(|_| address_error("has a host that no certificate can hold"))?;
        }
        let redis = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP3)
            .set_lib_name("ringtide", env!("CARGO_PKG_VERSION"));
        let info = connection_address(address, encrypted)
            .into_connection_info()
            .map_err(|error| tls_error(error.to_string()))?
            .set_redis_settings(redis)
            .set_tcp_settings(tcp_settings());
        if !encrypted {
            return Ok(Self { info });
        }

        install_crypto();
        let root_cert = match &options.ca_file {
            Some(path) => {
                let pem = std::fs::read(path).map_err(|source| ConnectError::CaFile {
                    shard: shard(),
                    path: path.clone(),
                    source,
                })?;
                if CertificateDer::pem_slice_iter(&pem).next().is_none() {
                    return Err(tls_error(format!("{} holds no certificate in PEM", path.display())));
                }
                Some(pem)
            }
            None => None,
        };
        let client = Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
            .map_err(|error| tls_error(error.to_string()))?;
        Ok(Self { info: client.get_connection_info().clone() })
    }

    /// The server as logs name it.
    pub(super) fn address(&self) -> String {
        self.info.addr().to_string()
    }

    /// Makes a client for one connection under `login`.
    pub(super) fn client(&self, login: Option<&Login>) -> RedisResult<Client> {
        let mut redis = self.info.redis_settings().clone();
        if let Some(login) = login {
            if let Some(username) = &login.username {
                redis = redis.set_username(username);
            }
            redis = redis.set_password(login.password.reveal());
        }
        Client::open(self.info.clone().set_redis_settings(redis))
    }
}

#[cfg(feature = "cluster")]
impl Endpoint {
    /// Another server of the same kind: same TLS, same settings.
    pub(super) fn at(&self, host: &str, port: u16) -> Self {
        let target = match self.info.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
                host: host.to_owned(),
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            ConnectionAddr::Tcp(..) | ConnectionAddr::Unix(_) | _ => ConnectionAddr::Tcp(host.to_owned(), port),
        };
        Self { info: self.info.clone().set_addr(target) }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.info.addr(), ConnectionAddr::TcpTls { .. })
    }

    pub(super) fn host(&self) -> &str {
        match self.info.addr() {
            ConnectionAddr::TcpTls { host, .. } | ConnectionAddr::Tcp(host, _) => host,
            _ => "",
        }
    }
}

/// Chooses who asks: whom the program gives, or whom the configuration names.
pub(super) fn access(
    spec: &ShardSpec,
    options: &config::Valkey,
    given: Option<Arc<dyn Credentials>>,
) -> Result<Access, ConnectError> {
    let missing = |source_of_them| ConnectError::Credentials { shard: spec.name.clone(), source_of_them };
    match (given, &options.password) {
        (Some(credentials), _) => Ok(Access::Asked(credentials)),
        (None, _) if options.iam.is_some() => Err(missing("`valkey.iam_cache`")),
        (None, _) if options.password_secret.is_some() => Err(missing("`valkey.password_secret`")),
        (None, None) => Ok(Access::Open),
        (None, Some(password)) => Ok(Access::Fixed(Login {
            username: options.username.clone(),
            password: password.clone(),
            renew_within: None,
        })),
    }
}

fn connection_address(address: address::Address, encrypted: bool) -> ConnectionAddr {
    let address::Address { host, port, .. } = address;
    if encrypted {
        ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(host, port)
    }
}

/// Where other crates of the process bring another provider along, rustls refuses to choose by itself.
fn install_crypto() {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    INSTALLED.get_or_init(|| {
        // An error means that the application has chosen one already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

fn tcp_settings() -> TcpSettings {
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_INTERVAL).with_retries(2);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let settings = settings.set_user_timeout(UNACKNOWLEDGED);
    settings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_an_address_are_not_repeated() {
        let spec = ShardSpec { name: ShardName::new("a"), address: "redis://u:hunter2@cache:1".to_owned(), weight: 1 };
        let options = config::Valkey::default();
        let Err(error) = Endpoint::new(&spec, &options) else { panic!("an address with credentials was taken") };
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}
