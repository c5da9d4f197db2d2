//! `ringtide health`: asks a running worker, for containers without other programs.

use std::io::{self, Write};
use std::time::Duration;

use clap::Args;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Exit;

/// The longest answer that is looked at, in bytes.
const LONGEST: u64 = 4 * 1024 * 1024;

/// Asks a running worker whether it is well.
#[derive(Debug, Args)]
pub(super) struct Health {
    /// The page to ask for: /healthz for being alive, /readyz for having read every stream shard.
    #[arg(long, env = "RINGTIDE_HEALTH_URL", default_value = "http://127.0.0.1:9464/healthz")]
    url: String,
    /// How long an answer may take, in seconds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    timeout: u64,
}

impl Health {
    pub(super) async fn run(self) -> io::Result<Exit> {
        let asked = tokio::time::timeout(Duration::from_secs(self.timeout), ask(&self.url)).await;
        let asked = asked.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, "no answer in time")));
        match asked {
            Ok((200, body)) => {
                writeln!(io::stdout(), "{body}")?;
                Ok(Exit::Ok)
            }
            Ok((status, body)) => {
                writeln!(io::stderr(), "{} answered {status}: {body}", self.url)?;
                Ok(Exit::Failed)
            }
            Err(error) => {
                writeln!(io::stderr(), "{} cannot be asked: {error}", self.url)?;
                Ok(Exit::Failed)
            }
        }
    }
}

/// Asks for a page, and reads its status and its text.
pub(super) async fn ask(url: &str) -> io::Result<(u16, String)> {
    let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(|| invalid("it has to begin with http://"))?;
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let address = if host.rsplit(']').next().is_some_and(|end| end.contains(':')) {
        host.to_owned()
    } else {
        format!("{host}:80")
    };
    let mut stream = TcpStream::connect(&address).await?;
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer is not HTTP"))?;
    Ok((status, body.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    async fn asked(answer: &'static str) -> (io::Result<(u16, String)>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        (ask(&url).await, serving.await.unwrap())
    }

    #[tokio::test]
    async fn status_and_text_are_read() {
        let (answer, request) = asked("HTTP/1.1 503 Service Unavailable\r\na: b\r\n\r\n{\"ok\":false}\n").await;
        assert_eq!(answer.unwrap(), (503, "{\"ok\":false}".to_owned()));
        assert!(request.starts_with("GET /readyz HTTP/1.1\r\n"), "{request}");
        assert_eq!(asked("HTTP/1.1 200 OK\r\n\r\n").await.0.unwrap(), (200, String::new()));
    }

    #[tokio::test]
    async fn what_is_no_answer_is_an_error() {
        for answer in ["", "SSH-2.0-x\r\n", "HTTP/1.1 x\r\n\r\n"] {
            assert!(asked(answer).await.0.is_err(), "{answer:?}");
        }
        assert!(ask("https://127.0.0.1/").await.is_err());
    }
}
