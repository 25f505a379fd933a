//! Network namespaces for tests with real WireGuard peers: the test itself runs in one of its own, its peers in others, each
//! joined to it by a pair of virtual Ethernet devices. Nothing of the machine is touched, and all of it goes with the processes.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::eventually;

/// Runs the ignored test `name` of the calling test binary in a network namespace of its own, in which `lo` is up.
///
/// # Panics
/// With the output of the inner test if it fails, or does not run.
pub async fn in_namespace(name: &str) {
    let this = std::env::current_exe().expect("this test");
    let script = "ip link set lo up && exec \"$0\" --exact \"$1\" --ignored --nocapture";
    let run = Command::new("unshare")
        .args(["--net", "--", "sh", "-c", script])
        .arg(this)
        .arg(name)
        .kill_on_drop(true)
        .output()
        .await
        .expect("unshare is installed");
    let text = [run.stdout, run.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(run.status.success() && text.contains("1 passed"), "in the namespace (this needs root):\n{text}");
}

/// A machine beside the test's own: a network namespace with one cable to it.
pub struct Machine {
    /// Holds the namespace.
    holder: Child,
    number: u8,
}

impl Machine {
    /// A machine with the address `10.77.number.2`, which reaches the test at `10.77.number.1`.
    pub async fn new(number: u8) -> Self {
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--net", "--", "sh", "-c", "echo here; exec sleep 3600"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("setpriv and unshare are installed");
        let machine = Self { holder, number };
        let (pid, n) = (machine.pid(), number);
        // Until the kernel has made the namespace, the holder is still in ours.
        let ours = std::fs::read_link("/proc/self/ns/net").expect("the kernel has namespaces");
        let apart = || async { (std::fs::read_link(format!("/proc/{pid}/ns/net")).ok()? != ours).then_some(()) };
        eventually("a namespace", apart).await;
        sh(&format!("ip link add near{n} type veth peer name far netns {pid}")).await;
        sh(&format!("ip addr add 10.77.{n}.1/24 dev near{n} && ip link set near{n} up")).await;
        machine.sh("ip link set lo up && ip link set far up").await;
        machine.sh(&format!("ip addr add 10.77.{n}.2/24 dev far")).await;
        machine
    }

    /// The number that it was made with.
    #[must_use]
    pub fn number(&self) -> u8 {
        self.number
    }

    /// The test's address on the cable.
    #[must_use]
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 1)
    }

    /// The name of the test's end of the cable.
    #[must_use]
    pub fn cable(&self) -> String {
        format!("near{}", self.number)
    }

    /// A program on this machine.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid())).args(["--", program]);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs a line of shell on this machine; what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub async fn sh(&self, line: &str) -> String {
        let mut command = self.command("sh");
        succeed(command.args(["-ec", line]), line).await
    }

    fn pid(&self) -> u32 {
        self.holder.id().expect("it runs")
    }
}

/// Runs a line of shell where the test is; what it prints.
///
/// # Panics
/// When it fails.
pub async fn sh(line: &str) -> String {
    succeed(Command::new("sh").args(["-ec", line]), line).await
}

async fn succeed(command: &mut Command, line: &str) -> String {
    let output = command.kill_on_drop(true).output().await.expect("sh is installed");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{line}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// A listener of the test's own namespace, at the address of a peer in a tunnel: whoever dials the peer over the host's network
/// comes here. Dropping it takes the listener away; the address stays.
pub struct Decoy {
    listener: TcpListener,
    address: SocketAddr,
}

impl Decoy {
    /// Gives the namespace the address, and listens there.
    ///
    /// # Panics
    /// When the address is there already.
    pub async fn at(address: SocketAddr) -> Self {
        sh(&format!("ip addr add {}/32 dev lo", address.ip())).await;
        let listener = TcpListener::bind(address).expect("nobody else listens there");
        Self { listener, address }
    }

    /// Whoever has come is in the kernel's queue, though nobody answers.
    ///
    /// # Panics
    /// When somebody has, or when it would not have been noticed.
    pub fn assert_nobody_came(&self) {
        self.listener.set_nonblocking(true).expect("it is ours");
        let came = self.listener.accept();
        let nobody = came.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(nobody, "the host's network was used: {came:?}");
        let _caller = TcpStream::connect(self.address).expect("it is reached");
        self.listener.set_nonblocking(false).expect("it is ours");
        self.listener.accept().expect("whoever comes is noticed");
    }
}

/// A stock WireGuard device, run by wireguard-go, on a [`Machine`].
pub struct WireGuard<'a> {
    machine: &'a Machine,
    name: String,
    daemon: Child,
}

impl<'a> WireGuard<'a> {
    /// Brings up a device from a wg-quick file, which only this device may read.
    pub async fn up(machine: &'a Machine, conf: &std::path::Path) -> Self {
        // Its control socket lies in a folder that all namespaces share.
        let name = format!("pt{}n{}", std::process::id(), machine.number);
        let mut daemon = machine.command("wireguard-go");
        daemon.args(["-f", &name]).env("LOG_LEVEL", "error").stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = daemon.spawn().expect("wireguard-go is installed");
        let device = Self { machine, name, daemon };
        let name = &device.name;
        eventually("the WireGuard device", || async {
            let shown = device.machine.command("wg").args(["show", name]).output().await.expect("wg is installed");
            shown.status.success().then_some(())
        })
        .await;
        let path = conf.display();
        device
            .machine
            .sh(&format!("wg-quick strip {path} > {path}.stripped && wg setconf {name} {path}.stripped"))
            .await;
        let text = std::fs::read_to_string(conf).expect("the file is there");
        for address in values(&text, "Address") {
            device.machine.sh(&format!("ip addr add {address} dev {name}")).await;
        }
        let mtu = values(&text, "MTU").pop().unwrap_or("1420");
        device.machine.sh(&format!("ip link set {name} mtu {mtu} up")).await;
        for range in values(&text, "AllowedIPs") {
            device.machine.sh(&format!("ip route add {range} dev {name}")).await;
        }
        device
    }

    /// The name of the device.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Kills it as a crash does.
    pub async fn kill(mut self) {
        self.daemon.kill().await.expect("it can be killed");
    }
}

impl Drop for WireGuard<'_> {
    fn drop(&mut self) {
        let _ended_before = self.daemon.start_kill();
        let _never_made = std::fs::remove_file(format!("/var/run/wireguard/{}.sock", self.name));
    }
}

/// The values of a setting of a wg-quick file, split at commas.
fn values<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let settings = text.lines().filter_map(|line| line.split_once('='));
    let named = settings.filter(|(key, _)| key.trim() == name);
    named.flat_map(|(_, value)| value.split(',').map(str::trim)).collect()
}
