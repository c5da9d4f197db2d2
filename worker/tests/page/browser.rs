//! A headless Chromium, driven by chromedriver on a loopback port; both end with the handle.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ringtide_servers::free_port;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Browser {
    driver: Child,
    port: u16,
    session: String,
    /// The browser's process, which the driver may leave behind.
    process: Option<u64>,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser that can reach nothing but this machine.
    pub(crate) fn start() -> Self {
        let (port, profile) = (free_port().unwrap(), tempfile::tempdir().unwrap());
        let log = File::create(profile.path().join("chromedriver.log")).unwrap();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .env("HOME", profile.path())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .stdin(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("the status page is not tested: chromedriver does not start ({error}); run `make setup`, which installs it")
            });
        let mut browser = Self { driver, port, session: String::new(), process: None, _profile: profile };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(begun.elapsed() < PATIENCE, "chromedriver does not take connections");
            std::thread::sleep(Duration::from_millis(20));
        }
        let profile = format!("--user-data-dir={}", browser._profile.path().join("profile").display());
        let arguments = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--no-default-browser-check",
            "--no-proxy-server",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            &profile,
        ];
        let options = json!({ "args": arguments });
        let wanted = json!({ "browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": { "browser": "ALL" } });
        let answer = browser.ask("POST", "/session", &json!({ "capabilities": { "alwaysMatch": wanted } }));
        browser.process = answer["capabilities"]["goog:processID"].as_u64();
        let session = answer["sessionId"].as_str();
        browser.session =
            session.unwrap_or_else(|| panic!("the browser does not start: {answer}; run `make setup`")).to_owned();
        browser
    }

    pub(crate) fn open(&self, url: &str) {
        self.say("/url", &json!({ "url": url }));
    }

    /// Shows the page as a device of this width does, in light or dark.
    pub(crate) fn look_as(&self, width: u32, height: u32, scheme: &str) {
        let mobile = width < 600;
        self.devtools(
            "Emulation.setDeviceMetricsOverride",
            &json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile }),
        );
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.devtools("Emulation.setEmulatedMedia", &json!({ "features": [feature] }));
    }

    /// What a script returns.
    pub(crate) fn run(&self, script: &str) -> Value {
        self.say("/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// Waits until an expression is true.
    pub(crate) fn until(&self, expression: &str) {
        let begun = Instant::now();
        while self.run(&format!("return Boolean({expression})")) != Value::Bool(true) {
            let text = self.run("return document.body.innerText");
            assert!(begun.elapsed() < PATIENCE, "never came true: {expression}\n{}", text.as_str().unwrap_or_default());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The whole page as a PNG in base64.
    pub(crate) fn picture(&self) -> String {
        let taken = self.devtools("Page.captureScreenshot", &json!({ "captureBeyondViewport": true }));
        taken["data"].as_str().unwrap().to_owned()
    }

    /// What the browser's console shows: errors of scripts, refused requests.
    pub(crate) fn console(&self) -> Vec<String> {
        let entries = self.say("/se/log", &json!({ "type": "browser" }));
        entries.as_array().unwrap().iter().map(ToString::to_string).collect()
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.say("/goog/cdp/execute", &json!({ "cmd": command, "params": parameters }))
    }

    fn say(&self, path: &str, body: &Value) -> Value {
        self.ask("POST", &format!("/session/{}{path}", self.session), body)
    }

    /// Ends the browser, and waits until the driver says so.
    fn quit(&self) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let path = format!("/session/{}", self.session);
        write!(stream, "DELETE {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\r\n", self.port)?;
        stream.read(&mut [0; 1024]).map(drop)
    }

    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.port,
            body.len()
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        // The driver does not always close the connection.
        let (mut reader, mut line, mut length) = (BufReader::new(stream), String::new(), 0);
        while reader.read_line(&mut line).unwrap() > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        let mut answer = vec![0; length];
        reader.read_exact(&mut answer).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|error| panic!("{path}: {error}"));
        let value = answer["value"].clone();
        assert!(value.get("error").is_none(), "{path}: {value}");
        value
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver alone would leave the browser behind, also after a test that failed.
        let _already_gone = self.quit();
        let _driver_gone = self.driver.kill();
        if let Some(process) = self.process {
            let _browser_gone = Command::new("kill").arg(process.to_string()).stderr(Stdio::null()).status();
        }
        let _reaped = self.driver.wait();
    }
}
