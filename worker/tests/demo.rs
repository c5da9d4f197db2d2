//! The demo as a process: what it promises, what it finds, and what it leaves behind.
#![cfg(feature = "demo")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Two demos at once would measure each other.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn demo(temp: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringtide"));
    command.arg("demo").args(["--seconds", "15", "--readers", "2", "--writers", "2"]).args(arguments);
    // The demo's processes inherit the working directory, by which they are found.
    command.env("TMPDIR", temp).current_dir(temp).stdin(Stdio::null());
    command
}

/// Runs the demo to its end: its exit code and what it printed.
fn run(temp: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = demo(temp, arguments).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

/// Processes whose working directory this is.
fn alive(temp: &Path) -> BTreeSet<PathBuf> {
    let temp = temp.canonicalize().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
    processes.filter(|process| std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == temp)).collect()
}

fn assert_nothing_is_left(temp: &Path) {
    // A killed process is listed until somebody has collected it.
    let begun = Instant::now();
    while !alive(temp).is_empty() && begun.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(alive(temp), BTreeSet::new());
    assert_eq!(std::fs::read_dir(temp).unwrap().count(), 0);
}

#[test]
fn the_demo_keeps_its_promises_and_leaves_nothing_behind() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let temp = tempfile::tempdir().unwrap();
    let (code, text) = run(temp.path(), &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 origin load for 10000 readers in 4 processes, 0 failed"), "{text}");
    assert!(text.contains(" fresh, 0 stale, "), "{text}");
    assert!(text.contains("promises kept"), "{text}");
    assert!(!text.contains('\x1b'), "no terminal, no escape sequences: {text}");
    assert_nothing_is_left(temp.path());
}

#[test]
fn a_route_that_is_left_out_is_found_by_the_audit() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let temp = tempfile::tempdir().unwrap();
    let (code, text) = run(temp.path(), &["--break"]);
    assert_eq!(code, Some(1), "{text}");
    let broken = text.lines().find_map(|line| line.strip_prefix("broken: ")).expect(&text);
    assert!(broken.contains("the audit finds nothing stale"), "{text}");
    assert!(broken.contains("no read is older than the lag allows"), "{text}");
    assert!(text.lines().any(|line| line.contains("category:") && line.ends_with(" is stale")), "{text}");
    assert_nothing_is_left(temp.path());
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() {
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let temp = tempfile::tempdir().unwrap();
    let mut process = demo(temp.path(), &[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("steady load")));
    assert!(alive(temp.path()).len() > 4, "the demo, three ring shards and the worker");
    let sent = Command::new("kill").args(["-s", "TERM", &process.id().to_string()]).status().unwrap();
    assert!(sent.success());
    lines.for_each(drop);
    assert_eq!(process.wait().unwrap().code(), Some(1));
    assert_nothing_is_left(temp.path());
}
