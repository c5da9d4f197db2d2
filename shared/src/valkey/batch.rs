//! The script calls that a batch of commands is made of: what they are given, and what they answer.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, RedisWrite, Value};

use super::apply::Applied;
use super::lease::millis;
use super::reply::Fields;
use super::script::{self, Script};
use crate::clock::unix_ms;
use crate::command::{Command, Image};
use crate::entry::{Codec, Entry, Header, State};
use crate::key::{Chosen, KeySpace, Mode};
use crate::version::Version;

/// The longest refreshed entry, in bytes, that travels in the notices to waiters.
const INLINE_MAX: usize = 8 * 1024;

/// One call of a script.
pub(super) enum Call<'a> {
    /// Drops entries and takes their leases away.
    Set(&'a [&'a Command]),
    /// Compares versions, or keeps values as stale.
    Loop { commands: &'a [(&'a Command, Version)], keep_ms: u64, tombstone_ms: u32 },
    /// Stores a new image.
    Refresh { command: &'a Command, refresh: &'a Refresh<'a>, deadline_ms: u64 },
}

/// Until when a refresh that is sent now may be stored, by the server's clock in unix ms.
///
/// Past the command time-out the attempt counts as failed and is made again. Carried out only after that one, when a
/// newer image may have come and gone, it would bring an old one back.
pub(super) fn attempt_deadline(deadline_ms: u64, command_timeout: Duration) -> u64 {
    let given_up_at = unix_ms().saturating_add(millis(command_timeout));
    if deadline_ms == 0 { given_up_at } else { deadline_ms.min(given_up_at) }
}

/// A new image for an entry.
pub(super) struct Refresh<'a> {
    pub(super) version: Version,
    pub(super) image: &'a Image,
    pub(super) populate: bool,
}

impl<'a> Call<'a> {
    /// The commands, with the versions that they are compared by.
    #[cfg(feature = "cluster")]
    pub(super) fn commands(&self) -> Vec<(&'a Command, Version)> {
        match self {
            Call::Set(commands) => commands.iter().map(|command| (*command, Version::NONE)).collect(),
            Call::Loop { commands, .. } => commands.to_vec(),
            Call::Refresh { command, refresh, .. } => vec![(*command, refresh.version)],
        }
    }

    pub(super) fn script(&self) -> &'static Script {
        match self {
            Call::Set(_) => &script::INVALIDATE_SET,
            Call::Loop { .. } => &script::INVALIDATE_LOOP,
            Call::Refresh { .. } => &script::REFRESH,
        }
    }

    /// Adds the names and the arguments.
    pub(super) fn write(&self, call: &mut Cmd) {
        match self {
            Call::Set(commands) => names(call, commands.iter().copied()),
            Call::Loop { commands, keep_ms, tombstone_ms } => {
                names(call, commands.iter().map(|(command, _)| *command));
                call.arg(*keep_ms).arg(*tombstone_ms);
                for (_, version) in *commands {
                    call.arg(version.as_bytes());
                }
            }
            Call::Refresh { command, refresh, deadline_ms } => {
                let (entry, ttl) = image_entry(refresh.image, &command.space, refresh.version);
                names(call, std::iter::once(*command));
                call.arg(refresh.version.as_bytes()).arg(*deadline_ms).arg(u8::from(refresh.populate));
                call.arg(millis(ttl)).arg(&entry[..]).arg(INLINE_MAX).arg(tombstone_ms(&command.space));
            }
        }
    }

    /// Reads what became of the commands.
    pub(super) fn read(&self, answer: Value) -> Option<Applied> {
        let mut fields = Fields::of(answer)?;
        match self {
            Call::Set(commands) => {
                let (dropped, voided) = (fields.number()?, fields.number()?);
                let absent = (commands.len() as u64).saturating_sub(dropped);
                Some(Applied { absent, dropped, voided, ..Applied::default() })
            }
            Call::Loop { .. } => Some(Applied {
                absent: fields.number()?,
                dropped: fields.number()?,
                marked: fields.number()?,
                older: fields.number()?,
                voided: fields.number()?,
                ..Applied::default()
            }),
            Call::Refresh { .. } => {
                let mut applied = Applied::default();
                *match fields.tag()? {
                    b'R' => &mut applied.refreshed,
                    b'O' => &mut applied.older,
                    b'L' => &mut applied.late,
                    b'A' => &mut applied.absent,
                    b'D' => &mut applied.dropped,
                    _ => return None,
                } += 1;
                applied.voided = fields.number()?;
                Some(applied)
            }
        }
    }
}

/// The whole entry that a new image is stored as from now on, and how long it lives.
#[must_use]
pub fn image_entry(image: &Image, space: &KeySpace, version: Version) -> (Bytes, Duration) {
    let (header, payload) = match image {
        Image::Json(json) => (Header::value(Codec::Json), json.clone()),
        Image::Deleted => (Header::negative(), Bytes::new()),
    };
    let life = space.lifetime(Chosen::default(), header.state == State::Negative, unix_ms(), fastrand::f64());
    let header = Header { version, floor: version, soft_expiry_ms: life.soft_expiry_ms, ..header };
    (Entry { header, payload }.to_bytes(), life.ttl)
}

/// The version to compare by: none outside versioned key spaces, whose keys more than one item may feed.
pub(super) fn comparable(command: &Command, version: Version) -> Version {
    match command.space.mode {
        Mode::Versioned { .. } => version,
        Mode::Plain | Mode::Settle { .. } => Version::NONE,
    }
}

/// For how long values that are invalidated are kept, marked stale; 0 for not at all.
pub(super) fn keep_ms(space: &KeySpace) -> u64 {
    if space.keeps_stale() { millis(space.stale_if_error) } else { 0 }
}

pub(super) fn tombstone_ms(space: &KeySpace) -> u32 {
    match space.mode {
        Mode::Versioned { tombstone: Some(ttl), .. } => u32::try_from(millis(ttl)).unwrap_or(u32::MAX),
        _ => 0,
    }
}

/// Adds the number of names, the entries' names and then their locks' names.
fn names<'a>(call: &mut Cmd, commands: impl ExactSizeIterator<Item = &'a Command> + Clone) {
    call.arg(commands.len() * 2);
    let lengths = commands.clone().map(|command| command.key.as_bytes().len());
    call.reserve_space_for_args(lengths.clone().chain(lengths.map(|length| length + "lock:{}".len())));
    for command in commands.clone() {
        call.write_arg(command.key.as_bytes());
    }
    for command in commands {
        let mut name = call.writer_for_next_arg();
        for part in command.key.lock_parts() {
            // Memory takes everything.
            let _infallible = name.write_all(part.as_bytes());
        }
    }
}
