//! Walking over a ring shard's keys: flushing, auditing and what the demo shows.

use std::time::Duration;

use redis::{Cmd, Value};

use super::reply::Fields;
use super::{Shard, ShardError};

/// Names that one page of a walk looks at, about.
const PAGE: usize = 250;

/// What every lock's name begins with.
const LOCKS: &str = "lock:";

impl Shard {
    /// Unlinks every entry whose key begins with `prefix`, and its lock, a page of keys at a time with a `pause`
    /// between pages; returns how many names were unlinked.
    ///
    /// An empty prefix stands for everything that the server holds. Locks go first, so that no lease that was taken
    /// before the call can store anything after it; waiters are not told and find out by their own deadlines.
    ///
    /// # Errors
    /// [`ShardError`]: a part was flushed, and the whole is to be tried again.
    pub async fn flush(&self, prefix: &str, pause: Duration) -> Result<u64, ShardError> {
        let locks = self.walk(&format!("{LOCKS}*{}*", escaped(prefix)), |name| is_lock_of(name, prefix), pause).await?;
        let entries = self.walk(&format!("{}*", escaped(prefix)), |_| true, pause).await?;
        Ok(locks + entries)
    }

    /// Unlinks what matches; over one connection, because a cursor means nothing to another server.
    async fn walk(&self, pattern: &str, wanted: impl Fn(&[u8]) -> bool, pause: Duration) -> Result<u64, ShardError> {
        let live = self.links.live()?;
        let mut unlinked = 0;
        let mut cursor = b"0".to_vec();
        loop {
            let (next, names) = self.page(self.links.send_by(&live, &scan(&cursor, pattern)).await?)?;
            let mut unlink = redis::cmd("UNLINK");
            let mut any = false;
            for name in names.iter().filter(|name| wanted(name)) {
                unlink.arg(&name[..]);
                any = true;
            }
            if any {
                match self.links.send_by(&live, &unlink).await? {
                    Value::Int(count) => unlinked += u64::try_from(count).unwrap_or_default(),
                    Value::ServerError(error) => return Err(self.links.rejected(&error)),
                    _ => return Err(ShardError::unexpected(self.name(), "UNLINK")),
                }
            }
            if next == b"0" {
                return Ok(unlinked);
            }
            cursor = next;
            tokio::time::sleep(pause).await;
        }
    }

    /// Lists the names that begin with `prefix`, in no order, each at least once; those that are not UTF-8 are left
    /// out, and locks are included where `prefix` says so.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, ShardError> {
        let live = self.links.live()?;
        let pattern = format!("{}*", escaped(prefix));
        let mut found = Vec::new();
        let mut cursor = b"0".to_vec();
        loop {
            let (next, names) = self.page(self.links.send_by(&live, &scan(&cursor, &pattern)).await?)?;
            found.extend(names.into_iter().filter_map(|name| String::from_utf8(name).ok()));
            if next == b"0" {
                return Ok(found);
            }
            cursor = next;
        }
    }

    fn page(&self, answer: Value) -> Result<(Vec<u8>, Vec<Vec<u8>>), ShardError> {
        if let Value::ServerError(error) = &answer {
            return Err(self.links.rejected(error));
        }
        Fields::of(answer)
            .and_then(|mut fields| Some((fields.bytes()?.to_vec(), fields.list()?)))
            .ok_or_else(|| ShardError::unexpected(self.name(), "SCAN"))
    }

    /// Counts the names that the server holds, of entries, locks and others.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn dbsize(&self) -> Result<u64, ShardError> {
        match self.links.ask(&redis::cmd("DBSIZE")).await? {
            Value::Int(count) => Ok(u64::try_from(count).unwrap_or_default()),
            _ => Err(ShardError::unexpected(self.name(), "DBSIZE")),
        }
    }

    /// Asks for a sign of life.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn ping(&self) -> Result<(), ShardError> {
        self.links.ask(&redis::cmd("PING")).await.map(drop)
    }

    /// Asks for the server's run id, which is new for every start of it.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn run_id(&self) -> Result<String, ShardError> {
        let info = self.info("server").await?;
        let id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
        id.map(|id| id.trim().to_owned()).ok_or_else(|| ShardError::unexpected(self.name(), "INFO"))
    }

    /// Asks for one section of the server's `INFO`, as it is.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn info(&self, section: &str) -> Result<String, ShardError> {
        match self.links.ask(redis::cmd("INFO").arg(section)).await? {
            Value::VerbatimString { text, .. } => Ok(text),
            Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            _ => Err(ShardError::unexpected(self.name(), "INFO")),
        }
    }
}

fn scan(cursor: &[u8], pattern: &str) -> Cmd {
    let mut command = redis::cmd("SCAN");
    command.arg(cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(PAGE);
    command
}

/// A prefix in a pattern, where its own wildcards stand for themselves.
fn escaped(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len());
    for character in prefix.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// Whether a name is that of a lock whose key begins with `prefix`, in either of the two forms of lock names.
fn is_lock_of(name: &[u8], prefix: &str) -> bool {
    let Some(rest) = name.strip_prefix(LOCKS.as_bytes()) else { return false };
    rest.starts_with(prefix.as_bytes()) || rest.strip_prefix(b"{").is_some_and(|key| key.starts_with(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_of_a_prefix_stand_for_themselves() {
        assert_eq!(escaped("a*b?[c]\\"), "a\\*b\\?\\[c\\]\\\\");
    }

    #[test]
    fn both_forms_of_lock_names_are_known() {
        assert!(is_lock_of(b"lock:{product:1}", "product:"));
        assert!(is_lock_of(b"lock:{u:1}:cart", "{u:"));
        assert!(!is_lock_of(b"lock:{order:product:1}", "product:"));
        assert!(!is_lock_of(b"product:1", "product:"));
    }
}
