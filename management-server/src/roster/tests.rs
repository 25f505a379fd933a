use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const DAY: i64 = 24 * 3600;

fn network(range: &str) -> Network {
    Network::new(range.parse().expect("range")).expect("good")
}

fn roster(range: &str) -> Roster {
    Roster::new(network(range))
}

fn key(n: u8) -> PublicKey {
    PublicKey([n; 32])
}

fn words(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|&word| word.to_owned()).collect()
}

fn device(name: &str, n: u8) -> NewDevice {
    let (user, groups, site, expires) = (None, words(&["eng"]), Vec::new(), None);
    NewDevice { name: name.to_owned(), key: key(n), user, groups, site, expires }
}

fn site(name: &str, n: u8, ranges: &[&str]) -> NewDevice {
    NewDevice { site: ranges.iter().map(|range| range.parse().expect("range")).collect(), ..device(name, n) }
}

fn proxy(last_seen: i64) -> Proxy {
    Proxy { name: "p".into(), cluster: "proxy.example".into(), in_process: false, port: 51820, last_seen }
}

fn users(all: &[(&str, &[&str])]) -> BTreeMap<String, BTreeSet<String>> {
    all.iter().map(|(user, groups)| ((*user).to_owned(), words(groups))).collect()
}

fn generation(roster: &Roster, name: &str) -> u64 {
    roster.device(name).expect("there").1.generation.0
}

fn mapped(roster: &Roster, proxy: u8, now: i64) -> Vec<(String, u64)> {
    let map = roster.map(key(proxy), 1420, now).expect("registered");
    map.peers.into_iter().map(|peer| (peer.name, peer.generation.0)).collect()
}

/// S16: nobody is taken for who had the address before.
#[test]
fn addresses_rest_for_a_day_and_the_longest_rested_comes_first() {
    let mut roster = roster("10.9.0.0/29");
    for n in 1..=6 {
        assert_eq!(roster.add(device(&format!("d{n}"), n), 0).expect("a free one"), u32::from(n));
    }
    assert!(matches!(roster.add(device("more", 9), 0), Err(PeerError::Full(_))));
    roster.remove("d4", 10).expect("there");
    roster.remove("d2", 20).expect("there");
    let refused = roster.add(device("more", 9), 10 + DAY - 1).expect_err("it still rests").to_string();
    assert!(refused.contains("10.9.0.0/29") && refused.contains("remove peers"), "{refused}");
    assert_eq!(roster.add(device("more", 9), 20 + DAY).expect("rested"), 4);
    assert_eq!(roster.add(device("again", 10), 20 + DAY).expect("rested"), 2);
    assert_eq!(roster.next_end(0), None);
}

#[test]
fn what_nobody_ever_had_comes_before_what_somebody_had() {
    let mut roster = roster("10.9.0.0/24");
    roster.add(device("a", 1), 0).expect("adds");
    roster.remove("a", 0).expect("removes");
    assert_eq!(roster.add(device("a", 1), 30 * DAY).expect("adds"), 2, "same name, same key, another address");
    assert_eq!(generation(&roster, "a"), 2);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut roster = roster("100.72.0.0/16");
    roster.list(users(&[("alice", &["ops"])]));
    roster.add(site("office", 1, &["10.9.0.0/16", "2001:db8::/48"]), 0).expect("adds");
    roster.register(key(2), proxy(0), |_| true, 0).expect("registers");
    let with = |change: fn(&mut NewDevice)| {
        let mut new = device("new", 7);
        change(&mut new);
        new
    };
    let cases = [
        (with(|d| d.name = "a b".into()), "1 to 64 letters"),
        (with(|d| d.name = "office".into()), "a peer named office already"),
        (with(|d| d.key = key(1)), "that of the peer office"),
        (with(|d| d.key = key(2)), "that of the proxy p"),
        (with(|d| d.key = key(0)), "not a WireGuard public key"),
        (with(|d| d.user = Some("a:b".into())), "user's name"),
        (with(|d| d.groups = words(&["a,b"])), "group's name"),
        (with(|d| d.expires = Some(5)), "expired already"),
        (site("new", 7, &["10.9.3.0/24"]), "10.9.3.0/24 overlaps 10.9.0.0/16 of the peer office"),
        (site("new", 7, &["10.0.0.0/8"]), "of the peer office"),
        (site("new", 7, &["100.72.0.0/24"]), "the tunnel's own"),
        (site("new", 7, &["fd7a:706f:7374::/48"]), "the tunnel's own"),
        (site("new", 7, &["0.0.0.0/0"]), "the tunnel's own"),
        (site("new", 7, &["127.0.0.0/8"]), "can lie behind a peer"),
        (site("new", 7, &["10.8.0.1/24"]), "write 10.8.0.0/24"),
        (site("new", 7, &["10.8.0.0/24", "10.8.0.7/32"]), "another range of the same peer"),
        (NewDevice { user: Some("alice".into()), ..site("new", 7, &["10.8.0.0/24"]) }, "never for a user"),
        (NewDevice { user: Some("alice".into()), ..site("new", 7, &["10.8.0.7/32"]) }, "never for a user"),
        (NewDevice { user: Some("alice".into()), ..site("new", 7, &["2001:db9::7/128"]) }, "never for a user"),
    ];
    for (new, why) in cases {
        let before = roster.clone();
        let refused = roster.add(new, 5).expect_err(why).to_string();
        assert!(refused.contains(why), "{refused}");
        assert_eq!(roster, before);
    }
    roster.add(NewDevice { user: Some("alice".into()), ..device("new", 7) }, 5).expect("its good twin");
    roster.add(site("other", 8, &["10.8.0.0/24"]), 5).expect("its good twin");
    roster.add(site("printers", 9, &["10.7.0.5/32", "10.7.0.6/32"]), 5).expect("its good twin");
    let before = roster.clone();
    let to_user = PeerChanges { user: crate::peer_reports::Update::To("alice".into()), ..PeerChanges::default() };
    for site in ["office", "printers"] {
        assert!(matches!(roster.set(site, &to_user, 5), Err(PeerError::SiteOfUser)), "{site}");
    }
    assert!(matches!(roster.set("nobody", &to_user, 5), Err(PeerError::Unknown(_))));
    assert!(matches!(roster.remove("nobody", 5), Err(PeerError::Unknown(_))));
    assert_eq!(roster, before);
}

#[test]
fn a_change_makes_another_of_a_peer_and_a_mere_later_end_does_not() {
    use crate::peer_reports::Update::{Clear, To};
    let mut roster = roster("100.72.0.0/16");
    roster.register(key(2), proxy(0), |_| true, 0).expect("registers");
    roster.add(NewDevice { expires: Some(100), ..device("a", 1) }, 0).expect("adds");
    let mut last = generation(&roster, "a");
    let changes = |change: fn(&mut PeerChanges)| {
        let mut changes = PeerChanges::default();
        change(&mut changes);
        changes
    };
    let mut set = |roster: &mut Roster, changes: PeerChanges, now: i64| {
        roster.set("a", &changes, now).expect("sets");
        let renewed = generation(roster, "a") != last;
        assert!(!renewed || generation(roster, "a") > last);
        last = generation(roster, "a");
        (renewed, mapped(roster, 2, now).len())
    };
    assert_eq!(set(&mut roster, PeerChanges::default(), 0), (false, 1));
    assert_eq!(set(&mut roster, changes(|c| c.expires = To(200)), 0), (false, 1));
    assert_eq!(set(&mut roster, changes(|c| c.user = To("you@example.com".into())), 0), (true, 1));
    assert_eq!(set(&mut roster, changes(|c| c.groups = Some(words(&["ops"]))), 0), (true, 1));
    assert_eq!(set(&mut roster, changes(|c| c.groups = Some(words(&["ops"]))), 0), (false, 1));
    assert_eq!(set(&mut roster, changes(|c| c.enabled = Some(false)), 0), (true, 0));
    assert_eq!(set(&mut roster, changes(|c| c.enabled = Some(true)), 0), (true, 1));
    assert_eq!(mapped(&roster, 2, 199).len(), 1);
    assert_eq!(mapped(&roster, 2, 200).len(), 0, "its time is over");
    assert_eq!(set(&mut roster, changes(|c| c.expires = Clear), 200), (true, 1), "and begins anew");
    assert_eq!(set(&mut roster, changes(|c| c.user = Clear), 200), (true, 1));
}

#[test]
fn a_users_groups_are_its_peers_groups_and_a_user_who_goes_takes_them_along() {
    let mut roster = roster("100.72.0.0/16");
    roster.register(key(2), proxy(0), |_| true, 0).expect("registers");
    let owned = |name: &str, n: u8, user: &str| NewDevice { user: Some(user.to_owned()), ..device(name, n) };
    roster.add(owned("before", 1, "alice"), 0).expect("adds");
    roster.add(owned("stranger", 3, "bob"), 0).expect("adds");
    let groups = |roster: &Roster, name: &str| roster.device(name).expect("there").2.all_groups();
    assert_eq!(groups(&roster, "before"), words(&["eng"]));

    let stranger = generation(&roster, "stranger");
    roster.list(users(&[("alice", &["ops"])]));
    roster.add(owned("after", 4, "alice"), 0).expect("adds");
    for name in ["before", "after"] {
        assert_eq!(groups(&roster, name), words(&["eng", "ops"]), "{name}");
    }
    let last = generation(&roster, "before");
    roster.list(users(&[("alice", &["ops"]), ("carol", &["x"])]));
    assert_eq!(generation(&roster, "before"), last, "nothing has changed for her");
    roster.list(users(&[("alice", &["dev"])]));
    assert!(generation(&roster, "before") > last);
    assert_eq!(mapped(&roster, 2, 0).len(), 3);

    roster.list(BTreeMap::new());
    let names: Vec<_> = mapped(&roster, 2, 0).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["stranger"], "whom the state never named, it cannot take away");
    let (address, why) = roster.reach("after", 0);
    let why = why.expect("nobody");
    assert_eq!(address, roster.network().nobodys());
    assert!(why.contains("the user alice of the peer after") && why.contains("postern peer set after"), "{why}");
    roster.list(users(&[("alice", &["dev"])]));
    assert_eq!(mapped(&roster, 2, 0).len(), 3, "and back again");
    assert_eq!(generation(&roster, "stranger"), stranger);
    assert_eq!(roster.remove_of("alice", 0), ["before", "after"]);
    assert_eq!(roster.remove_of("alice", 0), Vec::<String>::new());
}

#[test]
fn a_proxy_that_comes_back_has_its_address_and_one_that_does_not_is_forgotten() {
    let mut roster = roster("100.72.0.0/16");
    for n in [1, 2] {
        roster.register(key(n), proxy(0), |_| true, 0).expect("registers");
    }
    let before = roster.map(key(1), 1420, 0).expect("there").addresses;
    roster.register(key(1), Proxy { port: 1, ..proxy(50) }, |_| true, 50).expect("the same");
    assert_eq!(roster.map(key(1), 1420, 50).expect("there").addresses, before);
    assert_eq!((roster.proxies().count(), roster.kept().generation.0), (2, 2));
    roster.seen(&[(key(2), 70)].into());
    roster.forget_proxies(60, |_| false, 100);
    assert!(roster.map(key(1), 1420, 100).is_none() && roster.map(key(2), 1420, 100).is_some());
    roster.forget_proxies(100, |here| here == key(2), 100);
    assert!(roster.map(key(2), 1420, 100).is_some(), "it is here");
    roster.add(device("a", 7), 0).expect("adds");
    assert!(matches!(roster.register(key(7), proxy(0), |_| true, 0), Err(PeerError::KeyTaken(_))));
    assert!(roster.map(key(7), 1420, 0).is_none(), "a device sees no map");
}

#[test]
fn of_too_many_proxies_those_go_that_are_away_for_longest() {
    let mut roster = roster("100.72.0.0/16");
    let key = |n: usize| PublicKey(std::array::from_fn(|at| if at < 2 { n.to_be_bytes()[6 + at] } else { 1 }));
    for n in 0..MOST_PROXIES {
        roster.register(key(n), proxy(i64::try_from(n).expect("small")), |_| true, 0).expect("registers");
    }
    assert!(matches!(roster.register(key(999), proxy(0), |_| true, 0), Err(PeerError::TooManyProxies(_))));
    roster.register(key(999), proxy(0), |here| here == key(0), 0).expect("one is away");
    assert!(roster.by_key(key(0)).is_some() && roster.by_key(key(1)).is_none());
    assert_eq!(roster.proxies().count(), MOST_PROXIES);
}

#[test]
fn whoever_sends_is_found_by_address_or_by_site() {
    let mut roster = roster("100.72.0.0/16");
    roster.add(device("a", 1), 0).expect("adds");
    roster.add(site("office", 2, &["10.9.0.0/16", "2001:db8::/48"]), 0).expect("adds");
    let at = |address: &str| roster.at(address.parse().expect("address")).map(|peer| peer.key);
    for (address, expected) in [
        ("100.72.0.1", Some(1)),
        ("fd7a:706f:7374::1", Some(1)),
        ("::ffff:100.72.0.1", Some(1)),
        ("100.72.0.2", Some(2)),
        ("10.9.200.1", Some(2)),
        ("2001:db8::7", Some(2)),
        ("100.72.0.3", None),
        ("10.10.0.1", None),
        ("127.0.0.1", None),
    ] {
        assert_eq!(at(address), expected.map(key), "{address}");
    }
    assert_eq!(roster.reach("a", 0), (Ipv4Addr::new(100, 72, 0, 1), None));
    let (address, why) = roster.reach("b", 0);
    let why = why.expect("missing");
    assert_eq!((address, at("100.72.0.0")), (Ipv4Addr::new(100, 72, 0, 0), None), "nobody's");
    assert!(why.contains("no peer b") && why.contains("postern peer add b"), "{why}");
}

#[test]
fn another_network_makes_another_of_everybody_or_is_refused() {
    let mut roster = roster("10.9.0.0/24");
    for n in 1..=7 {
        roster.add(device(&format!("d{n}"), n), 0).expect("adds");
    }
    roster.add(site("office", 8, &["10.8.0.0/16"]), 0).expect("adds");
    let kept = roster.kept().clone();
    assert_eq!(Roster::restore(kept.clone(), network("10.9.0.0/24")).expect("the same").kept(), &kept);
    let moved = Roster::restore(kept.clone(), network("10.7.0.0/28")).expect("they fit");
    assert_eq!(moved.reach("d7", 0), (Ipv4Addr::new(10, 7, 0, 7), None));
    assert!(moved.kept().peers.values().all(|peer| peer.generation > kept.generation));
    let refused = Roster::restore(kept.clone(), network("10.7.0.0/29")).expect_err("too small").to_string();
    assert!(refused.contains("10.7.0.0/29") && refused.contains("d7"), "{refused}");
    let refused = Roster::restore(kept, network("10.8.3.0/24")).expect_err("overlaps").to_string();
    assert!(refused.contains("10.8.0.0/16 overlaps 10.8.3.0/24"), "{refused}");
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Add(u8, u8, bool),
    Set(u8, bool, bool),
    Remove(u8),
    Register(u8),
    Forget(u8),
    List(bool, bool),
    Wait(i64),
    Restart(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5u8, 1..9u8, any::<bool>()).prop_map(|(name, key, owned)| Step::Add(name, key, owned)),
        2 => (0..5u8, any::<bool>(), any::<bool>()).prop_map(|(name, groups, enabled)| Step::Set(name, groups, enabled)),
        4 => (0..5u8).prop_map(Step::Remove),
        3 => (1..9u8).prop_map(Step::Register),
        1 => (1..9u8).prop_map(Step::Forget),
        2 => (any::<bool>(), any::<bool>()).prop_map(|(there, ops)| Step::List(there, ops)),
        3 => (0..2 * DAY).prop_map(Step::Wait),
        1 => any::<bool>().prop_map(Step::Restart),
    ]
}

/// What a generation stands for. One that stood for two things would let what was learned of the one be taken for the other.
type Identity = (u32, PublicKey, Vec<String>, Option<String>, Ipv4Addr);

fn identity(roster: &Roster, number: u32, peer: &Peer) -> Identity {
    let at = roster.network().v4(number);
    match &peer.role {
        Role::Device(device) => {
            (number, peer.key, device.all_groups().into_iter().collect(), device.user().map(str::to_owned), at)
        }
        Role::Proxy(_) => (number, peer.key, Vec::new(), None, at),
    }
}

fn run(roster: &mut Roster, step: Step, now: i64) -> Result<(), PeerError> {
    let name = |n: u8| format!("d{n}");
    match step {
        Step::Add(n, k, owned) => {
            let user = owned.then(|| "alice".to_owned());
            roster.add(NewDevice { user, ..device(&name(n), k) }, now).map(drop)
        }
        Step::Set(n, ops, enabled) => {
            let groups = Some(words(if ops { &["ops"] } else { &["eng"] }));
            let changes = PeerChanges { groups, enabled: Some(enabled), ..PeerChanges::default() };
            roster.set(&name(n), &changes, now).map(drop)
        }
        Step::Remove(n) => roster.remove(&name(n), now),
        Step::Register(k) => roster.register(key(k), proxy(now), |_| false, now),
        Step::Forget(k) => {
            roster.forget_proxies(now + 1, |here| here != key(k), now);
            Ok(())
        }
        Step::List(there, ops) => {
            let groups: &[&str] = if ops { &["ops"] } else { &[] };
            roster.list(if there { users(&[("alice", groups)]) } else { BTreeMap::new() });
            Ok(())
        }
        Step::Wait(_) => Ok(()),
        Step::Restart(elsewhere) => {
            let range = if elsewhere { "10.8.0.0/29" } else { "10.9.0.0/29" };
            *roster = Roster::restore(roster.kept().clone(), network(range))?;
            Ok(())
        }
    }
}

/// The store as a few maps.
fn write(store: &mut Kept, delta: Delta) {
    if let Some((range, generation)) = delta.network {
        (store.range, store.generation) = (range, generation);
    }
    store.peers.retain(|number, _| !delta.gone.contains(number));
    store.peers.extend(delta.put);
    store.released.retain(|number, _| !delta.taken.contains(number));
    store.released.extend(delta.released);
}

proptest! {
    /// S16: whatever people and proxies do, no two peers share a number, a key or a name, a generation stands for one identity
    /// for ever, an address rests for a day between two keys, and what is written down is what is.
    #[test]
    fn identities_are_never_mixed_up(steps in prop::collection::vec(step(), 0..80)) {
        let (mut roster, mut now) = (roster("10.9.0.0/29"), 1_000_000);
        let mut store = roster.kept().clone();
        let mut identities: HashMap<Generation, Identity> = HashMap::new();
        let mut last: HashMap<u32, (PublicKey, i64)> = HashMap::new();
        for step in steps {
            if let Step::Wait(for_long) = step {
                now += for_long;
            }
            let (before, shown) = (roster.clone(), format!("{step:?}"));
            if run(&mut roster, step, now).is_err() {
                prop_assert_eq!(&roster, &before, "a refusal changes nothing: {}", shown);
            }
            write(&mut store, roster.since(before.kept()));
            prop_assert_eq!(&store, roster.kept());
            prop_assert!(roster.kept().generation >= before.kept().generation);

            let peers = &roster.kept().peers;
            let keys: BTreeSet<_> = peers.values().map(|peer| peer.key).collect();
            let names: Vec<_> = roster.devices().map(|(_, device)| &device.name).collect();
            prop_assert_eq!(keys.len(), peers.len());
            prop_assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
            for (number, peer) in peers {
                prop_assert!((1..=6).contains(number));
                prop_assert!(!roster.kept().released.contains_key(number));
                let identity = identity(&roster, *number, peer);
                let known = identities.entry(peer.generation).or_insert_with(|| identity.clone());
                prop_assert_eq!(known, &identity, "{}", shown);
                if let Some((key, until)) = last.get(number) {
                    let rested = now - until >= DAY;
                    prop_assert!(*key == peer.key && before.kept().peers.contains_key(number) || rested, "{}", shown);
                }
                last.insert(*number, (peer.key, now));
            }
        }
    }
}
