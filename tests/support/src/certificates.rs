//! Certificates for servers on loopback, made with the `openssl` program.

use std::path::Path;
use std::process::{Command, Stdio};

use super::process::ServerError;

const PROGRAM: &str = "openssl";

/// A certificate authority of a test's own, and a server's certificate that it has signed, as files in PEM.
#[derive(Debug)]
pub struct Certificates {
    home: tempfile::TempDir,
}

impl Certificates {
    /// Makes both; the server's certificate is for `names`, such as `DNS:localhost,IP:127.0.0.1`.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn for_names(names: &str) -> Result<Self, ServerError> {
        let home = tempfile::tempdir()?;
        std::fs::write(home.path().join("names"), format!("subjectAltName={names}"))?;
        for arguments in [
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout ca.key -out ca.pem -subj /CN=ca",
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout own.key -out own.csr -subj /CN=server",
            "x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -extfile names -out own.pem",
        ] {
            run(arguments, home.path())?;
        }
        Ok(Self { home })
    }

    /// The path of a file: `ca.pem`, `own.pem` or `own.key`.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        self.home.path().join(name).display().to_string()
    }

    /// The arguments with which a Valkey server shows the certificate, without a port.
    #[must_use]
    pub fn arguments(&self) -> Vec<String> {
        let (cert, key, ca) = (self.path("own.pem"), self.path("own.key"), self.path("ca.pem"));
        let pairs = [("cert-file", &*cert), ("key-file", &*key), ("ca-cert-file", &*ca), ("auth-clients", "no")];
        pairs.into_iter().flat_map(|(name, value)| [format!("--tls-{name}"), value.to_owned()]).collect()
    }
}

fn run(arguments: &str, home: &Path) -> Result<(), ServerError> {
    let mut command = Command::new(PROGRAM);
    command.args(arguments.split(' ')).current_dir(home).stdin(Stdio::null());
    let made = command.output().map_err(|source| ServerError::Missing { program: PROGRAM, source })?;
    if made.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&made.stderr).into_owned();
    Err(ServerError::NotReady { program: PROGRAM, reason })
}
