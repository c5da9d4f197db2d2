//! Every place for parked records, written to and read: a directory, a DynamoDB table on the embedded emulator, and a
//! queue and a bucket on a LocalStack-compatible server.

use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use ringtide_core::aws;
use ringtide_core::config::{Aws, Config};
use ringtide_core::park::{Kept, ParkError, ParkReader, ParkStore, ParkedRecord};
use ringtide_core::record::RawRecord;
use ringtide_servers::{Emulator, Ministack, free_port};

/// Longer than anything here takes; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both sides of one place.
struct Place {
    store: Arc<dyn ParkStore>,
    reader: Arc<dyn ParkReader>,
}

impl Place {
    fn new(endpoint: &str, to: &str) -> Self {
        let text = format!(
            "aws = {{ region = \"us-east-1\", endpoint_url = \"{endpoint}\" }}\npark = {{ to = \"{to}\" }}\n\
             ring = {{ shards = [{{ name = \"a\", address = \"h:1\" }}] }}\n"
        );
        let config = Config::parse(&text, []).unwrap();
        Self { store: aws::services(&config).park.unwrap(), reader: aws::park_reader(&config).unwrap() }
    }

    /// Parks as a pipeline does: again and again until it is acknowledged.
    async fn park(&self, record: &ParkedRecord) {
        let parking = async {
            while self.store.park(record).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, parking).await.unwrap();
    }

    async fn list(&self) -> Vec<Kept> {
        let mut listed: Vec<Kept> = self.reader.list().try_collect().await.unwrap();
        listed.sort_by(|a, b| (&a.id, &a.handle).cmp(&(&b.id, &b.handle)));
        listed
    }
}

fn parked(sequence: u64, reason: &str, image: usize) -> ParkedRecord {
    let content = format!(
        r#"{{"eventName":"MODIFY","dynamodb":{{"ApproximateCreationDateTime":1767225599,"Keys":{{"pk":{{"S":"1"}}}},"NewImage":{{"text":{{"S":"{}"}}}},"SequenceNumber":"{sequence}"}}}}"#,
        "x".repeat(image)
    );
    ParkedRecord {
        table: Some("products".into()),
        stream_arn: Some("arn".into()),
        sequence: Some(sequence.to_string().parse().unwrap()),
        reason: reason.into(),
        parked_at_ms: 1_767_312_000_000,
        content: RawRecord::parse(content),
        ..ParkedRecord::default()
    }
}

const FIRST: &str = "products/2025/12/31/1";

/// What every place does. `twice` is how many records are kept of one that is parked twice.
async fn check(place: &Place, twice: usize) {
    assert_eq!((place.list().await, place.reader.count(9).await.unwrap()), (vec![], 0));
    assert!(place.reader.find(FIRST).await.unwrap().is_empty());
    place.park(&parked(1, "first", 9)).await;
    place.park(&parked(1, "second", 9)).await;
    // A page of any of the services holds less.
    for sequence in 2..=25 {
        place.park(&parked(sequence, "bad", 9)).await;
    }
    let kept = place.list().await;
    assert_eq!(kept.len(), 24 + twice, "{}", place.reader.place());
    assert!(kept.iter().any(|kept| kept.id == FIRST && kept.record == Ok(parked(1, "second", 9))));
    place.reader.done().await.unwrap();
    assert_eq!(place.list().await.len(), 24 + twice, "what was only looked at is there again");
    place.reader.done().await.unwrap();
    assert_eq!(place.reader.count(99).await.unwrap(), 24 + twice as u64);
    assert_eq!(place.reader.count(3).await.unwrap(), 3);

    let found = place.reader.find(FIRST).await.unwrap();
    assert_eq!(found.len(), twice);
    for kept in &found {
        place.reader.remove(kept).await.unwrap();
    }
    place.reader.done().await.unwrap();
    assert!(place.reader.find(FIRST).await.unwrap().is_empty());
    place.reader.done().await.unwrap();
    assert_eq!(place.list().await.len(), 24);
    place.reader.done().await.unwrap();
    // A name of somebody else's choosing leads nowhere.
    for id in ["", "../x", "products/2025/12/31/99", "/etc/passwd"] {
        assert!(place.reader.find(id).await.unwrap().is_empty(), "{id}");
    }
}

#[tokio::test]
async fn a_directory_is_written_and_read() {
    let folder = tempfile::tempdir().unwrap();
    check(&Place::new("http://127.0.0.1:1", &format!("file://{}/parked", folder.path().display())), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_created_written_and_read_and_its_items_are_never_too_long() {
    let emulator = Emulator::start().await.unwrap();
    let place = Place::new(emulator.url(), "dynamodb://parked-records");
    let error = place.store.park(&parked(1, "first", 9)).await.unwrap_err();
    assert!(matches!(error, ParkError::Unavailable { .. }) && error.to_string().contains("being created"), "{error}");
    // The pipeline tries again.
    place.park(&parked(1, "first", 9)).await;
    for kept in place.list().await {
        place.reader.remove(&kept).await.unwrap();
    }
    check(&place, 1).await;

    place.park(&parked(77, "long", 500_000)).await;
    let kept = place.reader.find("products/2025/12/31/77").await.unwrap().remove(0).record.unwrap();
    assert_eq!(kept, parked(77, "long", 500_000).without_images());
    assert!(kept.images_omitted && kept.content.unwrap().get().contains("Keys"));

    let nowhere = Place::new(&format!("http://127.0.0.1:{}", free_port().unwrap()), "dynamodb://parked-records");
    let error = nowhere.store.park(&parked(1, "first", 9)).await.unwrap_err();
    assert!(matches!(error, ParkError::Unavailable { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_and_a_bucket_are_written_and_read() {
    let server = tokio::task::spawn_blocking(|| Ministack::start().unwrap()).await.unwrap();
    let sdk = aws::sdk_config(&Aws { region: Some("us-east-1".into()), endpoint_url: Some(server.url()) }).await;
    let s3 = aws_sdk_s3::config::Builder::from(&sdk).force_path_style(true).build();
    aws_sdk_s3::Client::from_conf(s3).create_bucket().bucket("parked").send().await.unwrap();
    check(&Place::new(&server.url(), "s3://parked/some/prefix"), 1).await;

    let sqs = aws_sdk_sqs::Client::new(&sdk);
    let url = sqs.create_queue().queue_name("parked").send().await.unwrap().queue_url.unwrap();
    let place = Place::new(&server.url(), &url);
    check(&place, 2).await;
    sqs.send_message().queue_url(&url).message_body("no record").send().await.unwrap();
    assert_eq!(place.list().await.iter().filter(|kept| kept.record.is_err()).count(), 1);
    place.reader.done().await.unwrap();

    for gone in ["s3://nowhere/parked".to_owned(), url.replace("parked", "nowhere")] {
        let place = Place::new(&server.url(), &gone);
        let error = place.reader.list().try_collect::<Vec<_>>().await.unwrap_err();
        assert!(matches!(error, ParkError::Refused { .. }) && error.to_string().contains("nowhere"), "{error}");
    }
}
