use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use postern_model::{Generation, MappedPeer, PeerMap, PublicKey};

use crate::network::{Network, is_nobodys, overlap};
use crate::peer::{Delta, Device, Kept, Owner, Peer, Proxy, Role, Standing};
use crate::peer_error::PeerError;
use crate::peer_reports::{PeerChanges, PeerState};
use crate::words;

/// How long an address is nobody's before it is somebody else's: longer than a session lasts, and than somebody keeps
/// what they learned about whoever had it.
const QUARANTINE: i64 = 24 * 3600;

/// Each start of a proxy that keeps no key makes another peer.
const MOST_PROXIES: usize = 256;

/// Who has a place in one account's tunnel. A pure machine: every method leaves it as it should be, or as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roster {
    kept: Kept,
    /// The users of the desired state and their groups.
    listed: BTreeMap<String, BTreeSet<String>>,
}

/// A device to be added.
#[derive(Clone, Debug)]
pub(crate) struct NewDevice {
    pub(crate) name: String,
    pub(crate) key: PublicKey,
    pub(crate) user: Option<String>,
    pub(crate) groups: BTreeSet<String>,
    pub(crate) site: Vec<IpNet>,
    pub(crate) expires: Option<i64>,
}

impl Roster {
    pub(crate) fn new(network: Network) -> Self {
        let (peers, released) = (BTreeMap::new(), BTreeMap::new());
        let kept = Kept { range: network.range(), generation: Generation(0), peers, released };
        Self { kept, listed: BTreeMap::new() }
    }

    /// From what was kept. Where the network is another, everybody has other addresses, and so another generation.
    pub(crate) fn restore(kept: Kept, network: Network) -> Result<Self, PeerError> {
        let mut roster = Self { kept, listed: BTreeMap::new() };
        if roster.kept.range == network.range() {
            return Ok(roster);
        }
        if let Some((_, peer)) = roster.kept.peers.range(network.last() + 1..).next() {
            return Err(PeerError::NetworkTooSmall { network: network.range(), peer: shown(peer) });
        }
        roster.kept.range = network.range();
        for (_, device) in roster.devices() {
            roster.not_the_tunnels(&device.site)?;
        }
        let numbers: Vec<_> = roster.kept.peers.keys().copied().collect();
        numbers.into_iter().for_each(|number| roster.renew(number));
        Ok(roster)
    }

    pub(crate) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// What to write down where `before` is written down.
    pub(crate) fn since(&self, before: &Kept) -> Delta {
        Delta::between(before, &self.kept)
    }

    pub(crate) fn network(&self) -> Network {
        Network::new(self.kept.range).expect("checked before it was put here")
    }

    /// Adds a device and says which number it has.
    pub(crate) fn add(&mut self, new: NewDevice, now: i64) -> Result<u32, PeerError> {
        let NewDevice { name, key, user, groups, site, expires } = new;
        if !words::is_name(&name) {
            return Err(PeerError::Name);
        }
        if self.device(&name).is_ok() {
            return Err(PeerError::Taken(name));
        }
        if key.0 == [0; 32] {
            return Err(PeerError::Key);
        }
        if let Some((_, peer)) = self.by_key(key) {
            return Err(PeerError::KeyTaken(shown(peer)));
        }
        self.free(&site)?;
        let owner = user.map(|user| self.owner(user, None));
        let device = Device { name, owner, groups, site, enabled: true, expires, created: now };
        check(&device, expires, now)?;
        let number = self.allocate(now)?;
        self.put(number, key, Role::Device(device));
        Ok(number)
    }

    /// Gives a proxy its place: that of before for a key that has one.
    pub(crate) fn register(
        &mut self,
        key: PublicKey,
        proxy: Proxy,
        here: impl Fn(PublicKey) -> bool,
        now: i64,
    ) -> Result<(), PeerError> {
        let known = self.kept.peers.values_mut().find(|peer| peer.key == key);
        match known {
            Some(Peer { role: Role::Proxy(known), .. }) => {
                *known = proxy;
                return Ok(());
            }
            Some(peer) => return Err(PeerError::KeyTaken(shown(peer))),
            None if key.0 == [0; 32] => return Err(PeerError::Key),
            None => {}
        }
        let away = || self.proxies().filter(|(_, peer, _)| !here(peer.key));
        let longest_away = || away().min_by_key(|(_, _, proxy)| proxy.last_seen).map(|(number, ..)| number);
        let goes = match self.proxies().count() {
            MOST_PROXIES.. => Some(longest_away().ok_or(PeerError::TooManyProxies(MOST_PROXIES))?),
            _ => None,
        };
        let number = self.allocate(now)?;
        goes.into_iter().for_each(|number| self.release(number, now));
        self.put(number, key, Role::Proxy(proxy));
        Ok(())
    }

    /// Changes a device. It is another from then on, unless only its end has moved.
    pub(crate) fn set(&mut self, name: &str, changes: &PeerChanges, now: i64) -> Result<u32, PeerError> {
        let (number, before) = self.device(name).map(|(number, _, device)| (number, device.clone()))?;
        let mut after = before.clone();
        if let Some(user) = changes.user.value() {
            after.owner = user.map(|user| self.owner(user, None));
        }
        if let Some(groups) = &changes.groups {
            after.groups.clone_from(groups);
        }
        let expires = changes.expires.value();
        after.expires = expires.unwrap_or(before.expires);
        after.enabled = changes.enabled.unwrap_or(before.enabled);
        check(&after, expires.flatten(), now)?;
        let same = Device { expires: before.expires, ..after.clone() } == before
            && (before.state(now) == PeerState::Active) == (after.state(now) == PeerState::Active);
        if let Some(Peer { role, .. }) = self.kept.peers.get_mut(&number) {
            *role = Role::Device(after);
        }
        if !same {
            self.renew(number);
        }
        Ok(number)
    }

    /// Takes a device its place away.
    pub(crate) fn remove(&mut self, name: &str, now: i64) -> Result<(), PeerError> {
        let number = self.device(name).map(|(number, ..)| number)?;
        self.release(number, now);
        Ok(())
    }

    /// Removes every device of a user and says their names.
    pub(crate) fn remove_of(&mut self, user: &str, now: i64) -> Vec<String> {
        let theirs =
            |(number, device): (u32, &Device)| (device.user() == Some(user)).then(|| (number, device.name.clone()));
        let (numbers, names): (Vec<_>, _) = self.devices().filter_map(theirs).unzip();
        numbers.into_iter().for_each(|number| self.release(number, now));
        names
    }

    /// Takes up the users of a desired state. Whose groups are others, or who is no more, has other devices.
    pub(crate) fn list(&mut self, listed: BTreeMap<String, BTreeSet<String>>) {
        self.listed = listed;
        let owners = self.devices().filter_map(|(number, device)| Some((number, device.owner.clone()?)));
        for (number, before) in owners.collect::<Vec<_>>() {
            let after = self.owner(before.user.clone(), Some(&before));
            if after == before {
                continue;
            }
            if let Some(Peer { role: Role::Device(device), .. }) = self.kept.peers.get_mut(&number) {
                device.owner = Some(after);
            }
            self.renew(number);
        }
    }

    /// These proxies were seen.
    pub(crate) fn seen(&mut self, when: &BTreeMap<PublicKey, i64>) {
        for peer in self.kept.peers.values_mut() {
            if let (Role::Proxy(proxy), Some(&at)) = (&mut peer.role, when.get(&peer.key)) {
                proxy.last_seen = proxy.last_seen.max(at);
            }
        }
    }

    /// Forgets proxies that were last seen before.
    pub(crate) fn forget_proxies(&mut self, before: i64, here: impl Fn(PublicKey) -> bool, now: i64) {
        let gone = self.proxies().filter(|(_, peer, proxy)| proxy.last_seen < before && !here(peer.key));
        let gone: Vec<_> = gone.map(|(number, ..)| number).collect();
        gone.into_iter().for_each(|number| self.release(number, now));
    }

    /// The users of the desired state.
    pub(crate) fn users(&self) -> BTreeSet<String> {
        self.listed.keys().cloned().collect()
    }

    pub(crate) fn devices(&self) -> impl Iterator<Item = (u32, &Device)> {
        self.kept.peers.iter().filter_map(|(number, peer)| match &peer.role {
            Role::Device(device) => Some((*number, device)),
            Role::Proxy(_) => None,
        })
    }

    pub(crate) fn proxies(&self) -> impl Iterator<Item = (u32, &Peer, &Proxy)> {
        self.kept.peers.iter().filter_map(|(number, peer)| match &peer.role {
            Role::Proxy(proxy) => Some((*number, peer, proxy)),
            Role::Device(_) => None,
        })
    }

    pub(crate) fn device(&self, name: &str) -> Result<(u32, &Peer, &Device), PeerError> {
        let named = self.devices().find(|(_, device)| device.name == name);
        let (number, device) = named.ok_or_else(|| PeerError::Unknown(name.to_owned()))?;
        Ok((number, &self.kept.peers[&number], device))
    }

    pub(crate) fn by_key(&self, key: PublicKey) -> Option<(u32, &Peer)> {
        self.kept.peers.iter().find(|(_, peer)| peer.key == key).map(|(number, peer)| (*number, peer))
    }

    /// Who sends from an address: whose it is, or whose site it lies in.
    pub(crate) fn at(&self, address: IpAddr) -> Option<&Peer> {
        if let Some(number) = self.network().number(address) {
            return self.kept.peers.get(&number);
        }
        let address = IpNet::from(address.to_canonical());
        let behind = self.devices().find(|(_, device)| device.site.iter().any(|range| range.contains(&address)));
        behind.and_then(|(number, _)| self.kept.peers.get(&number))
    }

    /// Where a device is reached by its name. Where it is not, that is an address which nobody has, and why, and what to do.
    pub(crate) fn reach(&self, name: &str, now: i64) -> (Ipv4Addr, Option<String>) {
        let sentence = match self.device(name) {
            Ok((number, _, device)) => match device.state(now).sentence(&device.name, device.user()) {
                None => return (self.network().v4(number), None),
                Some(sentence) => sentence,
            },
            Err(_) => format!("there is no peer {name}; add it with `postern peer add {name}`, or name another"),
        };
        (self.network().nobodys(), Some(sentence))
    }

    /// The tunnel as the proxy with this key sees it: itself, and every device that is somebody.
    pub(crate) fn map(&self, key: PublicKey, mtu: u16, now: i64) -> Option<PeerMap> {
        let (own, _, _) = self.proxies().find(|(_, peer, _)| peer.key == key)?;
        let somebody = self.devices().filter(|(_, device)| device.state(now) == PeerState::Active);
        let mapped = |(number, device): (u32, &Device)| {
            let peer = &self.kept.peers[&number];
            let own = self.addresses(number).map(IpNet::from);
            MappedPeer {
                name: device.name.clone(),
                key: peer.key,
                generation: peer.generation,
                allowed_ips: own.into_iter().chain(device.site.iter().copied()).collect(),
                // It calls by itself, and keeps its NAT's mapping itself.
                endpoint: None,
                keep_alive: None,
            }
        };
        Some(PeerMap { addresses: self.addresses(own).to_vec(), mtu, peers: somebody.map(mapped).collect() })
    }

    pub(crate) fn addresses(&self, number: u32) -> [IpAddr; 2] {
        [self.network().v4(number).into(), self.network().v6(number).into()]
    }

    /// When the next device ends of those that end after a moment.
    pub(crate) fn next_end(&self, after: i64) -> Option<i64> {
        self.devices().filter_map(|(_, device)| device.expires).filter(|&expires| expires > after).min()
    }

    fn owner(&self, user: String, before: Option<&Owner>) -> Owner {
        let before = before.filter(|owner| owner.user == user).map(|owner| &owner.standing);
        let standing = match (self.listed.get(&user), before) {
            (Some(groups), _) => Standing::Listed(groups.clone()),
            (None, Some(Standing::Listed(_) | Standing::Gone)) => Standing::Gone,
            (None, Some(Standing::Unlisted) | None) => Standing::Unlisted,
        };
        Owner { user, standing }
    }

    /// Whether a site may have these ranges.
    fn free(&self, site: &[IpNet]) -> Result<(), PeerError> {
        self.not_the_tunnels(site)?;
        for (at, range) in site.iter().enumerate() {
            if range.trunc() != *range {
                return Err(PeerError::RangeBits { range: *range });
            }
            if is_nobodys(range) {
                return Err(PeerError::RangeUnusable(*range));
            }
            if site[..at].iter().any(|earlier| overlap(earlier, range)) {
                return Err(PeerError::RangeTwice(*range));
            }
            let all = self.devices().flat_map(|(_, device)| device.site.iter().map(move |theirs| (device, theirs)));
            if let Some((device, theirs)) = all.into_iter().find(|(_, theirs)| overlap(theirs, range)) {
                let (range, theirs, peer) = (*range, *theirs, device.name.clone());
                return Err(PeerError::RangeTaken { range, theirs, peer });
            }
        }
        Ok(())
    }

    fn not_the_tunnels(&self, site: &[IpNet]) -> Result<(), PeerError> {
        for network in self.network().ranges() {
            if let Some(&range) = site.iter().find(|range| overlap(range, &network)) {
                return Err(PeerError::RangeOfTunnel { range, network });
            }
        }
        Ok(())
    }

    /// A number that nobody ever had, or else the one that nobody has had for longest. Numbers are given in their order,
    /// so below the highest there is none that nobody ever had.
    fn allocate(&mut self, now: i64) -> Result<u32, PeerError> {
        let last = self.network().last();
        let highest = |number: Option<&u32>| number.copied().unwrap_or_default();
        let used = highest(self.kept.peers.keys().last()).max(highest(self.kept.released.keys().last()));
        if used < last {
            return Ok(used + 1);
        }
        let rested = |(number, since): &(&u32, &i64)| **number <= last && since.saturating_add(QUARANTINE) <= now;
        let longest = self.kept.released.iter().filter(rested).min_by_key(|(_, since)| **since);
        let number = longest.map(|(number, _)| *number).ok_or(PeerError::Full(self.kept.range))?;
        self.kept.released.remove(&number);
        Ok(number)
    }

    fn put(&mut self, number: u32, key: PublicKey, role: Role) {
        self.kept.peers.insert(number, Peer { key, generation: Generation(0), role });
        self.renew(number);
    }

    /// Whoever has the number is another from here on.
    fn renew(&mut self, number: u32) {
        self.kept.generation.0 += 1;
        if let Some(peer) = self.kept.peers.get_mut(&number) {
            peer.generation = self.kept.generation;
        }
    }

    fn release(&mut self, number: u32, now: i64) {
        if self.kept.peers.remove(&number).is_some() {
            self.kept.released.insert(number, now);
        }
    }
}

/// What holds for a device however it came to be; `end` is one that was just given.
fn check(device: &Device, end: Option<i64>, now: i64) -> Result<(), PeerError> {
    if device.user().is_some_and(|user| !words::is_user(user)) {
        return Err(PeerError::User);
    }
    if !device.groups.iter().all(|group| words::is_group(group)) {
        return Err(PeerError::Group);
    }
    if device.owner.is_some() && device.is_site() {
        return Err(PeerError::SiteOfUser);
    }
    if end.is_some_and(|end| end <= now) {
        return Err(PeerError::Expired);
    }
    Ok(())
}

/// As people know it.
fn shown(peer: &Peer) -> String {
    match &peer.role {
        Role::Device(device) => format!("the peer {}", device.name),
        Role::Proxy(proxy) => format!("the proxy {}", proxy.name),
    }
}

#[cfg(test)]
mod tests;
