//! The example function reads through the cache and is frozen between events.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use ringtide_servers::ValkeyServer;
use serde_json::Value;

use crate::sandbox::{LONG, Sandbox, Start};
use crate::{BOOTSTRAP, say};

/// The example's program: built by cargo along with all tests, and here where only this one is run.
fn example() -> PathBuf {
    let program = Path::new(BOOTSTRAP).with_file_name("examples").join("read_through_function");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/read_through_function.rs");
    let changed = |path: &Path| std::fs::metadata(path).and_then(|file| file.modified()).ok();
    if changed(&program) < changed(Path::new(source)) {
        let arguments = ["build", "-q", "-p", "ringtide-lambda", "--example", "read_through_function"];
        assert!(Command::new(env!("CARGO")).args(arguments).status().unwrap().success());
    }
    program
}

async fn sandbox(program: &Path, server: &ValkeyServer, name: &str, takes_ms: &str) -> Sandbox {
    let config = format!(
        "[[ring.shards]]\nname = \"a\"\naddress = \"{}\"\n[spaces.product]\nkey = \"product:{{pk}}\"\n",
        server.address()
    );
    let env = [("RINGTIDE_CONFIG_TEXT", config.as_str()), ("SANDBOX", name), ("TABLE_TAKES_MS", takes_ms)];
    let sandbox = Sandbox::start(Start { program, env: &env, extensions: true }).await;
    sandbox.ready().await;
    sandbox
}

/// Reads a product, and returns which sandbox had loaded it.
async fn read(sandbox: &mut Sandbox, pk: &str) -> String {
    sandbox.hand_out(&format!("{{\"pk\":\"{pk}\"}}"), LONG);
    loaded_by(sandbox).await
}

async fn loaded_by(sandbox: &mut Sandbox) -> String {
    let answered = sandbox.answer().await;
    assert!(answered.ok, "{answered:?}");
    let product: Value = serde_json::from_str(&answered.body).unwrap();
    product["loaded_by"].as_str().unwrap().to_owned()
}

fn loads(sandbox: &Sandbox) -> usize {
    sandbox.lines().iter().filter(|line| line.contains("the table is asked")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_share_loads_and_a_freeze_after_the_answer_leaves_no_lease_behind() {
    let (program, server) = (example(), ValkeyServer::start().unwrap());
    let mut a = sandbox(&program, &server, "a", "100").await;
    let mut b = sandbox(&program, &server, "b", "100").await;

    // A herd of two sandboxes: one load.
    for n in 0..5 {
        a.hand_out(&format!("{{\"pk\":\"herd-{n}\"}}"), LONG);
        b.hand_out(&format!("{{\"pk\":\"herd-{n}\"}}"), LONG);
        assert_eq!(loaded_by(&mut a).await, loaded_by(&mut b).await);
    }
    assert_eq!(loads(&a) + loads(&b), 5);

    // Frozen as soon as it has answered, each time: the fill had left, and no lease is held.
    for n in 0..20 {
        let pk = format!("frozen-{n}");
        assert_eq!(read(&mut a, &pk).await, "a");
        a.signal("STOP");
        assert_eq!(say(&server, &format!("EXISTS product:{pk}")).await, ":1", "{pk} was filled");
        assert_eq!(say(&server, &format!("EXISTS lock:{{product:{pk}}}")).await, ":0", "{pk} has no lease");
        assert_eq!(read(&mut b, &pk).await, "a");
        a.signal("CONT");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_is_frozen_within_a_load_loses_its_lease_and_stores_nothing_old() {
    let (program, server) = (example(), ValkeyServer::start().unwrap());
    let mut a = sandbox(&program, &server, "a", "500").await;
    let mut b = sandbox(&program, &server, "b", "1").await;
    a.hand_out(r#"{"pk":"1"}"#, LONG);
    a.line(|line| line["message"].as_str().filter(|text| *text == "the table is asked").map(drop)).await;
    a.signal("STOP");
    assert_eq!(read(&mut b, "1").await, "b", "the other waits for the lease's time, and loads");
    a.signal("CONT");
    let first = loaded_by(&mut a).await;
    assert!(first == "a" || first == "b", "its own caller is answered: {first}");
    // Whoever reads from now on reads what was stored by the one that held the lease to its end.
    assert_eq!(read(&mut a, "1").await, "b");
    assert_eq!(read(&mut b, "1").await, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thawed_reader_whose_connections_were_closed_reads_without_an_error() {
    let (program, server) = (example(), ValkeyServer::start().unwrap());
    let mut a = sandbox(&program, &server, "a", "1").await;
    assert_eq!(read(&mut a, "1").await, "a");
    for n in 0..10 {
        a.signal("STOP");
        for kind in ["normal", "pubsub"] {
            say(&server, &format!("CLIENT KILL TYPE {kind}")).await;
        }
        a.hand_out(&format!("{{\"pk\":\"{}\"}}", n % 2), LONG);
        a.signal("CONT");
        let answered = a.answer().await;
        assert!(answered.ok && answered.took < Duration::from_secs(1), "{answered:?}");
    }
}
