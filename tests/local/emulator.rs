//! ministack: DynamoDB, its streams, Lambda, CloudFormation, SQS, SSM and logs at one endpoint.

use std::path::PathBuf;
use std::time::Duration;

use ringtide_servers::free_port;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::programs::{Program, eventually, http};

/// A ministack process whose functions reach their services by its own endpoint.
///
/// Its functions are processes of its group, which end with it; all it writes is below the test's directory.
pub(crate) struct Emulator {
    port: u16,
    _program: Program,
}

impl Emulator {
    pub(crate) async fn start() -> Self {
        let home = crate::scratch().join("ministack");
        std::fs::create_dir_all(&home).unwrap();
        let port = free_port().unwrap();
        let installed = crate::root().join("target/ministack/bin/ministack");
        let mut command = Command::new(if installed.exists() { installed } else { PathBuf::from("ministack") });
        command.current_dir(&home).env("TMPDIR", &home).env("STATE_DIR", home.join("state"));
        command.env("BIND_HOST", "127.0.0.1").env("GATEWAY_PORT", port.to_string());
        // Functions inherit it.
        command.env("AWS_ENDPOINT_URL", format!("http://127.0.0.1:{port}"));
        let program = Program::start("ministack", command, &home.join("log"));
        let answers = async || match http(port, "GET /_ministack/health HTTP/1.1", "").await {
            (200, _) => Ok(()),
            (status, _) => Err(format!("{status}, {}", program.output())),
        };
        eventually("ministack answers", Duration::from_secs(60), answers).await;
        Self { port, _program: program }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Calls an action of a service with a JSON protocol, such as `AmazonSSM.PutParameter`.
    pub(crate) async fn call(&self, target: &str, request: &Value) -> Value {
        let head = format!("POST / HTTP/1.1\r\ncontent-type: application/x-amz-json-1.1\r\nx-amz-target: {target}");
        self.answer(&head, request).await
    }

    /// Switches the mappings of a function and a source on or off.
    pub(crate) async fn switch(&self, source: &str, enabled: bool) {
        let mappings = "/2015-03-31/event-source-mappings";
        let listed = self.answer(&format!("GET {mappings}/?EventSourceArn={source} HTTP/1.1"), &Value::Null).await;
        let mapping = &listed["EventSourceMappings"][0];
        assert_eq!(mapping["EventSourceArn"], source, "{listed}");
        let id = mapping["UUID"].as_str().expect("mappings have ids");
        let head = format!("PUT {mappings}/{id} HTTP/1.1\r\ncontent-type: application/json");
        self.answer(&head, &json!({ "Enabled": enabled })).await;
    }

    async fn answer(&self, head: &str, request: &Value) -> Value {
        let body = if request.is_null() { String::new() } else { request.to_string() };
        let (status, answer) = http(self.port, head, &body).await;
        assert!((200..300).contains(&status), "{head}: {status} {answer}");
        serde_json::from_str(&answer).unwrap_or(Value::Null)
    }

    /// Sends a message to a queue.
    pub(crate) async fn send(&self, queue: &str, body: &Value) {
        let message = json!({ "QueueUrl": queue, "MessageBody": body.to_string() });
        self.call("AmazonSQS.SendMessage", &message).await;
    }
}
