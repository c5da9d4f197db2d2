//! Events of every kind, whole and damaged: no input makes the handler panic, and a bad record harms no other.
//!
//! Seeded and structure-aware, on stable Rust: `RINGTIDE_FUZZ_EVENTS` is the number of cases (20,000 by default),
//! `RINGTIDE_FUZZ_SEED` the seed (drawn and printed by default). A failure names its case and shows its event.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, reason = "tests")]

mod corpus;
mod given_up;
mod mutation;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::time::{Duration, SystemTime};

use fastrand::Rng;
use futures_util::FutureExt;
use ringtide_lambda::event::{Answer, Event};
use ringtide_lambda::handler::Refused;
use ringtide_servers::number;
use stage::Stage;

/// The number in an environment variable.
/// An event text of these records.
fn event_of(records: &[String]) -> String {
    format!("{{\"Records\":[{}]}}", records.join(","))
}

async fn handle(stage: &Stage, text: &str) -> Option<Result<Answer, Refused>> {
    let event = Event::parse(text.to_owned())?;
    let deadline = SystemTime::now() + Duration::from_secs(900);
    Some(stage.handler.handle(&event, deadline).await)
}

/// One case: an event of good records, one of which may be damaged, or a text of which anything may be.
async fn case(stage: &Stage, rng: &mut Rng) -> Result<(), String> {
    stage.take_applied();
    let (mut records, queue) = match rng.u8(..10) {
        0 => (corpus::messages(rng), true),
        _ => (corpus::changes(rng), false),
    };
    let whole = event_of(&records);
    let damaged = rng.usize(..records.len());
    let kind = rng.u8(..10);
    match kind {
        0 => {}
        1..=7 => records[damaged] = mutation::of_json(rng, &records[damaged]),
        _ => {
            let text = mutation::of_text(rng, &whole);
            let handled = handle(stage, &text).await;
            return named(handled.and_then(Result::ok)).map_err(|e| format!("{e}: {text}"));
        }
    }
    let text = event_of(&records);
    // A damaged record that is no JSON at all damages the whole event.
    let Some(handled) = handle(stage, &text).await else { return Ok(()) };
    let failed = |what: &str| format!("{what}: {text}");
    let answer = match handled {
        Ok(answer) => answer,
        // A message that has lost its id can only fail with all others.
        Err(Refused::Unnameable(_)) if queue && kind != 0 => return Ok(()),
        Err(error) => return Err(failed(&format!("refused, {error}"))),
    };
    let applied = stage.take_applied();
    let mut others = records.clone();
    others.remove(damaged);
    if queue {
        let ids: BTreeSet<String> = answer.failures.iter().map(|failure| failure.identifier.clone()).collect();
        for (index, _) in records.iter().enumerate().filter(|(index, _)| kind == 0 || *index != damaged) {
            if ids.contains(&corpus::message_id(index)) {
                return Err(failed(&format!("message {index} failed with another")));
            }
        }
    } else {
        if !answer.failures.is_empty() {
            return Err(failed("something was not delivered"));
        }
        // What the others ask for by themselves has been asked for, and no less.
        let alone = stage.planned(&event_of(&others));
        let own = stage.planned(&event_of(&records[damaged..=damaged]));
        for (key, command) in &alone {
            if own.contains_key(key) {
                continue;
            }
            if applied.get(key) != Some(command) {
                return Err(failed(&format!("{key} was to be {command}, and was {:?}", applied.get(key))));
            }
        }
        let expected: BTreeSet<&String> = alone.keys().chain(own.keys()).collect();
        if applied.keys().collect::<BTreeSet<_>>() != expected {
            return Err(failed("other keys were touched than the records ask for"));
        }
    }
    named(Some(answer)).map_err(|e| failed(&e))
}

/// No identifier may be empty.
fn named(answer: Option<Answer>) -> Result<(), String> {
    let empty = answer.is_some_and(|answer| answer.failures.iter().any(|failure| failure.identifier.is_empty()));
    if empty { Err("an empty identifier".to_owned()) } else { Ok(()) }
}

#[tokio::test(start_paused = true)]
async fn no_event_makes_the_handler_panic_and_no_bad_record_harms_another() {
    let cases = number("RINGTIDE_FUZZ_EVENTS").unwrap_or(20_000);
    let seed = number("RINGTIDE_FUZZ_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{cases} events from seed {seed}");
    let mut stage = Stage::new();
    for n in 0..cases {
        let mut rng = Rng::with_seed(seed.wrapping_add(n));
        let result = AssertUnwindSafe(case(&stage, &mut rng)).catch_unwind().await;
        let again = format!("RINGTIDE_FUZZ_EVENTS=1 RINGTIDE_FUZZ_SEED={}", seed.wrapping_add(n));
        match result {
            Ok(Ok(())) => {}
            Ok(Err(text)) => panic!("{again}: {}", text.chars().take(4000).collect::<String>()),
            Err(_) => panic!("{again}: the handler panicked"),
        }
        if n % 1000 == 999 {
            // What a stage keeps of streams must not depend on all cases before.
            stage = Stage::new();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_corpus_itself_is_delivered_and_leads_to_commands() {
    let stage = Stage::new();
    let mut spaces = BTreeMap::new();
    for n in 0..200 {
        let mut rng = Rng::with_seed(n);
        let text = event_of(&corpus::changes(&mut rng));
        assert_eq!(handle(&stage, &text).await.unwrap().unwrap(), Answer::default(), "{text}");
        for key in stage.take_applied().into_keys() {
            *spaces.entry(key.split(':').next().unwrap().to_owned()).or_insert(0) += 1;
        }
    }
    assert_eq!(spaces.keys().collect::<Vec<_>>(), ["category", "copy", "product", "slow"], "every route is reached");
    assert_eq!(stage.parked(), 0);
}
