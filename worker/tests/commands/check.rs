//! The configuration against live tables and servers.

use aws_sdk_dynamodb::types::{StreamViewType, TimeToLiveSpecification};
use ringtide_servers::ValkeyServer;
use serde_json::Value;

use super::world::{Ran, World};

/// Findings of a severity, as `place: finding`.
fn findings(ran: &Ran, severity: &str) -> Vec<String> {
    let json = ran.json();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let all = json["findings"].as_array().unwrap().iter().filter(|finding| finding["severity"] == severity);
    all.map(|finding| {
        format!("{}: {}; {}", text(&finding["place"]), text(&finding["finding"]), text(&finding["remedy"]))
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_is_wrong_is_told_at_once_and_what_is_mended_is_not() {
    let mut world = World::new(2, "").await;
    let more = format!(
        "park = {{ to = \"file://{}\" }}\n[worker]\napplication = \"ringtide-check\"\n",
        world.path("parked").display()
    );
    let routes = format!("{}\n[[routes]]\ntable = \"missing\"\nspace = \"product\"\n", super::world::ROUTES);
    world.configure(&more, &routes);
    world.create_table("products", "pk", Some(StreamViewType::KeysOnly)).await;
    // Something else has the lease table's name.
    world.create_table("ringtide-check", "pk", None).await;
    world.servers[1].kill();
    let ran = world.run(&["check", "--json"]).await.expect(1);
    let errors = findings(&ran, "error");
    for part in [
        "routes[1]: the key template",
        "table missing: there is no such table",
        "table ringtide-check: it is no lease table",
        "ring shard b: ring shard b cannot be reached",
    ] {
        assert!(errors.iter().any(|error| error.contains(part)), "{part}: {errors:#?}");
    }
    assert_eq!(errors.len(), 4, "{errors:#?}");
    assert!(findings(&ran, "warning").iter().any(|warning| warning.contains("ring shard a: its memory has no limit")));
    let text = world.run(&["check"]).await.expect(1).out;
    assert!(text.contains("error   table missing: ") && text.contains("4 errors, 1 warning"), "{text}");

    // Mended.
    world.clients.tables.delete_table().table_name("products").send().await.unwrap();
    world.create_table("products", "pk", Some(StreamViewType::NewAndOldImages)).await;
    let roomy = ["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"];
    world.servers = (0..2).map(|_| ValkeyServer::start_with(&roomy).unwrap()).collect();
    world.configure(&more.replace("ringtide-check", "ringtide-leases"), super::world::ROUTES);
    let ran = world.run(&["check", "--json"]).await.expect(0);
    assert_eq!((findings(&ran, "error"), findings(&ran, "warning")), (vec![], vec![]));
    assert!(findings(&ran, "note").iter().any(|note| note.contains("the worker creates it")));
    // A lease table that may be written to.
    world.create_table("ringtide-leases", "leaseKey", None).await;
    world.run(&["check", "--strict"]).await.expect(0);
    let rows = world.clients.tables.scan().table_name("ringtide-leases").send().await.unwrap();
    assert_eq!(rows.count, 0, "nothing was written");

    // Items expire, and a route does not listen.
    let expiry = TimeToLiveSpecification::builder().enabled(true).attribute_name("until").build().unwrap();
    let update = world.clients.tables.update_time_to_live().table_name("products");
    update.time_to_live_specification(expiry).send().await.unwrap();
    let ran = world.run(&["check", "--json"]).await.expect(0);
    assert!(findings(&ran, "note").iter().any(|note| note.contains("\"until\"")), "{}", ran.out);
    let deaf = super::world::ROUTES.replace(
        "table = \"products\"\nspace = \"category\"",
        "table = \"products\"\non = [\"INSERT\", \"MODIFY\"]\nspace = \"category\"",
    );
    world.configure(&more.replace("ringtide-check", "ringtide-leases"), &deaf);
    let ran = world.run(&["check", "--json"]).await.expect(0);
    assert!(
        findings(&ran, "warning").iter().any(|warning| warning.contains("routes[1] ignores REMOVE")),
        "{}",
        ran.out
    );

    // A replica in place of a primary, and a policy that refuses.
    world.servers[0].ask(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).unwrap();
    world.run(&["check"]).await.expect(0);
    world.run(&["check", "--strict"]).await.expect(1);
    let port = world.servers[0].port().to_string();
    assert_eq!(world.servers[1].ask(&["REPLICAOF", "127.0.0.1", &port]).unwrap(), "OK");
    let ran = world.run(&["check", "--json"]).await.expect(1);
    assert!(findings(&ran, "error").iter().any(|error| error.contains("ring shard b: the server is a replica")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_cannot_be_used_is_another_exit_code() {
    let world = World::new(1, "").await;
    world.configure("spelling = 1", super::world::ROUTES);
    let ran = world.run(&["check"]).await.expect(2);
    assert!(ran.err.contains("spelling"), "{}", ran.err);
}
