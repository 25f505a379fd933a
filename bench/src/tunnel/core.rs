//! What one core does with a tunnel, and what WireGuard's cryptography alone would do on it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use boringtun::noise::{Tunn, TunnResult};
use boringtun::x25519::{PublicKey, StaticSecret};
use clap::{Args, ValueEnum};
use tokio::time::timeout;

use super::end;
use super::station::Station;
use super::traffic::Traffic;
use super::userspace::{PATIENCE, Userspace, map};
use crate::machine;

const PORT: u16 = 5001;
/// A WireGuard tunnel's usual packet.
const PACKET: usize = 1420;
/// What WireGuard adds to it.
const OVERHEAD: usize = 32;
/// Packets sealed before they are opened: what leaves with one system call.
const BURST: usize = 44;

#[derive(Args)]
pub(crate) struct Core {
    #[arg(long)]
    work: Work,
    #[arg(long)]
    seconds: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Work {
    /// One TCP connection through two tunnels over UDP on loopback, everything in one thread.
    Tunnel,
    /// boringtun seals and opens packets.
    Aead,
}

impl Core {
    /// The same as arguments of this program.
    pub(super) fn arguments(work: Work, duration: Duration) -> Vec<String> {
        let work = work.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        ["tunnel-core", "--work", &work, "--seconds", &duration.as_secs().to_string()].map(str::to_owned).into()
    }

    /// Prints its [`Traffic`] when it is over.
    pub(crate) fn run(&self) -> Result<()> {
        let duration = Duration::from_secs(self.seconds.into());
        let (bytes, time) = match self.work {
            Work::Tunnel => {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.context("no runtime")?.block_on(tunnel(duration))?
            }
            Work::Aead => aead(duration)?,
        };
        let cpu = machine::cpu_seconds(std::process::id())?;
        println!("{}", Traffic { bytes, seconds: time.as_secs_f64(), cpu }.line()?);
        Ok(())
    }
}

async fn tunnel(duration: Duration) -> Result<(u64, Duration)> {
    let (near, far) = (Station::Near, Station::Far);
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let receiver = Userspace::start(near.key(), loopback, &map(near, None))?;
    let endpoint = SocketAddr::from((Ipv4Addr::LOCALHOST, receiver.tunnel.port()));
    let sender = Userspace::start(far.key(), loopback, &map(far, Some(endpoint)))?;

    let mut listener = receiver.tunnel.listen(PORT)?;
    let to = SocketAddr::new(near.inside(), PORT);
    let (stream, accepted) = tokio::join!(sender.tunnel.connect(to, PATIENCE), timeout(PATIENCE, listener.accept()));
    let (accepted, _) = accepted.context("no connection arrives")?.context("the tunnel has ended")?;
    let sending = tokio::spawn(end::send(stream?, duration + PATIENCE));
    let received = end::receive(accepted, duration).await?;
    sending.await??;
    receiver.close().await?;
    sender.close().await?;
    Ok(received)
}

/// What is sealed and opened, in bytes of packets.
fn aead(duration: Duration) -> Result<(u64, Duration)> {
    let (mut one, mut two) = session()?;
    let packet = packet();
    let mut wire = vec![[0; PACKET + OVERHEAD]; BURST];
    let mut out = vec![0; PACKET + OVERHEAD];
    let (start, mut bytes) = (Instant::now(), 0);
    loop {
        let time = start.elapsed();
        if time >= duration {
            return Ok((bytes, time));
        }
        for datagram in &mut wire {
            let sealed = one.encapsulate(&packet, datagram);
            ensure!(matches!(sealed, TunnResult::WriteToNetwork(_)), "boringtun does not seal");
        }
        for datagram in &wire {
            let TunnResult::WriteToTunnelV4(opened, _) = two.decapsulate(None, datagram, &mut out) else {
                bail!("boringtun does not open what it sealed");
            };
            bytes += opened.len() as u64;
        }
    }
}

/// Two ends that have shaken hands.
fn session() -> Result<(Tunn, Tunn)> {
    let secret = |station: Station| StaticSecret::from(station.key_bytes());
    let tunn = |own: Station, index| {
        let other = PublicKey::from(&secret(own.other()));
        Tunn::new(secret(own), other, None, None, index, None)
    };
    let (mut one, mut two) = (tunn(Station::Near, 1), tunn(Station::Far, 2));
    let (mut a, mut b) = ([0; 256], [0; 256]);
    let initiation = handshake(one.format_handshake_initiation(&mut a, false))?;
    let response = handshake(two.decapsulate(None, initiation, &mut b))?;
    let confirmation = handshake(one.decapsulate(None, response, &mut a))?;
    ensure!(matches!(two.decapsulate(None, confirmation, &mut b), TunnResult::Done), "boringtun is not satisfied");
    Ok((one, two))
}

fn handshake(result: TunnResult<'_>) -> Result<&[u8]> {
    match result {
        TunnResult::WriteToNetwork(message) => Ok(message),
        TunnResult::Done | TunnResult::Err(_) | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..) => {
            bail!("boringtun does not shake hands: {result:?}")
        }
    }
}

/// As much of IPv4 as WireGuard looks at.
fn packet() -> [u8; PACKET] {
    let mut packet = [7; PACKET];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(PACKET as u16).to_be_bytes());
    let addresses = [Station::Near, Station::Far].map(Station::inside);
    for (place, address) in packet[12..20].chunks_exact_mut(4).zip(addresses) {
        let IpAddr::V4(address) = address else { continue };
        place.copy_from_slice(&address.octets());
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boringtun_moves_packets() {
        let (bytes, time) = aead(Duration::from_millis(1)).expect("measured");
        assert!(bytes > 0 && bytes % (PACKET * BURST) as u64 == 0, "{bytes}");
        assert!(time >= Duration::from_millis(1));
    }

    #[tokio::test]
    async fn a_tunnel_moves_bytes() {
        assert!(tunnel(Duration::from_millis(10)).await.expect("measured").0 > 0);
    }
}
