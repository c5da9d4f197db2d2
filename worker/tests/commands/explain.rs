//! What a record leads to.

use std::io::Write;
use std::process::{Command, Stdio};

use super::world::World;

const ARN: &str = "arn:aws:dynamodb:eu-west-1:1:table/products/stream/2026-01-02T03:04:05.678";

fn record(event: &str, old: &str, new: &str) -> String {
    format!(
        r#"{{"eventName":"{event}","eventSourceARN":"{ARN}","dynamodb":{{"Keys":{{"pk":{{"S":"1"}}}},"OldImage":{old},"NewImage":{new},"SequenceNumber":"7"}}}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_is_explained_route_by_route_without_its_values() {
    let world = World::new(2, "").await;
    let path = world.path("record.json");
    let file = path.to_str().unwrap();
    let tea = r#"{"category":{"S":"tea"},"note":{"S":"hush"}}"#;
    std::fs::write(&path, record("MODIFY", tea, r#"{"note":{"S":"hush"}}"#)).unwrap();
    let ran = world.run(&["explain", file]).await.expect(0);
    for part in
        ["MODIFY 7 of products", "routes[1] invalidate -> category", "old key  category:tea:top", "drop product:1 on"]
    {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(!ran.out.contains("hush"), "{}", ran.out);
    let json = world.run(&["explain", file, "--json"]).await.expect(0).json();
    let routes = json[0]["routes"].as_array().unwrap();
    assert_eq!((&routes[1]["old_key"], routes[1]["new_key"].is_null()), (&"category:tea:top".into(), true));
    assert_eq!(routes[0]["commands"][0]["ring_shards"].as_array().unwrap().len(), 1);

    // A record that would be parked.
    std::fs::write(&path, format!("[{}]", record("INSERT", "null", r#"{"category":{"Q":"hush"}}"#))).unwrap();
    let parked = world.run(&["explain", file, "--json"]).await.expect(1);
    assert!(parked.json()[0]["routes"][1]["why_not"].as_str().unwrap().contains("parked"), "{}", parked.out);
    assert!(!parked.out.contains("hush"));

    // As `aws dynamodbstreams get-records` has it, without the table.
    let nameless = record("REMOVE", tea, "null").replace(&format!(r#""eventSourceARN":"{ARN}","#), "");
    std::fs::write(&path, format!(r#"{{"Records":[{nameless}],"NextShardIterator":"x"}}"#)).unwrap();
    let ran = world.run(&["explain", file]).await.expect(2);
    assert!(ran.err.contains("--table"), "{}", ran.err);
    let ran = world.run(&["explain", file, "--table", "products", "--json"]).await.expect(0).json();
    assert_eq!(ran[0]["routes"][1]["commands"][0]["key"], "category:tea:top");
    let other = world.run(&["explain", file, "--table", "other"]).await.expect(0).out;
    assert!(other.contains("no route names the table other"), "{other}");
    world.run(&["explain", "/nowhere.json"]).await.expect(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_comes_from_standard_input_too() {
    let world = World::new(1, "").await;
    let config = world.config();
    let mut child = Command::new(env!("CARGO_BIN_EXE_ringtide"))
        .args(["explain", "-", "--config", config.to_str().unwrap()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(record("REMOVE", "{}", "null").as_bytes()).unwrap();
    let output = tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && out.contains("the item has no category"), "{out}");
}
