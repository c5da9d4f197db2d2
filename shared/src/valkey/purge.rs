//! Removing what this product keeps under any name, on servers that hold what is others' as well.

use std::sync::Arc;
use std::time::Duration;

use redis::{Cmd, Pipeline, Value};

use super::flush::Walk;
use super::{LOCK_MAGIC, Reach, Shard, ShardError};
use crate::command::Command;
use crate::entry::MAGIC;
use crate::key::{CacheKey, KeySpace, Template};

/// How many bytes of a value tell whose it is: an entry's before its format's version, or a lock's.
const HEAD: usize = 4;

impl Shard {
    /// Drops every entry and every lease, whatever their names, a page of names at a time with a `pause` between pages;
    /// returns how many were dropped. Of what others keep, only the first bytes are read.
    ///
    /// An entry and its lock are dropped together: no lease that was taken before the call can store anything after it.
    /// [`Shard::flush`] is quicker for those whose keys begin alike.
    ///
    /// # Errors
    /// [`ShardError`]: a part was dropped, and the whole is to be tried again.
    pub async fn purge(&self, pause: Duration) -> Result<u64, ShardError> {
        match &*self.reach {
            Reach::One(links) => {
                let mut purged = 0;
                let mut walk = Walk::new(links, "*", pause)?;
                while let Some(names) = walk.next().await? {
                    purged += self.purge_page(names).await?;
                }
                Ok(purged)
            }
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => cluster.each_page("*", pause, |names| self.purge_page(names)).await,
            #[cfg(feature = "memory")]
            Reach::Memory(server) => self.purge_page(server.names("")?).await,
        }
    }

    async fn purge_page(&self, names: Vec<Vec<u8>>) -> Result<u64, ShardError> {
        // What is no key was stored by nobody who goes by keys.
        let names: Vec<CacheKey> = names.iter().filter_map(|name| CacheKey::from_utf8(name).ok()).collect();
        let heads = self.heads(&names).await?;
        let ours: Vec<Command> = names.iter().zip(heads).flat_map(|(name, head)| owned(name, &head)).collect();
        if ours.is_empty() {
            return Ok(0);
        }
        let done = self.apply(&ours, 0).await?;
        Ok(done.dropped + done.voided)
    }

    /// The first bytes of what stands under names; none where that is no string, or nothing.
    async fn heads(&self, names: &[CacheKey]) -> Result<Vec<Vec<u8>>, ShardError> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let answers: Vec<Value> = match &*self.reach {
            Reach::One(links) => {
                let mut pipeline = Pipeline::with_capacity(names.len());
                names.iter().for_each(|name| {
                    pipeline.add_command(head_of(name));
                });
                links.send_all(&pipeline, names.len()).await?
            }
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => {
                let calls =
                    names.iter().map(|name| (super::cluster::slot_of(name.as_bytes()), head_of(name))).collect();
                Box::pin(cluster.send_all(calls, None)).await.into_iter().collect::<Result<_, _>>()?
            }
            #[cfg(feature = "memory")]
            Reach::Memory(server) => {
                let head = |value: Option<bytes::Bytes>| value.map(|value| value[..value.len().min(HEAD)].to_vec());
                let heads = server.get_many(names)?.into_iter().map(head);
                return Ok(heads.map(Option::unwrap_or_default).collect());
            }
        };
        let head = |answer| match answer {
            Value::BulkString(head) => Ok(head),
            Value::Nil => Ok(Vec::new()),
            Value::ServerError(error) if error.code() == "WRONGTYPE" => Ok(Vec::new()),
            Value::ServerError(error) => Err(self.rejected(&error)),
            _ => Err(ShardError::unexpected(self.name(), "GETRANGE")),
        };
        answers.into_iter().map(head).collect()
    }
}

fn head_of(name: &CacheKey) -> Cmd {
    let mut command = redis::cmd("GETRANGE");
    command.arg(name.as_bytes()).arg(0).arg(HEAD - 1);
    command
}

/// The commands that drop what stands under a name and begins so, where that is an entry, of whichever format, or the
/// lock of one.
fn owned(name: &CacheKey, head: &[u8]) -> Vec<Command> {
    let keys: Vec<CacheKey> = if head == LOCK_MAGIC {
        let rest = name.as_str().strip_prefix("lock:").unwrap_or_default();
        let untagged = rest.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let keys = std::iter::once(rest).chain(untagged).filter_map(|key| CacheKey::new(key).ok());
        // `a` and `{a}` share a lock's name.
        keys.filter(|key| key.lock() == name.as_str()).collect()
    } else if head == &MAGIC[..HEAD] {
        vec![name.clone()]
    } else {
        Vec::new()
    };
    let space = Arc::new(KeySpace::new("flush", Template::whole()));
    keys.into_iter().map(|key| Command::drop_entry(key, Arc::clone(&space))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_locks_are_told_from_what_others_keep() {
        let dropped = |name: &str, head: &[u8]| -> Vec<String> {
            owned(&CacheKey::new(name).unwrap(), head).iter().map(|command| command.key.to_string()).collect()
        };
        let entry = &MAGIC[..HEAD];
        assert_eq!(dropped("a", entry), ["a"]);
        assert!(dropped("a", b"1").is_empty());
        assert!(dropped("a", b"").is_empty());
        assert_eq!(dropped("lock:{a}", LOCK_MAGIC), ["{a}", "a"]);
        assert_eq!(dropped("lock:{u:1}:cart", LOCK_MAGIC), ["{u:1}:cart"]);
        assert!(dropped("lock:{a}", b"some").is_empty());
        assert!(dropped("a", LOCK_MAGIC).is_empty());
    }
}
