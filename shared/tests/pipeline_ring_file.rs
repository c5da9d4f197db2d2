//! A configuration file whose `[ring]` a running pipeline follows.

use std::fs;
use std::time::Duration;

use ringtide_core::config::Config;
use ringtide_core::pipeline::{Pipeline, Services};

use crate::support::PRODUCTS;
use crate::valkey_connection::make_certificates;

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_membership_whose_ca_file_is_missing_for_a_while_is_taken_once_it_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (file, ca) = (folder.path().join("ringtide.toml"), folder.path().join("ca.pem"));
    make_certificates(folder.path());
    let elsewhere = folder.path().join("elsewhere.pem");
    fs::rename(&ca, &elsewhere).unwrap();
    // Nobody answers at either address, which is no error.
    let write = |epoch: u64, address: &str| {
        let text = format!(
            "valkey = {{ ca_file = \"{}\" }}\ndelivery = {{ watch = \"20ms\" }}\n\
             ring = {{ epoch = {epoch}, shards = [{{ name = \"a\", address = \"{address}\" }}] }}\n{PRODUCTS}",
            ca.display()
        );
        fs::write(&file, text).unwrap();
    };
    write(1, "127.0.0.1:1");
    let pipeline = Pipeline::connect(&Config::load(&file, []).unwrap(), Services::default()).unwrap().pipeline;
    write(2, "rediss://localhost:1");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(pipeline.ring().epoch, 1, "the CA file cannot be read");
    fs::rename(&elsewhere, &ca).unwrap();
    let taken = async {
        while pipeline.ring().epoch < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, taken).await.expect("the file was not edited since");
}
