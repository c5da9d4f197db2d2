//! The audit: cached entries against their tables, by strongly consistent reads.
//!
//! An entry is read first and its item after it, so that an entry which is newer than its item does not occur. One that
//! seems stale may only be behind by the stream's lag: it is stale where it is still the same after that time.

mod conclude;
pub(crate) mod judge;
mod payload;
pub(crate) mod report;
pub(crate) mod subject;
pub(crate) mod wanted;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use bytes::Bytes;
use ringtide_core::command::Command;
use ringtide_core::config::Config;
use ringtide_core::entry::{Entry, State};
use ringtide_core::key::{CacheKey, KeySpace};
use ringtide_core::ring::ShardName;
use ringtide_core::route::{Route, Router};
use ringtide_core::valkey::ShardError;
use tokio::time::Instant;

use crate::ceiling::Ceiling;
use crate::item::{self, Item};
use crate::ring_shards::RingShards;
use crate::table::{self, PrimaryKey, TableError};

use judge::{Verdict, judge};
use report::Report;
use subject::Subject;
use wanted::{Sample, Wanted};

/// Entries that are looked at together.
const PAGE: usize = 100;
/// How long a ring shard may take to be reached.
const REACH: Duration = Duration::from_secs(5);

/// Why an audit ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuditError {
    /// A table cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
}

/// Is told how far an audit has come: what it does, how much is done, of how much.
pub(crate) type Told<'a> = &'a mut (dyn FnMut(&'static str, u64, Option<u64>) + Send);

/// An entry as it was found.
struct Found {
    shard: ShardName,
    key: CacheKey,
    space: Arc<KeySpace>,
}

/// An entry that seems stale.
struct Suspect {
    found: Found,
    bytes: Bytes,
    verdict: Verdict,
}

/// An entry that is wrong: on which ring shard, and what is sent to it.
struct Wrong {
    shard: ShardName,
    command: Command,
}

/// One run.
pub(crate) struct Audit<'a> {
    shards: &'a RingShards,
    client: &'a Client,
    ceiling: &'a Ceiling,
    wanted: &'a Wanted,
    spaces: Vec<Arc<KeySpace>>,
    subjects: BTreeMap<Arc<str>, Subject>,
    tables: BTreeMap<String, (PrimaryKey, Router)>,
    report: Report,
    wrong: Vec<Wrong>,
}

impl<'a> Audit<'a> {
    /// Prepares an audit: describes the tables and sorts the key spaces out.
    ///
    /// # Errors
    /// A table that cannot be described.
    pub(crate) async fn new(
        config: &Config,
        shards: &'a RingShards,
        client: &'a Client,
        ceiling: &'a Ceiling,
        wanted: &'a Wanted,
    ) -> Result<Self, AuditError> {
        let of =
            |space: &KeySpace| config.routes.iter().filter(|r| r.space.name == space.name).collect::<Vec<&Route>>();
        let is_wanted = |space: &&Arc<KeySpace>| {
            (wanted.spaces.is_empty() || wanted.spaces.contains(&*space.name))
                && wanted.table.as_ref().is_none_or(|table| of(space).iter().any(|route| route.table == *table))
        };
        let chosen: Vec<&Arc<KeySpace>> = config.spaces.values().filter(is_wanted).collect();
        let named: BTreeSet<&String> = chosen.iter().flat_map(|space| of(space)).map(|route| &route.table).collect();
        let (mut primaries, mut tables) = (BTreeMap::new(), BTreeMap::new());
        for name in named {
            let primary = table::describe(client, name).await?.primary;
            let routes = config.routes.iter().filter(|route| route.table == *name).cloned().collect();
            tables.insert(name.clone(), (primary.clone(), Router::new(routes)));
            primaries.insert(name.clone(), primary);
        }
        let (mut report, mut subjects) = (Report::default(), BTreeMap::new());
        for space in chosen {
            let line = report.space(&space.name);
            match subject::subject(space, &of(space), &primaries) {
                Ok(subject) => {
                    (line.table, line.basis) = (Some(subject.table.clone()), Some(subject.basis.name()));
                    subjects.insert(space.name.clone(), subject);
                }
                Err(unfit) => line.not_auditable = Some(unfit.reason),
            }
        }
        let spaces = config.spaces.values().cloned().collect();
        Ok(Self { shards, client, ceiling, wanted, spaces, subjects, tables, report, wrong: Vec::new() })
    }

    /// Looks at everything that is wanted.
    ///
    /// # Errors
    /// A table that cannot be read any more. Ring shards that cannot be reached are in the report.
    pub(crate) async fn run(mut self, told: Told<'_>) -> Result<Report, AuditError> {
        let began = Instant::now();
        for error in self.shards.ready(REACH).await {
            self.unreachable(&error);
        }
        let mut open = self.list(told).await;
        self.sample(&mut open);
        let (all, mut done) = (open.len() as u64, 0);
        let mut suspects = Vec::new();
        let mut rest = open.into_iter().peekable();
        while rest.peek().is_some() {
            let page = next_page(&mut rest);
            done += page.len() as u64;
            for suspect in self.look(page, true).await? {
                suspects.push(suspect);
            }
            told("entries", done, Some(all));
        }
        self.look_again(suspects, told).await?;
        self.repair(told).await;
        self.report.close();
        self.report.took_s = began.elapsed().as_secs_f64();
        Ok(self.report)
    }

    /// Lists the names of all wanted key spaces on every ring shard; those on one are next to each other.
    async fn list(&mut self, told: Told<'_>) -> Vec<Found> {
        let mut listed = Vec::new();
        let prefixes: BTreeSet<String> = {
            let wanted = self.spaces.iter().filter(|space| self.report.spaces.contains_key(&*space.name));
            wanted.map(|space| space.template.prefix().to_owned()).collect()
        };
        let shards = self.shards;
        for (name, shard) in shards.iter() {
            let mut seen: HashSet<String> = HashSet::new();
            for prefix in &prefixes {
                match shard.keys_at_pace(prefix, self.wanted.pause).await {
                    Ok(names) => seen.extend(names),
                    Err(error) => {
                        self.unreachable(&error);
                        break;
                    }
                }
                told("keys listed", (listed.len() + seen.len()) as u64, None);
            }
            for text in seen {
                let Some(space) = self.space_of(&text) else { continue };
                let Some(line) = self.report.spaces.get_mut(&*space.name) else { continue };
                line.listed += 1;
                if let Ok(key) = CacheKey::new(text) {
                    listed.push(Found { shard: name.clone(), key, space });
                }
            }
        }
        listed
    }

    /// The key space that renders a key; the one with the longest prefix, where several could.
    fn space_of(&self, key: &str) -> Option<Arc<KeySpace>> {
        let of_key = self.spaces.iter().filter(|space| space.template.invert(key).is_some());
        of_key.max_by_key(|space| space.template.prefix().len()).cloned()
    }

    fn sample(&self, open: &mut Vec<Found>) {
        match self.wanted.sample {
            Sample::All => {}
            Sample::Part(part) => open.retain(|_| fastrand::f64() < part),
            Sample::Count(count) => {
                let all = open.len();
                let chosen: HashSet<usize> = if count < all {
                    fastrand::choose_multiple(0..all, count).into_iter().collect()
                } else {
                    (0..all).collect()
                };
                let mut index = 0;
                open.retain(|_| {
                    index += 1;
                    chosen.contains(&(index - 1))
                });
            }
        }
    }

    /// Looks at entries of one ring shard, and returns those that seem stale; all others are counted.
    async fn look(&mut self, page: Vec<Found>, first: bool) -> Result<Vec<Suspect>, AuditError> {
        let Some(shard) = page.first().and_then(|found| self.shards.get(&found.shard)) else { return Ok(Vec::new()) };
        let keys: Vec<CacheKey> = page.iter().map(|found| found.key.clone()).collect();
        let entries = match shard.get_many(&keys).await {
            Ok(entries) => entries,
            Err(error) => {
                self.unreachable(&error);
                return Ok(Vec::new());
            }
        };
        let mut read = Vec::new();
        for (found, bytes) in page.into_iter().zip(entries) {
            let space = &*found.space.name;
            let line = self.report.space(space);
            line.looked_at += u64::from(first);
            let Some(bytes) = bytes else {
                line.gone += 1;
                continue;
            };
            let Ok(entry) = Entry::parse(&bytes) else {
                line.foreign += 1;
                continue;
            };
            let served = matches!(entry.header.state, State::Value | State::Negative);
            let owner = self.shards.owner_name(found.key.as_str());
            if served && *owner != found.shard {
                line.misplaced += 1;
                let what = format!("it is owned by {owner}");
                self.report.example(found.key.as_str(), found.shard.as_str(), &what);
                self.wrong.push(Wrong { shard: found.shard, command: Command::drop_entry(found.key, found.space) });
                continue;
            }
            if self.subjects.contains_key(&found.space.name) {
                read.push((found, bytes, entry));
            } else {
                line.count(&Verdict::Unjudged("its key space is not auditable"));
            }
        }
        let items = self.items(&read).await?;
        let mut suspects = Vec::new();
        for (found, bytes, entry) in read {
            let verdict = self.judge(&found, &entry, &items);
            match verdict {
                Verdict::Stale { .. } => suspects.push(Suspect { found, bytes, verdict }),
                verdict => self.report.space(&found.space.name).count(&verdict),
            }
        }
        Ok(suspects)
    }

    /// Reads the items of entries, table by table, at the rate.
    async fn items(
        &self,
        read: &[(Found, Bytes, Entry)],
    ) -> Result<BTreeMap<String, BTreeMap<String, Item>>, AuditError> {
        let mut keys: BTreeMap<&str, Vec<Item>> = BTreeMap::new();
        for (found, _, entry) in read {
            let Some(subject) = self.subjects.get(&found.space.name) else { continue };
            let needed = matches!(entry.header.state, State::Value | State::Negative);
            if let (true, Some(key)) = (needed, subject.item_key(found.key.as_str())) {
                keys.entry(&subject.table).or_default().push(key);
            }
        }
        let mut items = BTreeMap::new();
        for (table, keys) in keys {
            let Some((primary, _)) = self.tables.get(table) else { continue };
            self.ceiling.take(keys.len()).await;
            items.insert(table.to_owned(), table::read(self.client, table, primary, &keys).await?);
        }
        Ok(items)
    }

    fn judge(&self, found: &Found, entry: &Entry, items: &BTreeMap<String, BTreeMap<String, Item>>) -> Verdict {
        const NO_ITEM: Verdict = Verdict::Unjudged("its key leads to no item");
        let key = found.key.as_str();
        let Some(subject) = self.subjects.get(&found.space.name) else { return NO_ITEM };
        let (Some(item_key), Some((primary, router))) = (subject.item_key(key), self.tables.get(&subject.table)) else {
            return NO_ITEM;
        };
        let Some(identity) = primary.identity(&item_key) else { return NO_ITEM };
        let item = items.get(&subject.table).and_then(|items| items.get(&identity));
        let item = item.filter(|item| subject.is_key_of(key, item));
        let commands = item.map(|item| item::commands(router, &subject.table, primary.names(), item));
        let of_entry = |command: &&Command| command.key == found.key && command.space.name == found.space.name;
        let expected = commands.iter().flatten().find(of_entry);
        judge(subject, entry, item, expected, &self.wanted.ignored)
    }

    fn unreachable(&mut self, error: &ShardError) {
        let text = error.to_string();
        if !self.report.unreachable.contains(&text) {
            self.report.unreachable.push(text);
        }
    }
}

/// Takes the next entries that are on one ring shard.
fn next_page(rest: &mut std::iter::Peekable<std::vec::IntoIter<Found>>) -> Vec<Found> {
    let mut page: Vec<Found> = Vec::new();
    while page.len() < PAGE
        && let Some(found) = rest.next_if(|next| page.first().is_none_or(|first| first.shard == next.shard))
    {
        page.push(found);
    }
    page
}
