//! The rules of `[valkey]`.

use std::path::PathBuf;

use super::Checker;
use crate::config::raw::RawValkey;
use crate::config::{Iam, Secret, Valkey};

impl Checker {
    pub(super) fn valkey(&mut self, raw: RawValkey) -> Valkey {
        self.unknown("valkey", &raw.unknown);
        let given = [
            ("valkey.password", raw.password.is_some()),
            ("valkey.password_file", raw.password_file.is_some()),
            ("valkey.password_secret", raw.password_secret.is_some()),
            ("valkey.iam_cache", raw.iam_cache.is_some()),
        ];
        for (place, _) in given.into_iter().filter(|(_, given)| *given).skip(1) {
            self.refuse(
                place,
                "there is more than one way to authenticate",
                "give one of valkey.password (by RINGTIDE_VALKEY_PASSWORD), valkey.password_file, \
                 valkey.password_secret and valkey.iam_cache",
            );
        }
        let password = match (raw.password, raw.password_file) {
            (Some(password), _) => Some(Secret::new(password)),
            (None, Some(path)) => self.password_of(&path),
            (None, None) => None,
        };
        let tls = raw.tls.unwrap_or_default();
        let iam = self.iam(raw.iam_cache, raw.iam_serverless, raw.username.is_some(), tls);
        let default = Valkey::default();
        let valkey = Valkey {
            username: raw.username,
            password,
            password_secret: raw.password_secret,
            iam,
            cluster: raw.cluster.unwrap_or(default.cluster),
            tls,
            ca_file: raw.ca_file.map(PathBuf::from),
            connections: self.whole("valkey.connections", raw.connections, 1..=16, default.connections),
            command_timeout: self.duration("valkey.command_timeout", raw.command_timeout, default.command_timeout),
            connect_timeout: self.duration("valkey.connect_timeout", raw.connect_timeout, default.connect_timeout),
        };
        // A file that cannot be read is a violation already.
        if given.iter().all(|(_, given)| !given) {
            self.violations.extend(valkey.violation_of_user());
        }
        valkey
    }

    fn password_of(&mut self, path: &str) -> Option<Secret> {
        match std::fs::read_to_string(path) {
            Ok(text) => Some(Secret::new(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => {
                self.refuse(
                    "valkey.password_file",
                    format!("{path} cannot be read: {error}"),
                    "name a file that this process may read",
                );
                None
            }
        }
    }

    fn iam(&mut self, cache: Option<String>, serverless: Option<bool>, has_user: bool, tls: bool) -> Option<Iam> {
        let Some(cache) = cache else {
            if serverless.is_some() {
                let remedy = "set valkey.iam_cache to the cache's name, or remove it";
                self.refuse("valkey.iam_serverless", "there is no valkey.iam_cache", remedy);
            }
            return None;
        };
        if !has_user {
            let remedy = "set valkey.username to the id of the ElastiCache user";
            self.refuse("valkey.iam_cache", "authentication by IAM needs a user", remedy);
        }
        if !tls {
            let remedy = "set valkey.tls = true; ElastiCache takes tokens over TLS only";
            self.refuse("valkey.iam_cache", "authentication by IAM needs TLS", remedy);
        }
        Some(Iam { cache, serverless: serverless.unwrap_or_default() })
    }
}
