//! Removing what this product keeps under any name, on servers that hold what is others' as well.

use std::time::Duration;

use redis::{Cmd, Pipeline, ServerError, Value};

use super::flush::{LOCKS, Walk};
use super::{LOCK_MAGIC, Reach, Shard, ShardError};
use crate::entry::MAGIC;

/// How many bytes of a value tell whose it is: an entry's before its format's version, or a lock's.
const HEAD: usize = 4;

impl Shard {
    /// Unlinks every entry and every lease, whatever their names, a page of names at a time with a `pause` between pages;
    /// returns how many were unlinked. Of what others keep, only the first bytes are read; what this user may not read is theirs.
    ///
    /// As with [`Shard::flush`], which is quicker for those whose keys begin alike, locks go first, so that no lease that
    /// was taken before the call can store anything after it; waiters are not told and find out by their own deadlines.
    ///
    /// # Errors
    /// [`ShardError`]: a part was unlinked, and the whole is to be tried again.
    pub async fn purge(&self, pause: Duration) -> Result<u64, ShardError> {
        let locks = self.purge_what(&format!("{LOCKS}*"), LOCK_MAGIC, pause).await?;
        Ok(locks + self.purge_what("*", &MAGIC[..HEAD], pause).await?)
    }

    /// Unlinks whatever matches and begins with `magic`.
    async fn purge_what(&self, pattern: &str, magic: &[u8], pause: Duration) -> Result<u64, ShardError> {
        match &*self.reach {
            Reach::One(links) => {
                let mut unlinked = 0;
                let mut walk = Walk::new(links, pattern, pause)?;
                while let Some(names) = walk.next().await? {
                    if names.is_empty() {
                        // The client does not take a pipeline of nothing.
                        continue;
                    }
                    let mut heads = Pipeline::with_capacity(names.len());
                    names.iter().for_each(|name| {
                        heads.add_command(head_of(name));
                    });
                    let heads = links.send_all_by(&walk.live, &heads, names.len()).await?;
                    unlinked += walk.unlink(self.ours(&names, heads, magic)?).await?;
                }
                Ok(unlinked)
            }
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => {
                let page = async |names: Vec<Vec<u8>>| {
                    let calls = names.iter().map(|name| (super::cluster::slot_of(name), head_of(name))).collect();
                    let heads = cluster.send_all(calls, None).await.into_iter().collect::<Result<_, _>>()?;
                    cluster.unlink_each(self.ours(&names, heads, magic)?.into_iter()).await
                };
                cluster.each_page(pattern, pause, page).await
            }
            #[cfg(feature = "memory")]
            Reach::Memory(server) => server.purge(magic),
        }
    }

    /// The names of a page under which stands what begins with `magic`.
    fn ours<'a>(&self, names: &'a [Vec<u8>], heads: Vec<Value>, magic: &[u8]) -> Result<Vec<&'a Vec<u8>>, ShardError> {
        let mut ours = Vec::new();
        for (name, head) in names.iter().zip(heads) {
            match head {
                Value::BulkString(head) if head == magic => ours.push(name),
                Value::BulkString(_) | Value::Nil => {}
                Value::ServerError(error) if error.code() == "WRONGTYPE" || is_about_a_key(&error) => {}
                Value::ServerError(error) => return Err(self.rejected(&error)),
                _ => return Err(ShardError::unexpected(self.name(), "GETRANGE")),
            }
        }
        Ok(ours)
    }
}

fn head_of(name: &[u8]) -> Cmd {
    let mut command = redis::cmd("GETRANGE");
    command.arg(name).arg(0).arg(HEAD - 1);
    command
}

/// Whether a user may not touch a name, though the command itself is allowed: `SCAN` tells all names to everybody.
fn is_about_a_key(error: &ServerError) -> bool {
    error.code() == "NOPERM" && error.details().is_some_and(|text| text.contains("to access"))
}
