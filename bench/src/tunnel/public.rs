//! Public HTTPS requests whose upstream is behind a tunnel: `postern up`, against nginx whose route to the upstream is
//! wireguard-go's. The upstream's machine is a stock one in both cases, with wireguard-go.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use ipnet::IpNet;
use postern_connector::conf;
use postern_model::PublicKey;

use super::field::Field;
use super::private::subfolder;
use super::station::Station;
use super::wireguard_go::{Device, Neighbour, WireGuardGo};
use crate::load::{HOST, Kind, Load, Proxy};
use crate::machine::{self, Cores};
use crate::measure::{Sample, Side};
use crate::nginx::{Listen, Nginx};
use crate::postern;
use crate::process::{Place, Process};
use crate::report::{Better, Metric};

const LOADS: [Load; 1] =
    [Load { title: "1 KiB, 64 kept connections", path: "/small", size: 1024, connections: 64, kind: Kind::KeepAlive }];

pub(super) const METRICS: [Metric; 1] = [Metric {
    name: "public_to_tunnel",
    unit: "1/s",
    better: Better::Higher,
    load: 0,
    value: |sample| sample.requests / sample.seconds,
}];

/// What the machine of the upstream is called at Postern.
const ORIGIN: &str = "origin";
/// Where the upstream listens on it.
const PORT: u16 = 8000;

/// Both proxies, on the near station's core for them; everything else is on the other core.
pub(super) struct Public<'a> {
    cores: Cores,
    folder: &'a Path,
    upstream: Process,
    devices: [Device; 2],
    ours: Proxy,
    theirs: Proxy,
}

impl<'a> Public<'a> {
    pub(super) fn prepare(
        field: &Field,
        cores: Cores,
        folder: &'a Path,
        nginx: &Nginx,
        wireguard_go: &WireGuardGo,
    ) -> Result<Self> {
        let (near, far) = (Station::Near, Station::Far);
        let place = Place::on(cores.proxy);
        let at = |name: &str| subfolder(folder, name);
        let listen = Listen { at: (Ipv4Addr::UNSPECIFIED, PORT).into(), seen_at: (far.outside(), PORT).into() };
        let upstream = nginx.start_upstream(field.on_core(far, cores.load), &at("upstream")?, &LOADS, listen)?;

        let mut ours = postern::start_with(place, &at("postern")?, &configuration())?;
        let known = ["--public-key", &far.public_key().to_string()];
        let membership = Membership::read(&postern::add_peer(&folder.join("postern"), ORIGIN, &known)?)?;

        let near_device = wireguard_go.device(field, folder, near, place, &[near.inside()])?;
        let origin = Neighbour { key: far.public_key(), endpoint: None, address: far.inside() };
        near_device.meet(field, near, &[origin])?;
        let addresses = [far.inside(), membership.own];
        let far_device = wireguard_go.device(field, folder, far, field.on_core(far, cores.load), &addresses)?;
        let nginx_side = Neighbour { key: near.public_key(), endpoint: Some(near.theirs()), address: near.inside() };
        let Membership { proxy, address, .. } = membership;
        let postern_side = Neighbour { key: proxy, endpoint: Some(near.ours()), address };
        far_device.meet(field, far, &[nginx_side, postern_side])?;
        let origin = SocketAddr::new(far.inside(), PORT);
        let mut theirs = nginx.start_proxy(place, &at("nginx")?, origin)?;

        for proxy in [&mut ours, &mut theirs] {
            reached(proxy)?;
        }
        Ok(Self { cores, folder, upstream, devices: [near_device, far_device], ours, theirs })
    }

    /// One measurement.
    pub(super) fn measure(&mut self, side: Side, duration: Duration) -> Result<Sample> {
        let proxy = match side {
            Side::Ours => &mut self.ours,
            Side::Theirs => &mut self.theirs,
        };
        let sample = LOADS[0].run(proxy, self.cores, duration, self.folder)?;
        self.upstream.check()?;
        self.devices.iter_mut().try_for_each(Device::check)?;
        Ok(sample)
    }
}

/// Waits until the upstream answers through a proxy.
fn reached(proxy: &mut Proxy) -> Result<()> {
    let mut last = None;
    let answer = machine::poll("the upstream behind the tunnel", Duration::from_secs(30), || {
        proxy.process.check()?;
        Ok(proxy.check(&LOADS[0]).map_err(|error| last = Some(error)).ok())
    });
    match (answer, last) {
        (Ok(_), _) => Ok(()),
        (Err(error), Some(last)) => Err(last.context(error)),
        (Err(error), None) => Err(error),
    }
}

/// What the wg-quick file of a machine without its private key says.
struct Membership {
    own: IpAddr,
    proxy: PublicKey,
    address: IpAddr,
}

impl Membership {
    fn read(text: &str) -> Result<Self> {
        // The machine's own key stays where it is; any key completes the file.
        let text = text.replace("[Interface]", &format!("[Interface]\nPrivateKey = {}", PublicKey([7; 32])));
        let conf = conf::parse(&text).map_err(|mistakes| anyhow!("the file of a peer: {mistakes:?}"))?;
        let own = conf.addresses.into_iter().next().context("a peer without an address")?;
        let proxy = conf.peers.into_iter().next().context("a tunnel without a proxy")?;
        let address = proxy.allowed_ips.first().map(IpNet::addr).context("a proxy without an address")?;
        Ok(Self { own, proxy: proxy.key, address })
    }
}

fn configuration() -> String {
    let endpoint = Station::Near.ours();
    format!(
        "[tunnel]
port = {}
endpoint = \"{endpoint}\"

[service.public]
host = \"{HOST}\"
upstream = \"tunnel://{ORIGIN}:{PORT}\"
access = \"open\"
",
        endpoint.port()
    )
}
