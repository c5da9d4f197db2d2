//! Where and how a ring shard is reached: its address, its TLS files and who is asking.

use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use redis::io::tcp::{TcpSettings, socket2};
use redis::{Client, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, RedisConnectionInfo, TlsCertificates};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};

use crate::config;
use crate::ring::{ShardName, ShardSpec};

/// Valkey's port where a URL names none.
const DEFAULT_PORT: u16 = 6379;

/// An idle connection whose peer has vanished is noticed after about this long, two probes and a reset.
const KEEPALIVE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);

/// A busy connection whose peer has vanished is given up after this long.
const UNACKNOWLEDGED: Duration = Duration::from_secs(8);

/// Why a ring shard can never be reached as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address cannot be read.
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
}

/// Checks everything that can be checked without the network.
pub(super) fn client(spec: &ShardSpec, options: &config::Valkey) -> Result<Client, ConnectError> {
    let shard = || spec.name.clone();
    let address = parse(&spec.address).map_err(|why| ConnectError::Address {
        shard: shard(),
        address: without_credentials(&spec.address),
        why,
    })?;
    let tls_error = |why: String| ConnectError::Tls { shard: shard(), why };

    let mut redis = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("ringtide", env!("CARGO_PKG_VERSION"));
    if let Some(username) = &options.username {
        redis = redis.set_username(username);
    }
    if let Some(password) = &options.password {
        redis = redis.set_password(password.reveal());
    }

    let encrypted = options.tls || address.tls;
    let target = if encrypted {
        ServerName::try_from(address.host.as_str())
            .map_err(|_| tls_error(format!("{:?} is no host name that a certificate can hold", address.host)))?;
        ConnectionAddr::TcpTls { host: address.host, port: address.port, insecure: false, tls_params: None }
    } else {
        ConnectionAddr::Tcp(address.host, address.port)
    };
    let info = target
        .into_connection_info()
        .map_err(|error| tls_error(error.to_string()))?
        .set_redis_settings(redis)
        .set_tcp_settings(tcp_settings());
    if !encrypted {
        return Client::open(info).map_err(|error| tls_error(error.to_string()));
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
    Client::build_with_tls(info, TlsCertificates { client_tls: None, root_cert })
        .map_err(|error| tls_error(error.to_string()))
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

#[derive(Debug, PartialEq, Eq)]
struct Address {
    host: String,
    port: u16,
    tls: bool,
}

/// Reads `host:port`, `[v6]:port` and URLs without credentials.
fn parse(text: &str) -> Result<Address, &'static str> {
    let (tls, default_port, rest) = match text.split_once("://") {
        None => (false, None, text),
        Some(("valkey" | "redis", rest)) => (false, Some(DEFAULT_PORT), rest),
        Some(("valkeys" | "rediss", rest)) => (true, Some(DEFAULT_PORT), rest),
        Some(_) => return Err("has a scheme other than valkey, valkeys, redis and rediss"),
    };
    let rest = if default_port.is_some() { rest.strip_suffix('/').unwrap_or(rest) } else { rest };
    if rest.contains('@') {
        return Err("holds credentials, which belong in the user name and password settings");
    }
    if rest.contains(['/', '?', '#']) {
        return Err("has a path or a query, and neither databases nor options are taken from there");
    }
    let (host, port) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("has an opening bracket without a closing one")?;
            host.parse::<Ipv6Addr>().map_err(|_| "has brackets around what is no IPv6 address")?;
            match port.strip_prefix(':') {
                Some(port) => (host, Some(port)),
                None if port.is_empty() => (host, None),
                None => return Err("has something between the closing bracket and the port"),
            }
        }
        None => match rest.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => return Err("needs brackets around its IPv6 address"),
            Some((host, port)) => (host, Some(port)),
            None => (rest, None),
        },
    };
    if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("has no usable host");
    }
    let port = match port {
        Some(port) => {
            port.parse().ok().filter(|port| *port != 0).ok_or("has a port that is no number of 1 to 65535")?
        }
        None => default_port.ok_or("has no port")?,
    };
    Ok(Address { host: host.to_owned(), port, tls })
}

fn without_credentials(text: &str) -> String {
    match text.rsplit_once('@') {
        Some((_, host)) => format!("…@{host}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(String, u16, bool), &'static str> {
        parse(text).map(|address| (address.host, address.port, address.tls))
    }

    #[test]
    fn hosts_brackets_and_urls_are_read() {
        for (text, host, port, tls) in [
            ("cache-1.internal:6380", "cache-1.internal", 6380, false),
            ("[::1]:7000", "::1", 7000, false),
            ("valkey://cache:7001/", "cache", 7001, false),
            ("redis://cache", "cache", 6379, false),
            ("rediss://[fe80::1]", "fe80::1", 6379, true),
            ("valkeys://cache:1", "cache", 1, true),
        ] {
            assert_eq!(read(text), Ok((host.to_owned(), port, tls)), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_an_address_is_refused() {
        for text in [
            "",
            "cache",
            ":6379",
            "cache:0",
            "cache:65536",
            "cache:x",
            "::1:6379",
            "[::1",
            "[x]:1",
            "[::1]1",
            "http://cache:1",
            "redis://cache:1/0",
            "redis://cache:1?protocol=resp3",
            "ca che:1",
            "redis://u:p@cache:1",
            "u@cache:1",
            "cache:6379/",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn credentials_in_an_address_are_not_repeated() {
        let spec = ShardSpec { name: ShardName::new("a"), address: "redis://u:hunter2@cache:1".to_owned(), weight: 1 };
        let options = config::Valkey::default();
        let Err(error) = client(&spec, &options) else { panic!("an address with credentials was taken") };
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
}
