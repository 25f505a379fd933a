//! What the engine costs on top of boringtun. Run by hand, optimised.

use std::hint::black_box;

use boringtun::noise::{Tunn, TunnResult};

use super::tests::{World, inside, packet};
use super::*;

const PACKETS: usize = 64;
const ROUNDS: usize = 300;

/// Bare `Tunn`s with a session.
fn tunns() -> (Tunn, Tunn) {
    let (one, two) = (PrivateKey::generate(), PrivateKey::generate());
    let tunn = |own: &PrivateKey, other: &PrivateKey| {
        Tunn::new(own.secret().clone(), PublicKey::from(other.public()), None, None, 1, None)
    };
    let (mut one, mut two) = (tunn(&one, &two), tunn(&two, &one));
    let (mut a, mut b) = (vec![0; 200], vec![0; 200]);
    let TunnResult::WriteToNetwork(initiation) = one.format_handshake_initiation(&mut a, false) else { panic!() };
    let TunnResult::WriteToNetwork(response) = two.decapsulate(None, initiation, &mut b) else { panic!() };
    let TunnResult::WriteToNetwork(keepalive) = one.decapsulate(None, response, &mut a) else { panic!() };
    assert!(matches!(two.decapsulate(None, keepalive, &mut b), TunnResult::Done));
    (one, two)
}

/// Nanoseconds per packet.
fn time(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_nanos() as f64 / PACKETS as f64
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement"]
fn overhead_over_bare_boringtun() {
    for size in [80, 1420] {
        let (mut one, mut two) = tunns();
        let mut world = World::pair();
        // Many others that do nothing.
        let crowd: Vec<Peer> = (0..10_000u32)
            .map(|n| {
                let mut key = [3; 32];
                key[..4].copy_from_slice(&n.to_le_bytes());
                let address = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
                Peer { key, generation: 1, allowed_ips: vec![address.into()], path: None, keep_alive: None }
            })
            .chain([world.peer(1, true, None)])
            .collect();
        world.set_peers(0, &crowd);
        world.connect();
        let (to, now) = (world.index(0, 1), world.now);
        let packet = packet(inside(0), inside(1), &vec![7; size - 20]);
        let mut wire = vec![vec![0; size + 148]; PACKETS];
        let mut out = vec![0; size + 148];
        let mut times: [Vec<f64>; 4] = Default::default();
        for _ in 0..ROUNDS {
            times[0].push(time(|| {
                for datagram in &mut wire {
                    black_box(one.encapsulate(&packet, datagram));
                }
            }));
            times[1].push(time(|| {
                for datagram in &wire {
                    let opened = two.decapsulate(None, &datagram[..size + OVERHEAD], &mut out);
                    assert!(matches!(black_box(opened), TunnResult::WriteToTunnelV4(..)));
                }
            }));
            let [zero, one, ..] = world.ends.as_mut_slice() else { panic!() };
            times[2].push(time(|| {
                for datagram in &mut wire {
                    let sealed = zero.engine.seal(to, &packet, datagram, now);
                    assert!(matches!(black_box(sealed), Sealed::Sealed(_)));
                }
            }));
            times[3].push(time(|| {
                for datagram in &wire {
                    let opened = one.engine.open(zero.path, &datagram[..size + OVERHEAD], &mut out, now);
                    assert!(matches!(black_box(opened), Opened::Packet { .. }));
                }
            }));
        }
        let [seal, open, our_seal, our_open] = times.map(median);
        println!("{size} bytes: seal {seal:.0} ns, ours {our_seal:.0} ns ({:+.1} %)", (our_seal / seal - 1.0) * 100.0);
        println!("{size} bytes: open {open:.0} ns, ours {our_open:.0} ns ({:+.1} %)", (our_open / open - 1.0) * 100.0);
    }
    println!("Tunn {} B, Member {} B", size_of::<Tunn>(), size_of::<Member>());
}
