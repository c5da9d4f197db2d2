//! The sub-commands that end by themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::PathBuf;
use std::process::{Command, Output};

use ringtide_servers::free_port;

const RING: &str = "ring = { shards = [{ name = \"a\", address = \"h:1\" }] }\n[spaces.p]\nkey = \"p:{pk}\"\n";

fn ringtide(arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringtide"));
    let Output { status, stdout, stderr } = command.args(arguments).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn config(folder: &tempfile::TempDir, routes: &str) -> PathBuf {
    let path = folder.path().join("ringtide.toml");
    std::fs::write(&path, format!("{RING}{routes}")).unwrap();
    path
}

#[test]
fn filters_are_printed_for_one_table_and_for_all() {
    let folder = tempfile::tempdir().unwrap();
    let routes = "[[routes]]\ntable = \"one\"\nspace = \"p\"\non = [\"REMOVE\"]\n\
                  [[routes]]\ntable = \"two\"\nspace = \"p\"\non = [\"MODIFY\"]\n";
    let path = config(&folder, routes);
    let path = path.to_str().unwrap();
    let (code, out, _) = ringtide(&["filters", "--config", path, "--table", "one"]);
    assert_eq!((code, out.trim()), (Some(0), r#"{"Filters":[{"Pattern":"{\"eventName\":[\"REMOVE\"]}"}]}"#));
    let (code, out, _) = ringtide(&["filters", "--config", path]);
    assert_eq!((code, out.trim()), (Some(0), r#"{"Filters":[{"Pattern":"{\"eventName\":[\"MODIFY\",\"REMOVE\"]}"}]}"#));
    let (code, out, said) = ringtide(&["filters", "--config", path, "--table", "three"]);
    assert_eq!((code, out.as_str()), (Some(2), ""));
    assert!(said.contains("three") && said.contains("one") && said.contains("two"), "{said}");
}

#[test]
fn a_configuration_that_cannot_be_fetched_is_named() {
    let endpoint = format!("http://127.0.0.1:{}", free_port().unwrap());
    for place in ["ssm:/ringtide/config", "s3://bucket/ringtide.toml"] {
        let (code, _, said) = ringtide(&["filters", "--config", place, "--endpoint-url", &endpoint]);
        assert!(code == Some(2) && said.contains(place) && said.contains("reached"), "{said}");
    }
    let (code, _, said) = ringtide(&["filters", "--config", "/nowhere/ringtide.toml"]);
    assert!(code == Some(2) && said.contains("/nowhere/ringtide.toml"), "{said}");
}

#[test]
fn a_worker_that_does_not_answer_is_not_well() {
    let url = format!("http://127.0.0.1:{}/healthz", free_port().unwrap());
    let (code, out, said) = ringtide(&["health", "--url", &url]);
    assert!(code == Some(1) && out.is_empty() && said.contains(&url), "{said}");
}
