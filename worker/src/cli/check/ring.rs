//! The ring shards: whether each can be reached and is such a server as the scripts need, and what may be lost on it.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use ringtide_core::clock::unix_ms;
use ringtide_core::config::Config;
use ringtide_core::valkey::{Shard, ShardError};

use super::super::ring::connect;
use super::Finding;

/// How long a ring shard may take to be reached.
const REACHED_WITHIN: Duration = Duration::from_secs(5);

/// The version of the protocol that scripts need, as servers of either name tell it: `PEXPIRE` with `LT`.
const NEEDED: [u64; 2] = [7, 0];

/// The difference of clocks past which deadlines of refreshes and ages are told wrong, beside what asking takes.
const CLOCKS: u64 = 1000;

/// What a server says about itself, field by field.
type Info<'a> = BTreeMap<&'a str, &'a str>;

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let shards = match connect(config) {
        Ok(shards) => shards,
        // What is wrong was logged.
        Err(_) => {
            return vec![Finding::error(
                "ring.shards",
                "not all of them can be connected to as configured",
                "see the log",
            )];
        }
    };
    join_all(shards.iter().map(one)).await.concat()
}

async fn one(shard: &Shard) -> Vec<Finding> {
    let place = format!("ring shard {}", shard.name());
    match ask(shard).await {
        Ok((text, asked_ms, answered_ms)) => {
            servers(&text).iter().flat_map(|info| judge(&place, info, asked_ms, answered_ms)).collect()
        }
        Err(error @ ShardError::Rejected { .. }) => {
            vec![Finding::error(place, error.to_string(), "allow the user what docs/iam.md lists, `info` among it")]
        }
        Err(error) => {
            vec![Finding::error(place, error.to_string(), "check its address, [valkey], the network and the login")]
        }
    }
}

/// Asks for what is judged, and tells when the clock was asked and when it answered.
async fn ask(shard: &Shard) -> Result<(String, u64, u64), ShardError> {
    shard.ready(REACHED_WITHIN).await?;
    shard.ping().await?;
    let asked_ms = unix_ms();
    let text = shard.info("everything").await?;
    Ok((text, asked_ms, unix_ms()))
}

/// The servers of a text, one after another: those of a cluster's masters.
fn servers(text: &str) -> Vec<Info<'_>> {
    let mut servers = Vec::new();
    for line in text.lines().map(str::trim) {
        if line == "# Server" {
            servers.push(Info::new());
        }
        if let (Some(info), Some((name, value))) = (servers.last_mut(), line.split_once(':')) {
            info.insert(name, value);
        }
    }
    servers
}

/// What is wrong with a server. Pure; what it does not tell is not judged.
fn judge(place: &str, info: &Info<'_>, asked_ms: u64, answered_ms: u64) -> Vec<Finding> {
    let mut findings = Vec::new();
    let number = |name: &str| info.get(name).and_then(|value| value.parse::<u64>().ok());
    if let Some(version) = info.get("redis_version")
        && version_of(version) < NEEDED.to_vec()
    {
        let [major, minor] = NEEDED;
        let finding = format!("the server speaks as version {version}, and scripts need {major}.{minor}");
        findings.push(Finding::error(place, finding, "use Valkey 7.2 or later"));
    }
    if info.get("role").is_some_and(|role| *role != "master") {
        findings.push(Finding::error(place, "the server is a replica, which takes no writes", "name the primary"));
    }
    if info.get("loading").is_some_and(|loading| *loading == "1") {
        findings.push(Finding::error(place, "the server is still loading its data", "wait, or turn persistence off"));
    }
    if number("maxmemory") == Some(0) {
        let remedy = "set maxmemory, and a policy such as allkeys-lru";
        findings.push(Finding::warning(place, "its memory has no limit of the server's own", remedy));
    } else if info.get("maxmemory_policy").is_some_and(|policy| *policy == "noeviction") {
        let remedy = "set a policy such as allkeys-lru; entries may be evicted at any time";
        findings.push(Finding::warning(place, "it refuses to store once its memory is full (noeviction)", remedy));
    }
    if number("aof_enabled") == Some(1) || number("rdb_saves").is_some_and(|saves| saves > 0) {
        let finding =
            "it keeps its data on disk: after a crash it comes back with entries whose invalidations it has lost";
        findings.push(Finding::warning(place, finding, "turn persistence off (save \"\", appendonly no)"));
    }
    if let Some(replicas) = number("connected_slaves").filter(|replicas| *replicas > 0) {
        let finding = format!("it has {replicas} replicas: one that takes over may lack the last invalidations");
        findings.push(Finding::note(place, finding));
    }
    if let Some(time_ms) = number("server_time_usec").map(|us| us / 1000) {
        // It was read somewhere between the question and the answer.
        let (ahead, behind) = (time_ms.saturating_sub(answered_ms), asked_ms.saturating_sub(time_ms));
        if ahead.max(behind) > CLOCKS {
            let (by, which) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
            let finding = format!("its clock is {:.1} s {which} this machine's", by as f64 / 1000.0);
            findings.push(Finding::warning(place, finding, "synchronise both clocks (NTP)"));
        }
    }
    findings
}

/// The numbers of a version, as far as they are numbers.
fn version_of(text: &str) -> Vec<u64> {
    text.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::Severity;

    const WELL: &str = "# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.0.1\r\nserver_time_usec:5000000\r\n# Memory\r\n\
                        maxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\n# Persistence\r\nloading:0\r\naof_enabled:0\r\n\
                        rdb_saves:0\r\n# Replication\r\nrole:master\r\nconnected_slaves:0\r\n";

    fn judged(text: &str) -> Vec<(Severity, String)> {
        let found = servers(text).iter().flat_map(|info| judge("a", info, 4_900, 5_100)).collect::<Vec<_>>();
        found.into_iter().map(|finding| (finding.severity, finding.finding)).collect()
    }

    #[test]
    fn each_weakness_is_found_and_nothing_else() {
        assert_eq!(judged(WELL), []);
        for (from, to, severity, word) in [
            ("redis_version:7.2.4", "redis_version:6.2.14", Severity::Error, "6.2.14"),
            ("role:master", "role:slave", Severity::Error, "replica"),
            ("loading:0", "loading:1", Severity::Error, "loading"),
            ("maxmemory:1000", "maxmemory:0", Severity::Warning, "no limit"),
            ("allkeys-lru", "noeviction", Severity::Warning, "noeviction"),
            ("aof_enabled:0", "aof_enabled:1", Severity::Warning, "disk"),
            ("rdb_saves:0", "rdb_saves:3", Severity::Warning, "disk"),
            ("connected_slaves:0", "connected_slaves:2", Severity::Note, "2 replicas"),
            ("time_usec:5000000", "time_usec:8000000", Severity::Warning, "2.9 s ahead of"),
            ("time_usec:5000000", "time_usec:2000000", Severity::Warning, "2.9 s behind"),
        ] {
            let found = judged(&WELL.replace(from, to));
            assert!(
                matches!(found.as_slice(), [(s, text)] if *s == severity && text.contains(word)),
                "{to}: {found:?}"
            );
        }
    }

    #[test]
    fn every_master_of_a_cluster_is_judged_and_what_is_not_told_is_not() {
        let cluster = format!("{WELL}{}", WELL.replace("role:master", "role:slave"));
        assert_eq!(judged(&cluster).len(), 1);
        assert_eq!(judged("# Server\r\nrun_id:1\r\n"), []);
    }
}
