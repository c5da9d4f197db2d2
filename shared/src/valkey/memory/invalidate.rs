//! `invalidate_set.lua`, `invalidate_loop.lua` and `refresh.lua`.

use std::collections::BTreeSet;

use bytes::Bytes;
use redis::Value;

use super::entry::{floor_of, is_whole, state_of, tombstone, version_at, version_of};
use super::lease::inlined;
use super::lock::{Lock, raise, void};
use super::store::{Only, Store};
use super::{Words, bulk, int, number};
use crate::clock::unix_ms;
use crate::entry::{FLOOR_AT, STATE_AT, State};

pub(super) fn set(store: &mut Store, keys: Words<'_, '_>) -> Option<Value> {
    let (entries, names) = halves(keys)?;
    let locks: Vec<Option<Bytes>> = names.iter().map(|name| store.get(name)).collect();
    let dropped = entries.iter().filter(|entry| store.unlink(entry)).count();
    let voided = names.iter().filter(|name| store.unlink(name)).count();
    for (key, lock) in entries.iter().zip(locks) {
        if let Some(lock) = lock.and_then(Lock::of) {
            lock.tell(store, b"V", key, b"");
        }
    }
    Some(Value::Array(vec![int(dropped as u64), int(voided as u64)]))
}

pub(super) fn compared(store: &mut Store, keys: Words<'_, '_>, arguments: Words<'_, '_>) -> Option<Value> {
    let (entries, names) = halves(keys)?;
    let [keep, entombed, versions @ ..] = arguments else { return None };
    let (keep, entombed) = (number(keep)?, number(entombed)?);
    let (mut absent, mut dropped, mut marked, mut older, mut voided) = (0, 0, 0, 0, 0);
    let held: Vec<bool> = names.iter().map(|name| store.exists(name)).collect();
    // Keys to unlink at the end. A key may come twice in a batch.
    let mut gone = BTreeSet::new();
    for (((key, name), version), held) in entries.iter().zip(names).zip(versions).zip(held) {
        let version = version_at(version, 0);
        let there = if gone.contains(key) { None } else { look(store, key) };
        let state = there.as_ref().and_then(|there| state_of(there));
        let kept = there
            .as_ref()
            .filter(|there| keep > 0 && matches!(state, Some(State::Value | State::Stale)) && is_whole(there));
        if version.is_none() {
            if kept.is_some() {
                store.set_range(key, STATE_AT, &[State::Stale as u8]);
                // Counted from the first mark, however often it is repeated.
                store.expire(key, keep, Only::Shorter);
                marked += 1;
            } else if there.is_some() {
                gone.insert(*key);
                dropped += 1;
            } else {
                absent += 1;
            }
            voided += if held { void(store, key, name) } else { 0 };
            continue;
        }
        let new_enough =
            |there: &Bytes| state.is_some() && version <= version_of(there).max(floor_of(there)) && is_whole(there);
        if there.as_ref().is_some_and(new_enough) {
            older += 1;
        } else if let Some(there) = kept {
            let head = [&[State::Stale as u8], &there[STATE_AT + 1..FLOOR_AT], version.as_bytes()].concat();
            store.set_range(key, STATE_AT, &head);
            store.expire(key, keep, Only::Shorter);
            if entombed > 0 {
                store.expire(key, entombed, Only::Longer);
            }
            marked += 1;
        } else {
            if entombed > 0 {
                store.set(key, tombstone(version), entombed);
                gone.remove(key);
            } else if there.is_some() {
                if state == Some(State::Tombstone) {
                    store.set_range(key, FLOOR_AT, version.as_bytes());
                } else {
                    gone.insert(*key);
                }
            }
            if there.is_some() && state != Some(State::Tombstone) {
                dropped += 1;
            } else {
                absent += 1;
            }
        }
        voided += if held { raise(store, key, name, version) } else { 0 };
    }
    for key in gone {
        store.unlink(key);
    }
    Some(Value::Array([absent, dropped, marked, older, voided].map(int).to_vec()))
}

pub(super) fn refresh(store: &mut Store, keys: Words<'_, '_>, arguments: Words<'_, '_>) -> Option<Value> {
    let ([key, name], [version, deadline, populate, ttl, entry, inline_max, entombed]) = (keys, arguments) else {
        return None;
    };
    let version = version_at(version, 0);
    let (deadline, ttl) = (number(deadline)?, number(ttl)?);
    let (inline_max, entombed) = (number(inline_max)?, number(entombed)?);
    let there = look(store, key);
    let state = there.as_ref().filter(|there| is_whole(there)).and_then(|there| state_of(there));
    let answer = |answer: &[u8], voided: u64| Some(Value::Array(vec![bulk(answer), int(voided)]));

    if let (Some(there), Some(_)) = (&there, state)
        && version <= version_of(there).max(floor_of(there))
    {
        return answer(b"O", raise(store, key, name, version));
    }
    if deadline > 0 && unix_ms() > deadline {
        // The image is not stored; like an invalidation, this leaves a floor if loads may lag.
        if entombed > 0 {
            store.set(key, tombstone(version), entombed);
        } else if there.is_some() {
            store.unlink(key);
        }
        return answer(b"L", void(store, key, name));
    }
    if state.is_some_and(|state| state != State::Tombstone) || *populate == b"1" {
        store.set(key, entry.to_vec(), ttl);
        let Some(lock) = store.get(name) else { return answer(b"R", 0) };
        store.unlink(name);
        if let Some(lock) = Lock::of(lock) {
            lock.tell(store, b"F", key, inlined(entry, inline_max));
        }
        return answer(b"R", 1);
    }
    let done: &[u8] = if there.is_some() && state.is_none() { b"D" } else { b"A" };
    if entombed > 0 {
        store.set(key, tombstone(version), entombed);
    } else if state == Some(State::Tombstone) {
        store.set_range(key, FLOOR_AT, version.as_bytes());
    } else if there.is_some() {
        store.unlink(key);
    }
    answer(done, raise(store, key, name, version))
}

/// What stands under a key; nothing for an empty value, as scripts that ask for a part of it see it.
fn look(store: &mut Store, key: &[u8]) -> Option<Bytes> {
    store.get(key).filter(|value| !value.is_empty())
}

/// Entries, then their locks in the same order.
fn halves<'a, 'b>(keys: Words<'a, 'b>) -> Option<(Words<'a, 'b>, Words<'a, 'b>)> {
    keys.split_at_checked(keys.len() / 2)
}
