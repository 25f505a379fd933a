//! Children that cannot outlive the benchmark.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::machine;

/// How long a child may take to end by itself.
const GRACE: Duration = Duration::from_secs(10);

/// Where a child runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Place {
    core: Option<usize>,
    namespace: Option<u32>,
}

impl Place {
    /// Pinned to a core.
    pub(crate) fn on(core: usize) -> Self {
        Self { core: Some(core), namespace: None }
    }

    /// In the network namespace that a process is in.
    pub(crate) fn beside(self, pid: u32) -> Self {
        Self { namespace: Some(pid), ..self }
    }

    /// A command there. The kernel ends it when the benchmark is killed; its own process group lets [`Process`] end it with
    /// all its children otherwise.
    pub(crate) fn command(self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        if let Some(pid) = self.namespace {
            command.arg("nsenter").arg(format!("--net=/proc/{pid}/ns/net")).arg("--");
        }
        if let Some(core) = self.core {
            command.args(["taskset", "--cpu-list"]).arg(core.to_string());
        }
        command.arg(program).stdin(Stdio::null()).process_group(0);
        command
    }
}

/// A running child and the file that takes its output. Dropping it ends the child and waits for that.
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(crate) fn spawn(name: &'static str, mut command: Command, log: PathBuf) -> Result<Self> {
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = output.try_clone().context("cannot share a log file")?;
        let child = command
            .stdout(output)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {name}: setpriv and taskset come with util-linux"))?;
        Ok(Self { name, child, log })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails, with the last lines it wrote, if the child has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait().with_context(|| format!("cannot watch {}", self.name))? {
            None => Ok(()),
            Some(status) => bail!("{} ended ({status}): {}", self.name, self.last_words()),
        }
    }

    /// Waits until the child has written `word`.
    pub(crate) fn wait_for(&mut self, word: &str, limit: Duration) -> Result<()> {
        machine::poll(self.name, limit, || {
            self.check()?;
            let written = fs::read_to_string(&self.log).unwrap_or_default();
            Ok(written.contains(word).then_some(()))
        })
    }

    /// Waits for a child that ends by itself, and returns what it wrote.
    pub(crate) fn finish(mut self, limit: Duration) -> Result<String> {
        let status: ExitStatus = machine::poll(self.name, limit, || Ok(self.child.try_wait()?))?;
        if !status.success() {
            bail!("{} failed ({status}): {}", self.name, self.last_words());
        }
        fs::read_to_string(&self.log).with_context(|| format!("cannot read {}", self.log.display()))
    }

    fn last_words(&self) -> String {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        match lines.get(lines.len().saturating_sub(5)..) {
            Some(last) if !last.is_empty() => last.join("\n"),
            Some(_) | None => "it wrote nothing".to_owned(),
        }
    }

    fn signal_group(&self, signal: Signal) {
        if let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            // The group is gone if everything in it has ended, which is what is asked for.
            let _ = kill_process_group(group, signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        self.signal_group(Signal::TERM);
        if machine::poll(self.name, GRACE, || Ok(self.child.try_wait()?)).is_err() {
            self.signal_group(Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path) -> Process {
        let core = machine::Cores::choose().map_or(0, |cores| cores.load);
        let mut command = Place::on(core).command(Path::new("sh"));
        command.args(["-c", script]);
        Process::spawn("sh", command, folder.join("log")).expect("a shell starts")
    }

    #[test]
    fn output_is_returned_and_failure_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let limit = Duration::from_secs(20);
        assert_eq!(shell("echo done", folder.path()).finish(limit).expect("success"), "done\n");
        let error = shell("echo broken >&2; exit 3", folder.path()).finish(limit).expect_err("failure");
        assert!(error.to_string().contains("broken"), "{error}");
    }

    #[test]
    fn dropping_ends_the_child_and_its_children() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("grandchild");
        let process =
            shell(&format!("sleep 1000 & echo $! > {}.new; mv {0}.new {0}; wait", file.display()), folder.path());
        let limit = Duration::from_secs(20);
        let grandchild = machine::poll("the grandchild", limit, || Ok(fs::read_to_string(&file).ok())).expect("starts");
        drop(process);
        // An orphan that has ended may wait for init to reap it: state Z.
        let stat = format!("/proc/{}/stat", grandchild.trim());
        let gone = || Ok(fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")).then_some(()));
        machine::poll("the grandchild's end", limit, gone).expect("ends");
    }
}
