//! Parameters, secrets, objects and queues, on a LocalStack-compatible server.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_config::SdkConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_sqs::types::QueueAttributeName;
use aws_sdk_ssm::types::ParameterType;
use ringtide_core::aws::{self, ObjectError, Objects};
use ringtide_core::config::{Aws, Config};
use ringtide_core::park::{ParkError, ParkStore, ParkedRecord};
use ringtide_core::record::RawRecord;
use ringtide_servers::Ministack;

const RING: &str = "ring = { shards = [{ name = \"a\", address = \"h:1\" }] }\n";

struct Cloud {
    server: Ministack,
    settings: Aws,
    sdk: SdkConfig,
}

impl Cloud {
    async fn start() -> Self {
        let server = tokio::task::spawn_blocking(|| Ministack::start().unwrap()).await.unwrap();
        let settings = Aws { region: Some("us-east-1".into()), endpoint_url: Some(server.url()) };
        let sdk = aws::sdk_config(&settings).await;
        Self { server, settings, sdk }
    }

    fn s3(&self) -> aws_sdk_s3::Client {
        let config = aws_sdk_s3::config::Builder::from(&self.sdk).force_path_style(true).build();
        aws_sdk_s3::Client::from_conf(config)
    }

    fn config(&self, more: &str) -> Config {
        let text =
            format!("aws = {{ region = \"us-east-1\", endpoint_url = \"{}\" }}\n{more}\n{RING}", self.server.url());
        Config::parse(&text, []).unwrap()
    }

    fn park(&self, to: &str) -> Arc<dyn ParkStore> {
        aws::services(&self.config(&format!("park = {{ to = \"{to}\" }}"))).park.unwrap()
    }

    fn env(&self) -> Vec<(String, String)> {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        vec![
            pair("RINGTIDE_AWS_ENDPOINT_URL", &self.server.url()),
            pair("AWS_REGION", "us-east-1"),
            pair("RINGTIDE_READER_MAX_ATTEMPTS", "7"),
        ]
    }
}

fn parked(sequence: u64, image: usize) -> ParkedRecord {
    let content = format!(
        r#"{{"eventName":"MODIFY","dynamodb":{{"ApproximateCreationDateTime":1767225599,"Keys":{{"pk":{{"S":"1"}}}},
        "NewImage":{{"text":{{"S":"{}"}}}},"SequenceNumber":"{sequence}"}}}}"#,
        "x".repeat(image)
    );
    ParkedRecord {
        table: Some("products".into()),
        stream_arn: Some("arn".into()),
        sequence: Some(sequence.to_string().parse().unwrap()),
        reason: "attribute \"text\" cannot be decoded".into(),
        parked_at_ms: 1_767_312_000_000,
        content: RawRecord::parse(content),
        ..ParkedRecord::default()
    }
}

/// One test for everything, on one server, which takes seconds to start.
#[tokio::test(flavor = "multi_thread")]
async fn parameters_objects_queues_and_secrets_are_used_as_configured() {
    let cloud = Cloud::start().await;
    configurations(&cloud).await;
    queues(&cloud).await;
    objects(&cloud).await;
    secrets(&cloud).await;
}

/// A configuration is read from a parameter, encrypted or not, and from an object, with overrides; an error tells where.
async fn configurations(cloud: &Cloud) {
    let text = format!("{RING}[reader]\nmax_attempts = 3\ninline_max = 99\n");
    let ssm = aws_sdk_ssm::Client::new(&cloud.sdk);
    for (name, kind) in [("/ringtide/plain", ParameterType::String), ("/ringtide/secret", ParameterType::SecureString)]
    {
        ssm.put_parameter().name(name).value(&text).r#type(kind).send().await.unwrap();
    }
    cloud.s3().create_bucket().bucket("configuration").send().await.unwrap();
    let put = cloud.s3().put_object().bucket("configuration").key("a/ringtide.toml");
    put.body(ByteStream::from(text.into_bytes())).send().await.unwrap();
    for place in ["ssm:/ringtide/plain", "ssm:/ringtide/secret", "s3://configuration/a/ringtide.toml"] {
        let config = aws::load(place, cloud.env()).await.unwrap();
        assert_eq!((config.reader.max_attempts, config.reader.inline_max), (7, 99), "{place}");
        assert_eq!(config.aws.endpoint_url, Some(cloud.server.url()), "{place}");
    }
    for (place, reason) in [
        ("ssm:/ringtide/none", "ParameterNotFound"),
        ("s3://configuration/none", "NoSuchKey"),
        ("s3://configuration", "s3://bucket/key"),
    ] {
        let error = aws::load(place, cloud.env()).await.unwrap_err().to_string();
        assert!(error.contains(place) && error.contains(reason), "{error}");
    }
    ssm.put_parameter().name("/ringtide/bad").value("spelling = 1").r#type(ParameterType::String).send().await.unwrap();
    let error = aws::load("ssm:/ringtide/bad", cloud.env()).await.unwrap_err().to_string();
    assert!(error.contains("ssm:/ringtide/bad") && error.contains("spelling"), "{error}");
}

/// A parked record is one message; where it is too long for the queue its images are left out.
async fn queues(cloud: &Cloud) {
    let sqs = aws_sdk_sqs::Client::new(&cloud.sdk);
    let create = async |name: &str, limit: Option<usize>| {
        let mut create = sqs.create_queue().queue_name(name);
        if let Some(limit) = limit {
            create = create.attributes(QueueAttributeName::MaximumMessageSize, limit.to_string());
        }
        create.send().await.unwrap().queue_url.unwrap()
    };
    let receive = async |url: &str| {
        let got = sqs.receive_message().queue_url(url).wait_time_seconds(5).send().await.unwrap();
        let message = got.messages.unwrap().remove(0);
        sqs.delete_message().queue_url(url).receipt_handle(message.receipt_handle.unwrap()).send().await.unwrap();
        serde_json::from_str::<ParkedRecord>(&message.body.unwrap()).unwrap()
    };
    let url = create("parked", None).await;
    let store = cloud.park(&url);
    store.park(&parked(1, 10)).await.unwrap();
    assert_eq!(receive(&url).await, parked(1, 10));

    // Longer than any queue takes.
    store.park(&parked(2, 1_100_000)).await.unwrap();
    let short = receive(&url).await;
    assert!(short.images_omitted);
    assert_eq!(short, parked(2, 1_100_000).without_images());
    let content = short.content.unwrap();
    assert!(content.get().contains("Keys") && content.get().len() < 1000, "{}", content.get());

    let gone = cloud.park(&url.replace("parked", "nowhere"));
    let error = gone.park(&parked(3, 10)).await.unwrap_err();
    assert!(matches!(error, ParkError::Refused { .. }) && error.to_string().contains("nowhere"), "{error}");
    let nowhere = format!("http://127.0.0.1:{}", ringtide_servers::free_port().unwrap());
    let mut down = cloud.config(&format!("park = {{ to = \"{url}\" }}"));
    down.aws.endpoint_url = Some(nowhere);
    let error = aws::services(&down).park.unwrap().park(&parked(3, 10)).await.unwrap_err();
    assert!(matches!(error, ParkError::Unavailable { .. }), "{error}");
}

/// A parked record is one object, named by its place in the stream, which overwrites itself.
async fn objects(cloud: &Cloud) {
    let s3 = cloud.s3();
    s3.create_bucket().bucket("parked").send().await.unwrap();
    let store = cloud.park("s3://parked/some/prefix");
    for reason in ["first", "second"] {
        store.park(&ParkedRecord { reason: reason.to_owned(), ..parked(42, 2_000_000) }).await.unwrap();
    }
    let listed = s3.list_objects_v2().bucket("parked").send().await.unwrap().contents.unwrap();
    let keys: Vec<_> = listed.into_iter().filter_map(|object| object.key).collect();
    assert_eq!(keys, ["some/prefix/products/2025/12/31/42.json"]);
    let objects = Objects::new(&cloud.settings);
    let object = objects.get("parked", &keys[0]).await.unwrap();
    let read: ParkedRecord = serde_json::from_slice(&object).unwrap();
    assert_eq!(read, ParkedRecord { reason: "second".into(), ..parked(42, 2_000_000) });
    let error = objects.get("parked", "none").await.unwrap_err();
    assert!(matches!(error, ObjectError::Missing { .. }), "{error}");
    let error = cloud.park("s3://nowhere").park(&parked(1, 1)).await.unwrap_err();
    assert!(matches!(error, ParkError::Refused { .. }), "{error}");
}

/// A secret is read once, and once more a while after a server refused what it held.
async fn secrets(cloud: &Cloud) {
    let manager = aws_sdk_secretsmanager::Client::new(&cloud.sdk);
    let secrets = BTreeMap::from([("ring/object", r#"{"username":"app","password":"p{1}"}"#), ("ring/text", "plain")]);
    for (name, value) in &secrets {
        manager.create_secret().name(*name).secret_string(*value).send().await.unwrap();
    }
    let login = async |valkey: &str| {
        let credentials = aws::services(&cloud.config(&format!("valkey = {{ {valkey} }}"))).credentials.unwrap();
        let login = credentials.login().await;
        (credentials, login)
    };
    let (object, first) = login("password_secret = \"ring/object\"").await;
    let first = first.unwrap();
    assert_eq!((first.username.as_deref(), first.password.reveal()), (Some("app"), "p{1}"));
    let (_, text) = login("username = \"me\", password_secret = \"ring/text\"").await;
    let text = text.unwrap();
    assert_eq!((text.username.as_deref(), text.password.reveal()), (Some("me"), "plain"));
    let (_, none) = login("password_secret = \"ring/none\"").await;
    let none = none.unwrap_err().to_string();
    assert!(none.contains("ring/none") && none.contains("ResourceNotFound"), "{none}");

    let rotated = r#"{"username":"app","password":"p2"}"#;
    manager.put_secret_value().secret_id("ring/object").secret_string(rotated).send().await.unwrap();
    assert_eq!(object.login().await.unwrap(), first, "it is kept");
    // However often it is refused, it is not read again at once.
    object.refused();
    assert_eq!(object.login().await.unwrap(), first);
    let begun = std::time::Instant::now();
    loop {
        object.refused();
        if object.login().await.unwrap().password.reveal() == "p2" {
            break;
        }
        assert!(begun.elapsed().as_secs() < 30, "the new password is not read");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert!(!format!("{object:?}").contains("p2"));
}
