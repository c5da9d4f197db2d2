//! What cannot work is refused at start, with the place and the remedy, all of it at once.

use std::time::Duration;

use aws_sdk_dynamodb::types::StreamViewType;
use ringtide_core::config::Config;
use ringtide_core::pipeline::{Pipeline, Services};
use ringtide_servers::{ValkeyServer, free_port};
use ringtide_worker::Worker;

use crate::world::{Endpoint, SPACES, World};

async fn refused(config: &Config) -> (String, bool) {
    let mut worker = Worker::connect(config).await.unwrap();
    worker.start_timeout = Duration::from_secs(1);
    let error = worker.start(config).await.unwrap_err();
    (error.to_string(), error.is_configuration())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unfit_view_type_and_an_unknown_table_are_told_together() {
    let spaces = format!("{SPACES}\n[[routes]]\ntable = \"orders\"\nspace = \"product\"\n");
    let world = World::new(Endpoint::embedded().await, 1, &spaces).await;
    world.create_table("products", Some(StreamViewType::KeysOnly)).await;
    let (error, configuration) = refused(&world.config()).await;
    assert!(configuration, "{error}");
    for part in ["routes[1]", "\"category\"", "KEYS_ONLY", "NEW_AND_OLD_IMAGES", "orders"] {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_off_is_told_with_the_command_that_turns_it_on() {
    for endpoint in [Endpoint::embedded().await, Endpoint::ministack().await] {
        let world = World::new(endpoint, 1, SPACES).await;
        world.create_table("products", None).await;
        let (error, configuration) = refused(&world.config()).await;
        assert!(configuration && error.contains("products") && error.contains("update-table"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_cannot_be_reached_is_named() {
    let world = World::new(Endpoint::embedded().await, 1, SPACES).await;
    let nowhere = format!("http://127.0.0.1:{}", free_port().unwrap());
    let config = Config::parse(&world.text().replace(&world.endpoint.url(), &nowhere), []).unwrap();
    let (error, configuration) = refused(&config).await;
    assert!(!configuration && error.contains(&nowhere), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_holds_the_stream_up_and_is_told_by_the_shard() {
    let mut world = World::new(Endpoint::embedded().await, 0, SPACES).await;
    world.shards.push(ValkeyServer::start_with(&["--requirepass", "right"]).unwrap());
    let text = format!("valkey = {{ password = \"wrong\" }}\n{}", world.text());
    let connected = Pipeline::connect(&Config::parse(&text, []).unwrap(), Services::default()).unwrap();
    let error = connected.shards[0].ready(Duration::from_secs(10)).await.unwrap_err().to_string();
    assert!(error.contains("s0") && error.contains("password"), "{error}");
    assert!(!error.contains("wrong"), "the password itself is not told: {error}");
}
