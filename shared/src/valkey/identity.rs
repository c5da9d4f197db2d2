//! Which servers stand behind a ring shard, and what others in their place may lack of what these acknowledged.
//!
//! A server's data go back to another one's where it was its replica: it names that one's history and how far it had
//! followed it. Any other server that was not there before has data from somewhere: none, or those of a file.

use redis::{Cmd, Value};
use tokio::time::Instant;

use super::{Reach, Shard, ShardError};

/// The servers of a ring shard, as they describe themselves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// Without repetition.
    servers: Vec<Server>,
    /// They share the keys, so that one may go without being replaced.
    cluster: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Server {
    /// New for every start of a server.
    run_id: String,
    /// The history that its data follow, and how far.
    history: String,
    offset: u64,
    /// The history that it followed before, and the offset from which it did not any more.
    before: Option<(String, u64)>,
}

/// What a ring shard may have lost of what it acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    Nothing,
    /// Something of what was acknowledged after this moment.
    Since(Instant),
    /// Anything.
    Unknown,
}

impl Loss {
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => Self::Unknown,
            (Self::Nothing, loss) | (loss, Self::Nothing) => loss,
            (Self::Since(a), Self::Since(b)) => Self::Since(a.min(b)),
        }
    }
}

impl Servers {
    /// Reads the sections `server` and `replication` of each server's `INFO`; `None` where they do not say enough, or one
    /// of them is a replica just now.
    #[must_use]
    pub fn read(infos: &[String], cluster: bool) -> Option<Self> {
        let mut servers = infos.iter().map(|info| Server::read(info)).collect::<Option<Vec<_>>>()?;
        servers.sort_by(|a, b| a.run_id.cmp(&b.run_id));
        servers.dedup_by(|a, b| a.run_id == b.run_id);
        (!servers.is_empty()).then_some(Self { servers, cluster })
    }

    /// Finds what these servers may lack of what was acknowledged before; `seen` are the earlier looks, oldest first,
    /// each with the moment before it was asked for.
    #[must_use]
    pub fn loss<'a>(&self, seen: impl DoubleEndedIterator<Item = &'a (Instant, Servers)> + Clone) -> Loss {
        let Some((_, last)) = seen.clone().next_back() else { return Loss::Nothing };
        let mut loss = Loss::Nothing;
        for server in &self.servers {
            loss = loss.or(server.loss(last, seen.clone()));
        }
        let gone = |known: &&Server| self.servers.iter().all(|server| server.run_id != known.run_id);
        // Two at once, of which one has gone: the other has not heard of what that one acknowledged last.
        if loss == Loss::Nothing && !self.cluster && last.servers.iter().any(|known| gone(&known)) {
            loss = Loss::Unknown;
        }
        loss
    }
}

impl Server {
    fn read(info: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = info.lines();
            lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
        };
        if field("role")? != "master" {
            return None;
        }
        let before = field("master_replid2").filter(|id| id.bytes().any(|byte| byte != b'0'));
        let until = field("second_repl_offset").and_then(|offset| offset.parse().ok());
        Some(Self {
            run_id: field("run_id")?.to_owned(),
            history: field("master_replid")?.to_owned(),
            offset: field("master_repl_offset")?.parse().ok()?,
            before: before.map(str::to_owned).zip(until),
        })
    }

    fn loss<'a>(&self, last: &Servers, seen: impl DoubleEndedIterator<Item = &'a (Instant, Servers)>) -> Loss {
        // With its first replica a server begins a history that has no forerunner; its data go on.
        let same =
            |known: &Server| known.run_id == self.run_id && (known.history == self.history || self.before.is_none());
        if last.servers.iter().any(same) {
            return Loss::Nothing;
        }
        let Some((history, until)) = &self.before else { return Loss::Unknown };
        let covered =
            |servers: &Servers| servers.servers.iter().any(|known| known.history == *history && known.offset < *until);
        seen.rev().find(|(_, servers)| covered(servers)).map_or(Loss::Unknown, |(at, _)| Loss::Since(*at))
    }
}

impl Shard {
    /// Asks every server of the ring shard, over every connection, which one it is; `None` where they do not tell.
    ///
    /// # Errors
    /// [`ShardError`].
    pub async fn servers(&self) -> Result<Option<Servers>, ShardError> {
        let mut info = redis::cmd("INFO");
        info.arg("server").arg("replication");
        let (answers, cluster) = match &*self.reach {
            Reach::One(links) => (links.ask_each(&info).await?, false),
            #[cfg(feature = "cluster")]
            Reach::Cluster(cluster) => (cluster.ask_all(&info).await?, true),
            #[cfg(feature = "memory")]
            Reach::Memory(server) => (vec![server.ask(&info)?], false),
        };
        let text = |answer| match answer {
            Value::VerbatimString { text, .. } => Some(text),
            Value::BulkString(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            _ => None,
        };
        let infos: Option<Vec<_>> = answers.into_iter().map(text).collect();
        Ok(infos.and_then(|infos| Servers::read(&infos, cluster)))
    }

    /// A number that changes whenever a connection to a single server is made; always the same for a cluster.
    #[must_use]
    pub fn connects(&self) -> u64 {
        match &*self.reach {
            Reach::One(links) => links.connects(),
            #[cfg(feature = "cluster")]
            Reach::Cluster(_) => 0,
            #[cfg(feature = "memory")]
            Reach::Memory(_) => 0,
        }
    }

    /// Waits until `count` replicas have everything that the server has acknowledged so far, to whomever.
    ///
    /// # Errors
    /// [`ShardError::Rejected`] with `NOREPLICAS` where they do not have it `within` that time, which has to be shorter than
    /// the command time-out; for a cluster always.
    pub async fn replicated(&self, count: u32, within: std::time::Duration) -> Result<(), ShardError> {
        let refused = |text: String| ShardError::Rejected {
            shard: self.name().clone(),
            code: "NOREPLICAS".into(),
            text: text.into(),
        };
        let links = match &*self.reach {
            Reach::One(links) => links,
            #[cfg(feature = "cluster")]
            Reach::Cluster(_) => return Err(refused("replicas of a cluster cannot be waited for".to_owned())),
            #[cfg(feature = "memory")]
            Reach::Memory(_) => return Err(refused("a server in memory has no replicas".to_owned())),
        };
        // A connection waits for what it wrote itself; what it publishes is written after everything that was
        // acknowledged before, over whichever connection.
        let mut pipeline = redis::Pipeline::with_capacity(2);
        pipeline.add_command(published()).cmd("WAIT").arg(count).arg(super::lease::millis(within).max(1));
        let mut answers = links.send_all(&pipeline, 2).await?;
        match (answers.pop(), answers.pop()) {
            (Some(Value::ServerError(error)), _) | (_, Some(Value::ServerError(error))) => Err(links.rejected(&error)),
            (Some(Value::Int(have)), _) if have >= i64::from(count) => Ok(()),
            (Some(Value::Int(have)), _) => Err(refused(format!("{have} of {count} replicas have what was written"))),
            _ => Err(ShardError::unexpected(self.name(), "WAIT")),
        }
    }
}

fn published() -> Cmd {
    let mut command = redis::cmd("PUBLISH");
    command.arg("ringtide:inbox:replicas").arg("");
    command
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn server(run_id: &str, history: &str, offset: u64, before: Option<(&str, u64)>) -> String {
        let (replid2, second) =
            before.map_or(("0".repeat(40), "-1".to_owned()), |(id, at)| (id.into(), at.to_string()));
        format!(
            "# Server\r\nrun_id:{run_id}\r\n# Replication\r\nrole:master\r\nmaster_replid:{history}\r\n\
             master_replid2:{replid2}\r\nmaster_repl_offset:{offset}\r\nsecond_repl_offset:{second}\r\n"
        )
    }

    fn of(servers: &[String]) -> Servers {
        Servers::read(servers, false).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_be_lost_follows_from_where_the_data_come() {
        let t: Vec<_> = (0..3).map(|n| Instant::now() + Duration::from_secs(n)).collect();
        let seen = [
            (t[0], of(&[server("a", "A", 10, None)])),
            (t[1], of(&[server("a", "A", 20, None)])),
            (t[2], of(&[server("a", "A", 30, None)])),
        ];
        // now, what may be lost
        let table = [
            (vec![server("a", "A", 40, None)], Loss::Nothing),
            (vec![server("a", "X", 0, None)], Loss::Nothing),
            (vec![server("b", "B", 31, Some(("A", 31)))], Loss::Since(t[2])),
            (vec![server("b", "B", 30, Some(("A", 30)))], Loss::Since(t[1])),
            (vec![server("b", "B", 12, Some(("A", 12)))], Loss::Since(t[0])),
            (vec![server("b", "B", 10, Some(("A", 10)))], Loss::Unknown),
            (vec![server("b", "B", 50, Some(("C", 50)))], Loss::Unknown),
            (vec![server("b", "B", 0, None)], Loss::Unknown),
            // Demoted, filled with another's data, and promoted.
            (vec![server("a", "C", 40, Some(("B", 40)))], Loss::Unknown),
            (vec![server("a", "A", 40, None), server("b", "B", 40, Some(("A", 22)))], Loss::Since(t[1])),
        ];
        for (row, (now, expected)) in table.into_iter().enumerate() {
            assert_eq!(of(&now).loss(seen.iter()), expected, "row {row}");
        }
        assert_eq!(of(&[server("a", "A", 1, None)]).loss([].iter()), Loss::Nothing);
    }

    #[tokio::test(start_paused = true)]
    async fn a_primary_that_vanishes_beside_another_may_take_what_it_acknowledged_with_it() {
        let (a, b) = (server("a", "A", 40, None), server("b", "B", 40, Some(("A", 22))));
        let seen = |cluster| [(Instant::now(), Servers::read(&[a.clone(), b.clone()], cluster).unwrap())];
        assert_eq!(of(std::slice::from_ref(&b)).loss(seen(false).iter()), Loss::Unknown);
        // The masters of a cluster share its keys, and one whose slots have moved may go.
        let left = Servers::read(std::slice::from_ref(&b), true).unwrap();
        assert_eq!(left.loss(seen(true).iter()), Loss::Nothing);
    }

    #[test]
    fn a_replica_and_a_server_that_says_too_little_are_not_judged() {
        let replica = server("a", "A", 1, None).replace("role:master", "role:slave");
        assert_eq!(Servers::read(&[replica], false), None);
        assert_eq!(Servers::read(&["run_id:x\r\n".to_owned()], false), None);
        assert_eq!(Servers::read(&[], false), None);
    }
}
