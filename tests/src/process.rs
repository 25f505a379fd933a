//! `postern` as a process, started as a user starts it.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::{eventually, within};

/// The binary under test, from `POSTERN_BIN`, which `make test` sets.
///
/// # Panics
/// When the variable is not set or names no file.
#[must_use]
pub fn binary() -> PathBuf {
    let path = std::env::var_os("POSTERN_BIN").map(PathBuf::from);
    let path = path.expect("POSTERN_BIN is not set: run `make test`, or build and set it to target/debug/postern");
    assert!(path.is_file(), "POSTERN_BIN={} is not a file: run `cargo build -p postern-cli`", path.display());
    path
}

/// A running process whose output is kept. It is killed when dropped.
pub struct Postern {
    child: Child,
    output: Arc<Mutex<String>>,
}

impl Postern {
    /// Starts the binary with `arguments` and `variables`, and no other variable of its own kind.
    pub fn start<A: AsRef<OsStr>>(arguments: &[A], variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(binary());
        command.args(arguments).env("NO_COLOR", "1").stdin(Stdio::null()).kill_on_drop(true);
        command.envs(variables.iter().copied());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("postern starts");
        let output = Arc::default();
        keep(child.stdout.take().expect("piped"), &output);
        keep(child.stderr.take().expect("piped"), &output);
        Self { child, output }
    }

    /// Everything printed so far, both streams.
    #[must_use]
    pub fn output(&self) -> String {
        self.output.lock().clone()
    }

    /// Waits for a line that contains `text`, and returns it.
    pub async fn printed(&self, text: &str) -> String {
        let line = || async { self.output().lines().find(|line| line.contains(text)).map(str::to_owned) };
        eventually(&format!("`{text}` in the output"), line).await
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// What it has in memory now, in KiB.
    ///
    /// # Panics
    /// Where there is no `/proc`.
    #[must_use]
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel counts it");
        line.trim_end_matches("kB").trim().parse().expect("a number")
    }

    /// Sends SIGTERM and waits for the end.
    pub async fn stop(mut self) -> (Option<i32>, String) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status().await.expect("kill runs");
        assert!(sent.success(), "kill {pid}");
        self.ended().await
    }

    /// Kills at once, as a crash does.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// Waits for the process to end by itself; its exit code and its output.
    pub async fn ended(&mut self) -> (Option<i32>, String) {
        let status = within("postern to end", self.child.wait()).await.expect("it can be waited for");
        // The pipes may still hold the last lines when the process is gone; both readers end at their end of file.
        eventually("the output to be whole", || async { (Arc::strong_count(&self.output) == 1).then_some(()) }).await;
        (status.code(), self.output())
    }
}

fn keep(stream: impl AsyncRead + Unpin + Send + 'static, output: &Arc<Mutex<String>>) {
    let output = Arc::clone(output);
    tokio::spawn(async move {
        let mut lines = BufReader::new(stream).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let mut output = output.lock();
            output.push_str(&line);
            output.push('\n');
        }
    });
}

/// Runs the binary to its end: exit code and output.
pub async fn run<A: AsRef<OsStr>>(arguments: &[A], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    Postern::start(arguments, variables).ended().await
}

/// `postern up`, once everything answers.
pub struct Up {
    /// The process.
    pub process: Postern,
    /// What the ready file says.
    pub ready: Value,
    /// Where its data and its `postern.toml` lie.
    pub folder: TempDir,
}

impl Up {
    /// `postern up` without a configuration.
    pub async fn demo() -> Self {
        Self::start(tempfile::tempdir().expect("a folder"), None, &["--https", "127.0.0.1:0"]).await
    }

    /// `postern up postern.toml` with this text in it.
    pub async fn with(configuration: &str) -> Self {
        Self::with_flags(configuration, &["--https", "127.0.0.1:0"]).await
    }

    /// The same with other flags than the one that has HTTPS served on a free loopback port.
    pub async fn with_flags(configuration: &str, flags: &[&str]) -> Self {
        Self::start(tempfile::tempdir().expect("a folder"), Some(configuration), flags).await
    }

    async fn start(folder: TempDir, configuration: Option<&str>, flags: &[&str]) -> Self {
        let path = |name: &str| folder.path().join(name).into_os_string();
        let mut arguments = vec!["up".into()];
        if let Some(text) = configuration {
            std::fs::write(path("postern.toml"), text).expect("the folder is writable");
            arguments.push(path("postern.toml"));
        }
        arguments.extend(["--data-dir".into(), path("data"), "--ready-file".into(), path("ready.json")]);
        arguments.extend(["--management", "127.0.0.1:0", "--health-addr", "127.0.0.1:0"].map(Into::into));
        arguments.extend(flags.iter().map(Into::into));
        let process = Postern::start(&arguments, &[]);
        let ready_file = folder.path().join("ready.json");
        let ready = eventually("the ready file", || async {
            let text = std::fs::read(&ready_file).ok()?;
            Some(serde_json::from_slice(&text).expect("the ready file is whole when it is there"))
        })
        .await;
        Self { process, ready, folder }
    }

    /// Writes `text` over `postern.toml`, as an editor does.
    pub fn configure(&self, text: &str) {
        let path = self.folder.path().join("postern.toml");
        let fresh = self.folder.path().join("postern.toml.new");
        std::fs::write(&fresh, text).expect("the folder is writable");
        std::fs::rename(fresh, path).expect("the folder is writable");
    }

    /// Where HTTPS is served.
    #[must_use]
    pub fn https(&self) -> SocketAddr {
        self.ready["https"].as_str().and_then(|text| text.parse().ok()).expect("an address in the ready file")
    }

    /// The local CA's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.ready["ca_file"].as_str().map(Path::new).expect("a CA file in the ready file").to_owned()
    }

    /// An HTTP/1.1 client that trusts it.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.https(), &self.ca())
    }

    /// An HTTP/2 client that trusts it.
    #[must_use]
    pub fn client_h2(&self) -> Client {
        Client::h2(self.https(), &self.ca())
    }
}
