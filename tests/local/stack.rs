//! The real template, built and deployed by `sam` as docs/deploying.md says, and what the function tells of itself.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::process::Command;

use crate::emulator::Emulator;
use crate::programs::Program;

const NAME: &str = "ringtide";

/// Compiles the function; minutes where nothing is compiled yet, seconds after that. Returns what is deployed, packed at
/// deflate's highest level, in bytes.
pub(crate) async fn build() -> usize {
    let folder = crate::target().join("aws-sam");
    let mut sam = sam("build");
    sam.arg("--build-dir").arg(&folder).args(["--parameter-overrides", &format!("Architecture={}", architecture())]);
    sam.env("CARGO_TARGET_DIR", crate::target());
    Program::start("sam build", sam, &crate::scratch().join("build.log")).finish(crate::COMPILING).await;
    let mut gzip = Command::new("gzip");
    gzip.args(["-9", "-c"]).arg(folder.join("Invalidator/bootstrap")).stderr(Stdio::inherit());
    let packed = gzip.output().await.unwrap();
    assert!(packed.status.success(), "gzip: {}", packed.status);
    packed.stdout.len()
}

pub(crate) struct Stack {
    outputs: Value,
}

impl Stack {
    /// Deploys what was built, or changes what is deployed.
    pub(crate) async fn deploy(emulator: &Emulator, parameters: &[(&str, &str)]) -> Self {
        let architecture = architecture();
        let given = parameters.iter().copied().chain([("Architecture", architecture)]);
        // A JSON string is YAML too.
        let lines: String = given.map(|(name, value)| format!("{name}: {}\n", Value::from(value))).collect();
        let file = crate::scratch().join("local.yaml");
        std::fs::write(&file, lines).unwrap();
        let mut sam = sam("deploy");
        sam.arg("--template-file").arg(crate::target().join("aws-sam/template.yaml"));
        // sam looks for it beside the template.
        sam.arg("--config-file").arg(crate::root().join("samconfig.toml"));
        sam.args(["--config-env", "local", "--parameter-overrides", &format!("file://{}", file.display())]);
        sam.env("AWS_ENDPOINT_URL", emulator.url());
        Program::start("sam deploy", sam, &crate::scratch().join("deploy.log")).finish(Duration::from_secs(120)).await;

        let mut sam = self::sam("list");
        sam.args(["stack-outputs", "--stack-name", NAME, "--output", "json", "--region", "us-east-1"]);
        sam.env("AWS_ENDPOINT_URL", emulator.url());
        let listed = Program::start("sam list", sam, &crate::scratch().join("list.log"));
        let listed = listed.finish(Duration::from_secs(60)).await;
        let begin = listed.find('[').unwrap_or_else(|| panic!("sam list stack-outputs: {listed}"));
        Self { outputs: serde_json::from_str(&listed[begin..]).unwrap() }
    }

    pub(crate) fn output(&self, name: &str) -> &str {
        let outputs = self.outputs.as_array().expect("a list of outputs");
        let output = outputs.iter().find(|output| output["OutputKey"] == name);
        output.and_then(|output| output["OutputValue"].as_str()).unwrap_or_else(|| panic!("no {name}: {outputs:?}"))
    }

    /// What the function has logged so far, in the embedded metric format or not.
    pub(crate) async fn log(&self, emulator: &Emulator) -> Vec<String> {
        let request = json!({ "logGroupName": self.output("LogGroup"), "limit": 10_000 });
        let answer = emulator.call("Logs_20140328.FilterLogEvents", &request).await;
        let events = answer["events"].as_array().expect("a list of events").clone();
        assert!(events.len() < 10_000, "the log is not read to its end");
        events.iter().filter_map(|event| event["message"].as_str().map(str::to_owned)).collect()
    }

    /// A counter of the function since it was deployed, over all labels or those that have a value.
    pub(crate) async fn count(&self, emulator: &Emulator, counter: &str, label: &str) -> u64 {
        let log = self.log(emulator).await;
        let documents = log.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let counted = documents.filter(|document| !document["_aws"].is_null()).filter(|document| {
            label.is_empty() || document.as_object().is_some_and(|fields| fields.values().any(|value| value == label))
        });
        counted.filter_map(|document| document[counter].as_u64()).sum()
    }
}

/// The processor that functions run on: the one that this test was compiled for.
const fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" }
}

fn sam(subcommand: &str) -> Command {
    let installed = crate::root().join("target/sam/bin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(installed.clone()).chain(std::env::split_paths(&path))).unwrap();
    let program = if installed.exists() { installed.join("sam") } else { PathBuf::from("sam") };
    let mut command = Command::new(program);
    command.arg(subcommand).current_dir(crate::root()).env("PATH", path);
    // What cargo tells the test of itself would make the function's dependencies look changed.
    for (name, _) in std::env::vars_os().filter(|(name, _)| inherited_from_cargo(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    let home = crate::scratch().join("sam");
    as_checked_today(&home);
    command.env("SAM_CLI_TELEMETRY", "0").env("__SAM_CLI_APP_DIR", home);
    // Nothing of the machine's own account, and nothing that asks for one.
    for name in ["AWS_PROFILE", "AWS_SESSION_TOKEN"] {
        command.env_remove(name);
    }
    command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").env("AWS_REGION", "us-east-1");
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("AWS_CONFIG_FILE", "/dev/null");
    command
}

fn inherited_from_cargo(name: &str) -> bool {
    name == "CARGO" || name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

/// Keeps sam from asking the package index for a newer version of itself.
fn as_checked_today(home: &Path) {
    std::fs::create_dir_all(home).unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    std::fs::write(home.join("metadata.json"), json!({ "lastVersionCheck": now }).to_string()).unwrap();
}
