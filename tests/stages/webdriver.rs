//! Headless Chromium by the W3C WebDriver protocol, for tests of pages: Debian's
//! `chromium` and `chromium-driver`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A browser with one window. It ends with its value, also when a test fails.
pub struct Browser {
    driver: Child,
    base: String,
    session: String,
    profile: tempfile::TempDir,
}

impl Browser {
    /// Starts one.
    pub fn start() -> Browser {
        let profile = tempfile::tempdir().expect("a temporary directory");
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver starts; it is in Debian's chromium-driver");
        let mut lines = BufReader::new(driver.stdout.take().expect("a pipe")).lines();
        let port = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("successfully on port ")?.1.trim_end_matches('.').to_owned()));
        let base = format!("http://127.0.0.1:{}", port.expect("chromedriver says its port"));
        // From here on whatever fails ends the programs.
        let mut browser = Browser { driver, base, session: String::new(), profile };
        let profile = format!("--user-data-dir={}", browser.profile.path().display());
        let flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,900",
            &profile,
        ];
        let wanted = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": flags},
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }}});
        let made = browser.send("POST", "/session", &wanted);
        browser.session = made["sessionId"].as_str().expect("a session").to_owned();
        // Scrolling that takes its time would be waited for.
        browser.media("light");
        // The window's own first page asks for what it likes.
        browser.post("/url", &json!({"url": "about:blank"}));
        browser.post("/se/log", &json!({"type": "performance"}));
        browser
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Value {
        let request = ureq::request(method, &format!("{}{path}", self.base)).timeout(Duration::from_secs(60));
        let found = match method {
            "POST" => request.set("Content-Type", "application/json").send_string(&body.to_string()),
            _ => request.call(),
        };
        let (ok, found) = match found {
            Ok(found) => (true, found),
            Err(ureq::Error::Status(_, found)) => (false, found),
            Err(error) => panic!("{method} {path}: {error}"),
        };
        let text = found.into_string().expect("text");
        assert!(ok, "{method} {path}: {text}");
        let mut value: Value = serde_json::from_str(&text).expect("JSON");
        value["value"].take()
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        self.send("POST", &format!("/session/{}{path}", self.session), body)
    }

    fn devtools(&self, command: &str, parameters: &Value) -> Value {
        self.post("/goog/cdp/execute", &json!({"cmd": command, "params": parameters}))
    }

    /// Prefers `light` or `dark`, and nothing that moves.
    pub fn media(&self, scheme: &str) {
        let feature = |name: &str, value: &str| json!({"name": name, "value": value});
        let features = [feature("prefers-color-scheme", scheme), feature("prefers-reduced-motion", "reduce")];
        self.devtools("Emulation.setEmulatedMedia", &json!({"features": features}));
    }

    /// A screen of this size.
    pub fn screen(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.devtools("Emulation.setDeviceMetricsOverride", &size);
    }

    /// Opens a file, `part` being what stands behind it: empty, or `#` and more.
    pub fn open(&self, path: &Path, part: &str) {
        // The same file with another part would not be read again.
        self.post("/url", &json!({"url": "about:blank"}));
        self.post("/url", &json!({"url": format!("file://{}{part}", path.display())}));
    }

    /// What a program in the page returns.
    pub fn run(&self, program: &str) -> Value {
        self.post("/execute/sync", &json!({"script": program, "args": []}))
    }

    /// Waits until an expression is true.
    pub fn wait(&self, expression: &str) {
        let start = Instant::now();
        while self.run(&format!("return Boolean({expression});")) != true {
            assert!(start.elapsed() < Duration::from_secs(10), "never true: {expression}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Presses keys one after the other, where the focus is.
    pub fn press(&self, keys: &[&str]) {
        let act = |key: &&str| [json!({"type": "keyDown", "value": key}), json!({"type": "keyUp", "value": key})];
        let acts: Vec<Value> = keys.iter().flat_map(act).collect();
        self.post("/actions", &json!({"actions": [{"type": "key", "id": "keys", "actions": acts}]}));
    }

    /// Clicks the first element of a selector.
    pub fn click(&self, selector: &str) {
        // Not below what stays at the top of the screen.
        self.run(&format!("document.querySelector({}).scrollIntoView({{block: 'center'}});", json!(selector)));
        let found = self.post("/element", &json!({"using": "css selector", "value": selector}));
        let id = found.as_object().and_then(|found| found.values().next()?.as_str()).expect("an element").to_owned();
        self.post(&format!("/element/{id}/click"), &json!({}));
    }

    /// Chooses an option of a select by its value.
    pub fn choose(&self, id: &str, value: &str) {
        self.run(&format!(
            "const s = document.getElementById('{id}'); s.value = '{value}'; s.dispatchEvent(new Event('change'));"
        ));
    }

    /// Whether everything so far was quiet: no message in the console, and no
    /// request but for files and data.
    pub fn assert_quiet(&self) {
        let messages = self.post("/se/log", &json!({"type": "browser"}));
        assert_eq!(messages, json!([]), "the console is empty");
        let events = self.post("/se/log", &json!({"type": "performance"}));
        let mut files = 0;
        for event in events.as_array().expect("a list") {
            let event: Value = serde_json::from_str(event["message"].as_str().expect("text")).expect("JSON");
            if event["message"]["method"] == "Network.requestWillBeSent" {
                let url = event["message"]["params"]["request"]["url"].as_str().unwrap_or_default().to_owned();
                assert!(["file://", "data:", "about:"].iter().any(|own| url.starts_with(own)), "asks for {url}");
                files += usize::from(url.starts_with("file://"));
                assert!(!url.starts_with("file://") || url.contains(".html"), "asks for {url}");
            }
        }
        assert!(files > 0, "no event of the network was seen");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if !self.session.is_empty() {
            let url = format!("{}/session/{}", self.base, self.session);
            let _ = ureq::delete(&url).timeout(Duration::from_secs(10)).call();
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        // Those of this profile, if any are left.
        let profile = self.profile.path().to_string_lossy().into_owned();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if pid.bytes().all(|b| b.is_ascii_digit()) && String::from_utf8_lossy(&line).contains(&profile) {
                let _ = Command::new("kill").args(["-9", &pid]).stderr(Stdio::null()).status();
            }
        }
    }
}
