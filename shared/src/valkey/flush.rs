//! Walking over a ring shard's keys: flushing, auditing and what the demo shows.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Value};

use super::link::{Links, Live};
use super::reply::Fields;
use super::{Reach, Shard, ShardError};

/// Names that one page of a walk looks at, about.
const PAGE: usize = 250;

/// What every lock's name begins with.
pub(super) const LOCKS: &str = "lock:";

/// What is done about the names that a walk finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sweep {
    /// They are only told.
    Count,
    /// They are unlinked.
    Unlink,
}

/// What a walk has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The name of an entry, or of what else begins as its key does.
    Entry,
    /// The name of a lock.
    Lock,
}

impl Shard {
    /// Unlinks every entry whose key begins with `prefix`, and its lock, a page of keys at a time with a `pause`
    /// between pages; returns how many names were unlinked.
    ///
    /// An empty prefix stands for everything that the server holds. Locks go first, so that no lease that was taken
    /// before the call can store anything after it; waiters are not told and find out by their own deadlines. In a
    /// cluster every master is walked over, and once more where slots have moved in the meantime.
    ///
    /// # Errors
    /// [`ShardError`]: a part was flushed, and the whole is to be tried again.
    pub async fn flush(&self, prefix: &str, pause: Duration) -> Result<u64, ShardError> {
        self.sweep(prefix, pause, Sweep::Unlink, &|_| {}).await
    }

    /// Walks over what [`Shard::flush`] removes, and tells `found` of each name before anything is done about it; returns
    /// how many names were unlinked. A name may be found more than once.
    ///
    /// # Errors
    /// [`ShardError`]: a part was walked over, and the whole is to be tried again.
    pub async fn sweep(
        &self,
        prefix: &str,
        pause: Duration,
        sweep: Sweep,
        found: &(dyn Fn(Found) + Send + Sync),
    ) -> Result<u64, ShardError> {
        let patterns = [format!("{LOCKS}*{}*", escaped(prefix)), format!("{}*", escaped(prefix))];
        let [locks, entries] = &patterns;
        let tell = |what| {
            found(what);
            sweep == Sweep::Unlink
        };
        let lock = |name: &[u8]| is_lock_of(name, prefix) && tell(Found::Lock);
        let entry = |_: &[u8]| tell(Found::Entry);
        match &*self.reach {
            Reach::One(links) => {
                let unlinked = self.unlink(links, locks, lock, pause).await?;
                Ok(unlinked + self.unlink(links, entries, entry, pause).await?)
            }
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => {
                let unlinked = cluster.unlink(locks, lock, pause).await?;
                Ok(unlinked + cluster.unlink(entries, entry, pause).await?)
            }
            #[cfg(feature = "memory")]
            Reach::Memory(server) => {
                server.names(prefix)?.iter().for_each(|_| found(Found::Entry));
                if sweep == Sweep::Unlink { server.flush(prefix) } else { Ok(0) }
            }
        }
    }

    /// Unlinks what matches.
    async fn unlink(
        &self,
        links: &Links,
        pattern: &str,
        wanted: impl Fn(&[u8]) -> bool,
        pause: Duration,
    ) -> Result<u64, ShardError> {
        let mut unlinked = 0;
        let mut walk = Walk::new(links, pattern, pause)?;
        while let Some(names) = walk.next().await? {
            unlinked += walk.unlink(names.iter().filter(|name| wanted(name))).await?;
        }
        Ok(unlinked)
    }

    /// Lists the names that begin with `prefix`, in no order, each at least once; those that are not UTF-8 are left
    /// out, and locks are included where `prefix` says so.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn keys(&self, prefix: &str) -> Result<Vec<String>, ShardError> {
        self.keys_at_pace(prefix, Duration::ZERO).await
    }

    /// As [`Shard::keys`], with a `pause` between the pages of names that the server looks at.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn keys_at_pace(&self, prefix: &str, pause: Duration) -> Result<Vec<String>, ShardError> {
        let pattern = format!("{}*", escaped(prefix));
        let mut found = Vec::new();
        match &*self.reach {
            Reach::One(links) => {
                let mut walk = Walk::new(links, &pattern, pause)?;
                while let Some(names) = walk.next().await? {
                    found.extend(names);
                }
            }
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => found.extend(cluster.names(&pattern, pause).await?),
            #[cfg(feature = "memory")]
            Reach::Memory(server) => found.extend(server.names(prefix)?),
        }
        Ok(found.into_iter().filter_map(|name| String::from_utf8(name).ok()).collect())
    }

    /// Counts the names that the server holds, of entries, locks and others; in a cluster, those of all masters.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn dbsize(&self) -> Result<u64, ShardError> {
        let count = |answer| match answer {
            Value::Int(count) => Ok(u64::try_from(count).unwrap_or_default()),
            _ => Err(ShardError::unexpected(self.name(), "DBSIZE")),
        };
        self.ask_all(&redis::cmd("DBSIZE")).await?.into_iter().map(count).sum()
    }

    /// Asks for a sign of life, of every master of a cluster.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn ping(&self) -> Result<(), ShardError> {
        self.ask_all(&redis::cmd("PING")).await.map(drop)
    }

    /// Asks for the server's run id, which is new for every start of it; for those of all masters of a cluster, sorted
    /// and with commas between them.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn run_id(&self) -> Result<String, ShardError> {
        let info = self.info("server").await?;
        let mut ids: Vec<_> = info.lines().filter_map(|line| line.strip_prefix("run_id:")).map(str::trim).collect();
        if ids.is_empty() {
            return Err(ShardError::unexpected(self.name(), "INFO"));
        }
        ids.sort_unstable();
        Ok(ids.join(","))
    }

    /// Asks for one section of the server's `INFO`, as it is; of all masters of a cluster, one after another.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn info(&self, section: &str) -> Result<String, ShardError> {
        let text = |answer| match answer {
            Value::VerbatimString { text, .. } => Ok(text),
            Value::BulkString(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            _ => Err(ShardError::unexpected(self.name(), "INFO")),
        };
        self.ask_all(redis::cmd("INFO").arg(section)).await?.into_iter().map(text).collect()
    }

    /// Asks every server the same.
    async fn ask_all(&self, command: &Cmd) -> Result<Vec<Value>, ShardError> {
        match &*self.reach {
            Reach::One(links) => Ok(vec![links.ask(command).await?]),
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => cluster.ask_all(command).await,
            #[cfg(feature = "memory")]
            Reach::Memory(server) => server.ask(command).map(|answer| vec![answer]),
        }
    }
}

/// Looks at all names of one server that match a pattern; over one connection, because a cursor means nothing to
/// another server.
pub(super) struct Walk<'a> {
    links: &'a Links,
    pub(super) live: Arc<Live>,
    pattern: &'a str,
    pause: Duration,
    /// `None` before the first page; then the next page's, `0` at the end.
    cursor: Option<Vec<u8>>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(links: &'a Links, pattern: &'a str, pause: Duration) -> Result<Self, ShardError> {
        Ok(Self { links, live: links.live()?, pattern, pause, cursor: None })
    }

    /// The next page of names; `None` after the last one.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, ShardError> {
        let cursor = match &self.cursor {
            None => &b"0"[..],
            Some(cursor) if cursor == b"0" => return Ok(None),
            Some(cursor) => {
                tokio::time::sleep(self.pause).await;
                cursor
            }
        };
        let answer = self.links.send_by(&self.live, &scan(cursor, self.pattern)).await?;
        if let Value::ServerError(error) = &answer {
            return Err(self.links.rejected(error));
        }
        let page = Fields::of(answer).and_then(|mut fields| Some((fields.bytes()?.to_vec(), fields.list()?)));
        let (cursor, names) = page.ok_or_else(|| ShardError::unexpected(self.links.name(), "SCAN"))?;
        self.cursor = Some(cursor);
        Ok(Some(names))
    }

    /// Unlinks names of the page; returns how many there were.
    pub(super) async fn unlink(&self, names: impl IntoIterator<Item = &Vec<u8>>) -> Result<u64, ShardError> {
        let mut unlink = redis::cmd("UNLINK");
        let mut any = false;
        for name in names {
            unlink.arg(&name[..]);
            any = true;
        }
        if !any {
            return Ok(0);
        }
        match self.links.send_by(&self.live, &unlink).await? {
            Value::Int(count) => Ok(u64::try_from(count).unwrap_or_default()),
            Value::ServerError(error) => Err(self.links.rejected(&error)),
            _ => Err(ShardError::unexpected(self.links.name(), "UNLINK")),
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
pub(super) fn is_lock_of(name: &[u8], prefix: &str) -> bool {
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
