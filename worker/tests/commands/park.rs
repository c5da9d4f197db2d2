//! A record that nobody can read, parked by a running worker, and what an operator does about it.

use aws_sdk_dynamodb::types::StreamViewType;
use ringtide_core::aws::sdk_config;
use ringtide_core::config::Aws;
use ringtide_servers::Ministack;

use super::poison;
use super::world::{World, eventually};

/// A worker that meets a poisoned record, and then the commands on `to`.
async fn parked_and_requeued(to: impl Fn(&World) -> String) {
    let world = World::new(3, "").await;
    let more = format!(
        "park = {{ to = \"{}\" }}\n[worker]\napplication = \"ringtide-commands\"\nlisten = \"\"\nidle_poll = \"50ms\"\n",
        to(&world)
    );
    world.configure(&more, super::world::ROUTES);
    world.create_table("products", "pk", Some(StreamViewType::NewAndOldImages)).await;
    let listed = world.run(&["park", "list", "--json"]).await.expect(0).json();
    assert_eq!(listed["records"].as_array().unwrap().len(), 0);

    let (endpoint, _serving) = poison::endpoint(world.dynamodb.url()).await;
    let mut worker = world.worker(&endpoint);
    world.cache("product:1", b"old").await;
    world.cache("category:poison:top", b"old").await;
    world.put("1", "poison").await;
    let mut listed = listed;
    eventually("the record is parked", async || {
        listed = world.run(&["park", "list", "--json"]).await.expect(0).json();
        listed["records"].as_array().unwrap().len() == 1
    })
    .await;
    let id = listed["records"][0]["id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("products/"), "{id}");
    assert!(listed["records"][0]["reason"].as_str().unwrap().contains("category"), "{listed}");
    eventually("what the primary key leads to is dropped", async || !world.cached("product:1")).await;
    assert!(world.cached("category:poison:top"));
    worker.kill().await.unwrap();

    let text = world.run(&["park", "list"]).await.expect(0).out;
    assert!(text.contains(&id) && text.contains("1 parked in"), "{text}");
    let shown = world.run(&["park", "show", &id]).await.expect(0).out;
    assert!(shown.contains(r#"{"pk":{"S":"1"}}"#) && !shown.contains("UNKNOWN"), "{shown}");
    let whole = world.run(&["park", "show", &id, "--content", "--json"]).await.expect(0).json();
    assert!(whole["content"]["dynamodb"]["NewImage"]["category"]["UNKNOWN"].is_null());
    world.run(&["park", "show", "products/nowhere"]).await.expect(1);

    // As it is, it leads nowhere, and stays.
    let refused = world.run(&["park", "requeue", &id, "--json"]).await.expect(1).json();
    assert_eq!(refused["records"][0]["fate"], "kept");
    assert!(refused["records"][0]["reason"].as_str().unwrap().contains("--as"), "{refused}");
    world.run(&["park", "requeue", "--all"]).await.expect(1);

    let mended = world.path("mended.json");
    let content = whole["content"].to_string().replace(r#"{"UNKNOWN":null}"#, r#"{"S":"poison"}"#);
    std::fs::write(&mended, content).unwrap();
    let mended = mended.to_str().unwrap();
    let explained = world.run(&["explain", mended, "--json"]).await.expect(0).json();
    assert_eq!(explained[0]["routes"][1]["commands"][0]["key"], "category:poison:top");
    let arguments = ["park", "requeue", &id, "--as", mended, "--json"];
    let dry = world.run(&[&arguments[..], &["--dry-run"]].concat()).await.expect(0).json();
    assert_eq!(dry["records"][0]["fate"], "would_be_requeued");
    assert!(world.cached("category:poison:top"), "nothing was done");

    let done = world.run(&arguments).await.expect(0).json();
    assert_eq!(done["records"][0]["fate"], "requeued");
    let keys: Vec<&str> =
        done["records"][0]["keys"].as_array().unwrap().iter().map(|key| key.as_str().unwrap()).collect();
    assert_eq!(keys, ["category:poison:top", "product:1"]);
    let dropped: u64 = done["ring_shards"].as_array().unwrap().iter().map(|s| s["dropped"].as_u64().unwrap()).sum();
    assert_eq!(dropped, 1);
    assert!(!world.cached("category:poison:top"));
    let text = world.run(&["park", "list"]).await.expect(0).out;
    assert!(text.contains("nothing is parked"), "{text}");
    world.run(&["park", "requeue", &id]).await.expect(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_in_a_directory_is_listed_shown_mended_and_requeued() {
    parked_and_requeued(|world| format!("file://{}", world.path("parked").display())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_in_a_table_is_listed_shown_mended_and_requeued() {
    parked_and_requeued(|_| "dynamodb://ringtide-parked".to_owned()).await;
}

/// A parked record, without a worker.
fn content(sequence: u32, pk: &str) -> String {
    let arn = "arn:aws:dynamodb:eu-west-1:1:table/products/stream/2026-01-02T03:04:05.678";
    format!(
        r#"{{"table":"products","sequence":"{sequence}","reason":"planted","parked_at_ms":1,"content":{{"eventName":"MODIFY","eventSourceARN":"{arn}","dynamodb":{{"Keys":{{"pk":{{"S":"{pk}"}}}},"OldImage":{{"category":{{"S":"tea"}}}},"NewImage":{{"category":{{"S":"tea"}}}},"SequenceNumber":"{sequence}"}}}}}}"#
    )
}

/// The same as a file.
fn plant(world: &World, sequence: u32, pk: &str) -> String {
    let id = format!("products/2026/01/02/{sequence}");
    let path = world.path(&format!("parked/{id}.json"));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content(sequence, pk)).unwrap();
    id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_ring_shard_does_not_take_stays_parked_and_the_rest_is_delivered() {
    let mut world = World::new(2, "").await;
    let more = format!("park = {{ to = \"file://{}\" }}", world.path("parked").display());
    // The item's keys alone.
    let routes = "[spaces.product]\nkey = \"product:{pk}\"\n[[routes]]\ntable = \"products\"\nspace = \"product\"\n";
    world.configure(&more, routes);
    // Two items, one on each ring shard.
    let mut items = [None, None];
    for pk in 0..100 {
        let at = world.cache(&format!("product:{pk}"), b"old").await;
        items[at].get_or_insert(pk.to_string());
        if items.iter().all(Option::is_some) {
            break;
        }
    }
    let [Some(lives), Some(dies)] = items else { panic!("all keys are on one ring shard") };
    let (delivered, stays) = (plant(&world, 1, &lives), plant(&world, 2, &dies));
    world.servers[1].kill();
    let report = world.run(&["park", "requeue", "--all", "--timeout", "3", "--json"]).await.expect(1).json();
    let fates: Vec<_> =
        report["records"].as_array().unwrap().iter().map(|r| (r["id"].as_str(), r["fate"].as_str())).collect();
    assert_eq!(fates, [(Some(&*delivered), Some("requeued")), (Some(&*stays), Some("kept"))]);
    assert!(report["records"][1]["reason"].as_str().unwrap().contains("ring shard b"), "{report}");
    assert!(!world.cached_on(0, &format!("product:{lives}")));

    world.servers[1].restart().unwrap();
    world.run(&["park", "requeue", &stays]).await.expect(0);
    plant(&world, 3, "3");
    let dry = world.run(&["park", "drop", "--all", "--dry-run", "--json"]).await.expect(0).json();
    assert_eq!(dry["dropped"].as_array().unwrap().len(), 1);
    world.run(&["park", "drop", "products/2026/01/02/3"]).await.expect(0);
    world.run(&["park", "drop", "products/2026/01/02/3"]).await.expect(1);
    let listed = world.run(&["park", "list", "--json"]).await.expect(0).json();
    assert_eq!(listed["records"].as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_looked_at_without_taking_from_it_and_requeued() {
    let world = World::new(1, "").await;
    let server = tokio::task::spawn_blocking(|| Ministack::start().unwrap()).await.unwrap();
    let aws = Aws { region: Some("us-east-1".into()), endpoint_url: Some(server.url()) };
    let sqs = aws_sdk_sqs::Client::new(&sdk_config(&aws).await);
    let queue = sqs.create_queue().queue_name("parked").send().await.unwrap().queue_url.unwrap();
    world.configure(&format!("park = {{ to = \"{queue}\" }}"), super::world::ROUTES);
    world.cache("product:1", b"old").await;
    // Parked twice, as happens when an acknowledgement is lost.
    for _ in 0..2 {
        sqs.send_message().queue_url(&queue).message_body(content(7, "1")).send().await.unwrap();
    }
    sqs.send_message().queue_url(&queue).message_body("something else").send().await.unwrap();
    for _ in 0..2 {
        let listed = world.run_at(&server.url(), &["park", "list", "--json"]).await.expect(0).json();
        assert_eq!(listed["records"].as_array().unwrap().len(), 3, "what is listed is there again");
    }
    let shown = world.run_at(&server.url(), &["park", "show", "products/1970/01/01/7"]).await.expect(0).out;
    assert!(shown.contains("2 times"), "{shown}");
    let report = world.run_at(&server.url(), &["park", "requeue", "--all", "--json"]).await.expect(1).json();
    let fates =
        |fate: &str| report["records"].as_array().unwrap().iter().filter(|record| record["fate"] == fate).count();
    assert_eq!((fates("requeued"), fates("kept")), (2, 1), "{report}");
    assert!(!world.cached("product:1"));
    let dropped = world.run_at(&server.url(), &["park", "drop", "--all", "--json"]).await.expect(0).json();
    assert_eq!(dropped["dropped"].as_array().unwrap().len(), 1);
    let listed = world.run_at(&server.url(), &["park", "list", "--json"]).await.expect(0).json();
    assert_eq!(listed["records"].as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_place_there_is_nothing_to_list() {
    let world = World::new(1, "").await;
    let ran = world.run(&["park", "list"]).await.expect(2);
    assert!(ran.out.is_empty() && ran.err.contains("park.to"), "{}", ran.err);
}
