//! `lease.lua`, `extend.lua`, `fill.lua` and `release.lua`.

use redis::Value;

use super::entry::{floor_of, soft_expiry_of, state_of_whole, version_at, version_of, with_floor};
use super::lock::Lock;
use super::store::{Only, Store};
use super::{Words, bulk, bulk_or_nil, int, number};
use crate::entry::State;
use crate::valkey::Token;
use crate::version::Version;

pub(super) fn lease(store: &mut Store, keys: Words<'_, '_>, arguments: Words<'_, '_>) -> Option<Value> {
    let ([key, name], [token, ttl, inbox, refresh_before]) = (keys, arguments) else { return None };
    let (ttl, refresh_before) = (number(ttl)?, number(refresh_before)?);
    let entry = store.get(key);
    let mut floor = Version::NONE;
    let mut stale = None;
    if let Some(entry) = &entry
        && let Some(state) = state_of_whole(entry)
    {
        if matches!(state, State::Value | State::Negative) {
            // Scripts compare floating-point numbers.
            let soft = soft_expiry_of(entry);
            if soft == 0 || soft as f64 > refresh_before as f64 {
                return Some(Value::Array(vec![bulk(b"H"), bulk(entry)]));
            }
        }
        floor = floor_of(entry).max(version_of(entry));
        stale = (state != State::Tombstone).then_some(&entry[..]);
    }
    let granted = |floor: Version| Value::Array(vec![bulk(b"G"), bulk(floor.as_bytes()), bulk_or_nil(stale)]);
    let Some(there) = store.get(name) else {
        store.set(name, Lock::fresh(token, floor), ttl);
        return Some(granted(floor));
    };
    let remaining = store.remaining_ms(name).flatten().unwrap_or(ttl);
    let wait = |registered: bool, holder: &[u8]| {
        Value::Array(vec![bulk(b"W"), int(remaining), int(registered.into()), bulk(holder), bulk_or_nil(stale)])
    };
    let Some(lock) = Lock::of(there) else { return Some(wait(false, &[0; Token::LEN])) };
    if lock.token() == *token {
        store.expire(name, ttl, Only::Always);
        return Some(granted(lock.floor()));
    }
    let mut registered = false;
    if !inbox.is_empty() {
        registered = lock.inboxes().any(|other| other == *inbox);
        if !registered && lock.has_room_for(inbox) {
            store.append(name, &[&[u8::try_from(inbox.len()).ok()?], *inbox].concat());
            registered = true;
        }
    }
    Some(wait(registered, lock.token()))
}

pub(super) fn extend(store: &mut Store, keys: Words<'_, '_>, arguments: Words<'_, '_>) -> Option<Value> {
    let ([_, name], [token, ttl]) = (keys, arguments) else { return None };
    let ttl = number(ttl)?;
    let held = Lock::held_by(store, name, token).is_some();
    if held {
        store.expire(name, ttl, Only::Always);
    }
    Some(int(held.into()))
}

pub(super) fn fill(store: &mut Store, keys: Words<'_, '_>, arguments: Words<'_, '_>) -> Option<Value> {
    let ([key, name], [token, version, proven, ttl, entry, inline_max]) = (keys, arguments) else { return None };
    let (version, proven) = (version_at(version, 0), version_at(proven, 0));
    let (ttl, inline_max) = (number(ttl)?, number(inline_max)?);
    let Some(lock) = Lock::held_by(store, name, token) else { return Some(Value::Array(vec![bulk(b"V")])) };
    let there = store.get(key).and_then(|there| Some((state_of_whole(&there)?, there)));
    let floor = there.as_ref().map_or(lock.floor(), |(_, there)| lock.floor().max(floor_of(there)));
    if floor > version.max(proven) {
        return Some(Value::Array(vec![bulk(b"B"), bulk(floor.as_bytes())]));
    }
    let newer = there.filter(|(state, there)| {
        matches!(state, State::Value | State::Negative) && !version.is_none() && version_of(there) > version
    });
    let (answer, entry) = match newer {
        Some((_, newer)) => (b"O", newer),
        None => {
            let entry = with_floor(entry, floor);
            store.set(key, entry.clone(), ttl);
            (b"S", entry)
        }
    };
    store.unlink(name);
    lock.tell(store, b"F", key, inlined(&entry, inline_max));
    Some(Value::Array(vec![bulk(answer)]))
}

pub(super) fn release(store: &mut Store, keys: Words<'_, '_>, arguments: Words<'_, '_>) -> Option<Value> {
    let ([key, name], [token, kind, reason]) = (keys, arguments) else { return None };
    let Some(lock) = Lock::held_by(store, name, token) else { return Some(int(0)) };
    store.unlink(name);
    lock.tell(store, kind, key, reason);
    Some(int(1))
}

/// What of an entry travels in a notice.
pub(super) fn inlined(entry: &[u8], inline_max: u64) -> &[u8] {
    if entry.len() as u64 <= inline_max { entry } else { b"" }
}
