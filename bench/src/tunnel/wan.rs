//! One TCP connection through a tunnel over a link that is long, narrow and loses packets.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::bulk::transfer;
use super::end::Tcp;
use super::field::Field;
use super::relay::{self, Relay};
use super::station::Station;
use super::wireguard_go::{Device, WireGuardGo};
use crate::measure::{Sample, Side};
use crate::report::{Better, Metric};

pub(super) const PEER: &str = "kernel-bbr+wireguard-go";

pub(super) const METRICS: [Metric; 1] = [Metric {
    name: "wan_goodput_20ms_0.1",
    unit: "Mbit/s",
    better: Better::Higher,
    load: 0,
    value: |sample| sample.bytes * 8e-6 / sample.seconds,
}];

/// Both sides, each with a link of its own.
pub(super) struct Wan<'a> {
    field: &'a Field,
    folder: &'a Path,
    ours: Relay,
    theirs: Relay,
    _devices: [Device; 2],
}

impl<'a> Wan<'a> {
    /// With wireguard-go at both ends.
    pub(super) fn prepare(field: &'a Field, folder: &'a Path, wireguard_go: &WireGuardGo) -> Result<Self> {
        let ours = between(Station::ours, our_relay)?;
        let theirs = between(Station::theirs, their_relay)?;
        // Where one end finds the other: at the relay, which stands for it.
        let found = |station: Station| their_relay(station.other());
        let devices = wireguard_go.pair(field, folder, |station| field.on(station), found)?;
        Ok(Self { field, folder, ours, theirs, _devices: devices })
    }

    /// One measurement.
    pub(super) fn measure(&self, side: Side, duration: Duration) -> Result<Sample> {
        let (tcp, relay): (_, fn(Station) -> SocketAddr) = match side {
            Side::Ours => (Tcp::Ours, our_relay),
            Side::Theirs => (Tcp::KernelBbr, their_relay),
        };
        transfer(self.field, self.folder, tcp, |station| relay(station.other()), duration)
    }

    /// Ends the links; what went wrong with them.
    pub(super) fn finish(self) -> Result<()> {
        self.ours.finish()?;
        self.theirs.finish()
    }
}

fn between(tunnel: fn(Station) -> SocketAddr, relay: fn(Station) -> SocketAddr) -> Result<Relay> {
    let side = |station| relay::Side { tunnel: tunnel(station), relay: relay(station) };
    Relay::start(side(Station::Far), side(Station::Near))
}

/// Where the relay takes what our tunnel of a station sends.
fn our_relay(station: Station) -> SocketAddr {
    station.relay(51830)
}

/// Where the relay takes what wireguard-go of a station sends.
fn their_relay(station: Station) -> SocketAddr {
    station.relay(51840)
}
