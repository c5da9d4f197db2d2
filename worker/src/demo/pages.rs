//! Asking servers how they are: the worker's pages, the ring shards' sizes.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Nobody on the loopback interface needs longer.
const PATIENCE: Duration = Duration::from_millis(500);

/// An HTTP answer.
pub(super) struct Page {
    pub(super) ok: bool,
    pub(super) body: String,
}

/// Fetches a page; nothing where the server does not answer.
pub(super) async fn fetch(server: SocketAddr, path: &str) -> Option<Page> {
    // HTTP/1.0: the body ends with the connection.
    let text = exchange(server, format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n")).await?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Page { ok: head.split(' ').nth(1) == Some("200"), body: body.to_owned() })
}

/// Counts the names on a ring shard; nothing where it is down.
pub(super) async fn size(address: &str) -> Option<u64> {
    let text = exchange(address.parse().ok()?, "DBSIZE\r\nQUIT\r\n".to_owned()).await?;
    text.lines().next()?.strip_prefix(':')?.parse().ok()
}

/// Adds up the samples of a metric whose labels contain `label`.
pub(super) fn sum(exposition: &str, metric: &str, label: &str) -> u64 {
    let values = exposition.lines().filter_map(|line| {
        let rest = line.strip_prefix(metric)?;
        let (labels, value) = rest.rsplit_once(' ')?;
        let is_it = labels.is_empty() || labels.starts_with('{');
        (is_it && labels.contains(label)).then(|| value.parse::<f64>().ok()).flatten()
    });
    // Counters are whole and far below 2^53.
    values.sum::<f64>() as u64
}

async fn exchange(server: SocketAddr, request: String) -> Option<String> {
    let exchange = async {
        let mut stream = TcpStream::connect(server).await.ok()?;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    tokio::time::timeout(PATIENCE, exchange).await.ok().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_one_metric_are_added_up() {
        let text = "# HELP hits_total x\nhits_total{space=\"a\"} 3\nhits_total{space=\"b\"} 4\nhits_total_more 9\n";
        assert_eq!(sum(text, "hits_total", ""), 7);
        assert_eq!(sum(text, "hits_total", "space=\"b\""), 4);
    }
}
