//! Reading a ring shard's address.

use std::net::Ipv6Addr;

/// Valkey's port where a URL names none.
const DEFAULT_PORT: u16 = 6379;

/// A host, its port and whether its scheme asks for TLS.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: bool,
}

/// Reads `host:port`, `[v6]:port` and URLs without credentials.
pub(super) fn parse(text: &str) -> Result<Address, &'static str> {
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

/// An address as it may be repeated in an error.
pub(super) fn without_credentials(text: &str) -> String {
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
}
