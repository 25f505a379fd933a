//! The kernel's TCP within reach of this process: a TUN device whose packets it reads and writes. For a network namespace of
//! its own, so that the addresses are free.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};
use smoltcp::phy::{Medium, TunTapInterface};

/// The kernel's addresses.
pub const KERNEL: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 9, 0, 1), Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1));
/// The addresses of whoever reads the device: the kernel sends there what is meant for them.
pub const BEYOND: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(10, 9, 0, 2), Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2));

const DEVICE: &str = "postern0";

/// A TUN device with [`KERNEL`]'s addresses, and the networks around them behind it.
#[derive(Debug)]
pub struct Tun {
    file: File,
    buffer: Vec<u8>,
}

impl Tun {
    /// Creates the device for packets of at most `mtu` bytes. There is one in a namespace.
    ///
    /// # Errors
    /// Without the privilege to create it, and if `ip` (iproute2) is missing or fails.
    pub fn create(mtu: u16) -> io::Result<Self> {
        let device = TunTapInterface::new(DEVICE, Medium::Ip)?;
        // The device lends a number only; from there a handle to wait on is one safe step, through the process itself.
        let this = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
        let file = File::from(rustix::process::pidfd_getfd(this, device.as_raw_fd(), PidfdGetfdFlags::empty())?);
        ip(&["addr", "add", &format!("{}/24", KERNEL.0), "dev", DEVICE])?;
        ip(&["-6", "addr", "add", &format!("{}/64", KERNEL.1), "dev", DEVICE, "nodad"])?;
        ip(&["link", "set", DEVICE, "up", "mtu", &mtu.to_string()])?;
        Ok(Self { file, buffer: vec![0; mtu.into()] })
    }

    /// A packet that the kernel has sent; `None` if there is none for now.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn receive(&mut self) -> io::Result<Option<&[u8]>> {
        match self.file.read(&mut self.buffer) {
            Ok(len) => Ok(Some(&self.buffer[..len])),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Hands a packet to the kernel.
    ///
    /// # Errors
    /// When the kernel does not take it.
    pub fn send(&mut self, packet: &[u8]) -> io::Result<()> {
        self.file.write_all(packet)
    }

    /// Waits until there is a packet to receive, for `time` at most.
    ///
    /// # Errors
    /// When the device is gone.
    pub fn wait(&self, time: Duration) -> io::Result<()> {
        let time = Timespec::try_from(time).map_err(io::Error::other)?;
        match rustix::event::poll(&mut [PollFd::new(&self.file, PollFlags::IN)], Some(&time)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())))
}
