//! Carrying out batches of commands.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use redis::Cmd;

use super::lease::millis;
use super::reply::Fields;
use super::{Shard, ShardError, script};
use crate::command::{Action, Command, Image};
use crate::entry::{Codec, Entry, Header, State};
use crate::key::{KeySpace, Mode};
use crate::version::Version;

/// The most keys of one script call: a longer one holds up the shard's readers.
pub const BATCH: usize = 200;

/// What became of the commands of a batch: each is counted once, voided leases besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Nothing was cached.
    pub absent: u64,
    /// The entry was dropped, or replaced by a tombstone.
    pub dropped: u64,
    /// The entry was marked stale and kept.
    pub marked: u64,
    /// The entry was new enough.
    pub older: u64,
    /// The new image was stored.
    pub refreshed: u64,
    /// The refresh came after its deadline and was carried out as an invalidation.
    pub late: u64,
    /// Leases that were taken away.
    pub voided: u64,
}

impl AddAssign for Applied {
    fn add_assign(&mut self, other: Self) {
        self.absent += other.absent;
        self.dropped += other.dropped;
        self.marked += other.marked;
        self.older += other.older;
        self.refreshed += other.refreshed;
        self.late += other.late;
        self.voided += other.voided;
    }
}

impl Shard {
    /// Carries out commands, at most [`BATCH`] keys a script; the commands of one batch have no order among them.
    ///
    /// Refreshes are not stored past `deadline_ms` of the server's clock (unix ms; 0 for no deadline).
    ///
    /// # Errors
    /// [`ShardError`]: any part may have been carried out, and the whole batch is to be tried again.
    pub async fn apply(&self, commands: &[Command], deadline_ms: u64) -> Result<Applied, ShardError> {
        let mut plain = Vec::new();
        // By what one call of the script has in common; there are hardly ever more than one or two.
        let mut compared: BTreeMap<(bool, u32), Vec<(&Command, Version)>> = BTreeMap::new();
        let mut refreshed = Vec::new();
        for command in commands {
            match &command.action {
                Action::Invalidate { version } => {
                    let version = comparable(command, *version);
                    if version.is_none() && !command.space.keep_stale {
                        plain.push(command);
                    } else {
                        let common = (command.space.keep_stale, tombstone_ms(&command.space));
                        compared.entry(common).or_default().push((command, version));
                    }
                }
                Action::Refresh { version, image, populate } => {
                    refreshed.push((command, Refresh { version: *version, image, populate: *populate }));
                }
            }
        }
        // Collected one by one: as closures over chunks the calls would not be general enough to be boxed as `Send`.
        let mut calls: Vec<BoxFuture<'_, Result<Applied, ShardError>>> = Vec::new();
        for chunk in plain.chunks(BATCH) {
            calls.push(self.invalidate_set(chunk).boxed());
        }
        for (&(keep_stale, tombstone_ms), alike) in &compared {
            for chunk in alike.chunks(BATCH) {
                calls.push(self.invalidate_loop(chunk, keep_stale, tombstone_ms).boxed());
            }
        }
        for chunk in refreshed.chunks(BATCH) {
            calls.push(self.refresh(chunk, deadline_ms).boxed());
        }
        let answers: Vec<_> = stream::iter(calls).buffer_unordered(IN_FLIGHT).collect().await;
        let mut applied = Applied::default();
        for answer in answers {
            applied += answer?;
        }
        Ok(applied)
    }

    async fn invalidate_set(&self, commands: &[&Command]) -> Result<Applied, ShardError> {
        let answer = self.links.run(&script::INVALIDATE_SET, |call| {
            names(call, commands.iter().copied());
        });
        let read = Fields::of(answer.await?).and_then(|mut fields| Some((fields.number()?, fields.number()?)));
        let (dropped, voided) = read.ok_or_else(|| self.unexpected(&script::INVALIDATE_SET))?;
        let absent = (commands.len() as u64).saturating_sub(dropped);
        Ok(Applied { absent, dropped, voided, ..Applied::default() })
    }

    async fn invalidate_loop(
        &self,
        commands: &[(&Command, Version)],
        keep_stale: bool,
        tombstone_ms: u32,
    ) -> Result<Applied, ShardError> {
        let answer = self.links.run(&script::INVALIDATE_LOOP, |call| {
            names(call, commands.iter().map(|(command, _)| *command));
            call.arg(u8::from(keep_stale)).arg(tombstone_ms);
            for (_, version) in commands {
                call.arg(version.as_bytes());
            }
        });
        let read = Fields::of(answer.await?).and_then(|mut fields| {
            Some(Applied {
                absent: fields.number()?,
                dropped: fields.number()?,
                marked: fields.number()?,
                older: fields.number()?,
                voided: fields.number()?,
                ..Applied::default()
            })
        });
        read.ok_or_else(|| self.unexpected(&script::INVALIDATE_LOOP))
    }

    async fn refresh(&self, commands: &[(&Command, Refresh<'_>)], deadline_ms: u64) -> Result<Applied, ShardError> {
        let calls: Vec<Cmd> = commands
            .iter()
            .map(|(command, refresh)| {
                let (entry, ttl) = refresh.entry(&command.space);
                script::REFRESH.call(|call| {
                    names(call, std::iter::once(*command));
                    call.arg(refresh.version.as_bytes()).arg(deadline_ms).arg(u8::from(refresh.populate));
                    call.arg(millis(ttl)).arg(&entry[..]).arg(INLINE_MAX).arg(tombstone_ms(&command.space));
                })
            })
            .collect();
        let mut applied = Applied::default();
        for answer in self.links.run_all(&script::REFRESH, calls).await? {
            let read = Fields::of(answer).and_then(|mut fields| Some((fields.tag()?, fields.number()?)));
            let count = match read {
                Some((b'R', _)) => &mut applied.refreshed,
                Some((b'O', _)) => &mut applied.older,
                Some((b'L', _)) => &mut applied.late,
                Some((b'A', _)) => &mut applied.absent,
                Some((b'D', _)) => &mut applied.dropped,
                _ => return Err(self.unexpected(&script::REFRESH)),
            };
            *count += 1;
            applied.voided += read.map_or(0, |(_, voided)| voided);
        }
        Ok(applied)
    }
}

/// Script calls of one batch that are under way at once.
const IN_FLIGHT: usize = 4;

/// The longest refreshed entry, in bytes, that travels in the notices to waiters.
const INLINE_MAX: usize = 8 * 1024;

struct Refresh<'a> {
    version: Version,
    image: &'a Image,
    populate: bool,
}

impl Refresh<'_> {
    fn entry(&self, space: &KeySpace) -> (Bytes, Duration) {
        let (header, payload) = match self.image {
            Image::Json(json) => (Header::value(Codec::Json), json.clone()),
            Image::Deleted => (Header::negative(), Bytes::new()),
        };
        let ttl = space.jittered_ttl(header.state == State::Negative, fastrand::f64());
        let header = Header { version: self.version, floor: self.version, ..header };
        (Entry { header, payload }.to_bytes(), ttl)
    }
}

/// The version to compare by: none outside versioned key spaces, whose keys more than one item may feed.
fn comparable(command: &Command, version: Version) -> Version {
    match command.space.mode {
        Mode::Versioned { .. } => version,
        Mode::Plain | Mode::Settle { .. } => Version::NONE,
    }
}

fn tombstone_ms(space: &KeySpace) -> u32 {
    match space.mode {
        Mode::Versioned { tombstone: Some(ttl), .. } => u32::try_from(millis(ttl)).unwrap_or(u32::MAX),
        _ => 0,
    }
}

/// Adds the number of names, the entries' names and then their locks' names.
fn names<'a>(call: &mut Cmd, commands: impl ExactSizeIterator<Item = &'a Command> + Clone) {
    call.arg(commands.len() * 2);
    for command in commands.clone() {
        call.arg(command.key.as_bytes());
    }
    for command in commands {
        call.arg(command.key.lock());
    }
}
