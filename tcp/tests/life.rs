//! The long and the odd moments of a connection, in virtual time.

use std::time::{Duration, Instant};

use postern_tcp::world::{Close, End, Path, Script, World};
use postern_tcp::{Buffers, Config, Congestion, Error, Flow, Header, KeepAlive, Phase, Segment, Straggler};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// 100 Mbit/s, 20 ms of round trip.
const RATE: Option<u64> = Some(12_500_000);

fn path() -> Path {
    Path::new(RATE, 10 * MS, 256 << 10)
}

fn world() -> World {
    World::new(1, Instant::now(), path(), path()).audited()
}

fn phases(world: &World) -> [Option<Phase>; 2] {
    [0, 1].map(|side| world.ends(0)[side].flow().map(Flow::phase))
}

fn quiet() -> Script {
    Script { close: Close::Never, ..Script::bulk(0) }
}

#[test]
fn half_close_lets_the_other_half_live() {
    let mut world = world();
    let late = Script { starts_after: SECOND, ..Script::bulk(300_000) };
    world.connect([Config::default(), Config::default()], [Script::bulk(10), late]);
    world.run_for(500 * MS);
    assert_eq!(phases(&world), [Some(Phase::FinWait2), Some(Phase::CloseWait)]);
    assert_eq!(world.ends(0)[0].flow().map(Flow::memory), Some(0), "the half that has ended keeps nothing");
    assert!(world.run_until(10 * SECOND, World::is_over));
    assert_eq!(world.ends(0)[0].received(), 300_000);
    assert_eq!(phases(&world), [Some(Phase::TimeWait), Some(Phase::Closed)]);
    world.run_for(61 * SECOND);
    assert_eq!(phases(&world), [Some(Phase::Closed), Some(Phase::Closed)]);
}

#[test]
fn both_may_close_at_once() {
    let mut world = world();
    world.connect([Config::default(), Config::default()], [quiet(), quiet()]);
    world.run_for(SECOND);
    for side in 0..2 {
        world.end_mut(0, side).flow_mut().expect("open").shutdown();
    }
    world.run_for(5 * MS);
    assert_eq!(phases(&world), [Some(Phase::FinWait1); 2]);
    world.run_for(10 * MS);
    assert_eq!(phases(&world), [Some(Phase::Closing); 2]);
    world.run_for(SECOND);
    assert_eq!(phases(&world), [Some(Phase::TimeWait); 2]);
}

#[test]
fn both_may_open_at_once() {
    let now = Instant::now();
    let mut flows = [5, u32::MAX].map(|isn| Flow::connect(Config::default(), isn, now));
    let syns = flows.each_mut().map(|flow| flow.poll_transmit(now, 1000).expect("a SYN").header);
    for (flow, syn) in flows.iter_mut().zip([syns[1], syns[0]]) {
        flow.handle_segment(&Segment::new(syn, b""), now);
        assert_eq!(flow.phase(), Phase::SynReceived);
    }
    let answers = flows.each_mut().map(|flow| flow.poll_transmit(now, 1000).expect("a SYN with ACK").header);
    for (flow, answer) in flows.iter_mut().zip([answers[1], answers[0]]) {
        assert!(answer.syn && answer.ack.is_some());
        flow.handle_segment(&Segment::new(answer, b""), now);
        assert_eq!(flow.phase(), Phase::Established);
    }
}

#[test]
fn an_idle_connection_wakes_nobody_and_lives() {
    let mut world = world();
    world.connect([Config::default(), Config::default()], [quiet(), quiet()]);
    world.run_for(SECOND);
    let packets = world.packets();
    assert!(world.ends(0).iter().all(|end| end.flow().expect("open").poll_timeout().is_none()));
    world.run_for(1_000_000 * SECOND);
    assert_eq!(world.packets(), packets);
    assert_eq!(phases(&world), [Some(Phase::Established); 2]);
}

#[test]
fn keep_alive_finds_out_who_lives() {
    let keep = KeepAlive { idle: 30 * SECOND, interval: 5 * SECOND, probes: 3 };
    let config = Config { keep_alive: Some(keep), ..Config::default() };
    let mut world = world();
    world.connect([config, Config::default()], [quiet(), quiet()]);
    world.run_for(10_000 * SECOND);
    assert_eq!(phases(&world), [Some(Phase::Established); 2]);
    world.set_path(1, Path { loss: 1.0, ..path() });
    // Three questions go unanswered first, and whatever of the silence had passed before.
    world.run_for(14 * SECOND);
    assert_eq!(phases(&world)[0], Some(Phase::Established));
    world.run_for(40 * SECOND);
    assert_eq!(world.ends(0)[0].flow().expect("it was").error(), Some(Error::TimedOut));
    assert_eq!(world.ends(0)[1].flow().expect("it was").error(), Some(Error::Reset));
}

#[test]
fn a_closed_window_is_asked_about_for_as_long_as_the_peer_answers() {
    let mut world = world();
    let config = Config { buffers: Buffers { send: 4 << 20, receive: 20_000 }, ..Config::default() };
    let asleep = Script { reads: Some(0), ..quiet() };
    world.connect([Config::default(), config], [Script::bulk(100_000), asleep]);
    world.run_for(3600 * SECOND);
    assert_eq!(phases(&world)[0], Some(Phase::Established));
    let packets = world.packets();
    world.run_for(600 * SECOND);
    assert!((10..=40).contains(&(world.packets() - packets)), "a question and an answer a minute");
    // The application wakes up.
    let flow = world.end_mut(0, 1).flow_mut().expect("open");
    flow.consume(20_000);
    world.run_for(SECOND);
    assert!(world.ends(0)[1].flow().expect("open").peek().0.len() > 10_000, "more has come without a question");
    // The peer falls silent: questions without answers end it.
    world.set_path(1, Path { loss: 1.0, ..path() });
    world.run_for(300 * SECOND);
    assert_eq!(world.ends(0)[0].flow().expect("it was").error(), Some(Error::TimedOut));
}

#[test]
fn a_lost_window_update_is_found_by_asking() {
    let mut world = world();
    let config = Config { buffers: Buffers { send: 4 << 20, receive: 20_000 }, ..Config::default() };
    world.connect([Config::default(), config], [Script::bulk(100_000), Script { reads: Some(0), ..quiet() }]);
    world.run_for(10 * SECOND);
    world.set_path(1, Path { loss: 1.0, ..path() });
    world.end_mut(0, 1).flow_mut().expect("open").consume(20_000);
    world.run_for(MS);
    world.set_path(1, path());
    world.run_for(30 * SECOND);
    let flow = world.ends(0)[1].flow().expect("open");
    assert!(flow.peek().0.len() + flow.peek().1.len() > 10_000);
}

#[test]
fn nobody_there_times_out_and_nobody_listening_refuses() {
    let now = Instant::now();
    let silence = Path { loss: 1.0, ..path() };
    let mut world = World::new(1, now, silence, path()).audited();
    world.connect([Config { patience: 10 * SECOND, ..Config::default() }, Config::default()], [quiet(), quiet()]);
    assert!(!world.run_until(9 * SECOND, World::is_over));
    world.run_for(SECOND);
    assert_eq!(world.ends(0)[0].flow().expect("it was").error(), Some(Error::TimedOut));

    let mut flow = Flow::connect(Config::default(), 7, now);
    let syn = flow.poll_transmit(now, 1000).expect("a SYN").header;
    let reset = Header::reset_for(&Segment::new(syn, b"")).expect("a SYN is answered");
    flow.handle_segment(&Segment::new(reset, b""), now);
    assert_eq!(flow.error(), Some(Error::Refused));
}

#[test]
fn a_lost_syn_is_repeated_after_three_known_round_trips() {
    let now = Instant::now();
    for (rtt, least, most) in [(None, SECOND, SECOND), (Some(80 * MS), 240 * MS, 240 * MS)] {
        let mut flow = Flow::connect(Config { rtt, ..Config::default() }, 7, now);
        assert!(flow.poll_transmit(now, 1000).is_some());
        let at = flow.poll_timeout().expect("a timer") - now;
        assert!((least..=most).contains(&at), "{at:?}");
        flow.handle_timeout(now + at);
        assert!(flow.poll_transmit(now + at, 1000).expect("again").header.syn);
    }
}

#[test]
fn abort_resets_the_peer() {
    let mut world = world();
    world.connect([Config::default(), Config::default()], [quiet(), quiet()]);
    world.run_for(SECOND);
    world.end_mut(0, 0).flow_mut().expect("open").abort();
    world.run_for(SECOND);
    assert_eq!(world.ends(0)[0].flow().expect("it was").error(), Some(Error::Aborted));
    assert_eq!(world.ends(0)[1].flow().expect("it was").error(), Some(Error::Reset));
}

#[test]
fn time_wait_answers_and_gives_way_to_a_newer_connection() {
    let mut world = world();
    world.connect([Config::default(), Config::default()], [Script::bulk(10), Script::bulk(10)]);
    assert!(world.run_until(10 * SECOND, World::is_over));
    let waiting = world.ends(0).iter().find_map(|end| end.flow()?.time_wait()).expect("one of them waits");
    let now = world.now();
    // A newer connection of the same ports: its SYN is ahead of everything received.
    let Straggler::Answer(answer) = waiting.handle_segment(&Segment::new(Header { syn: true, ..old() }, b"")) else {
        panic!("an older SYN is answered")
    };
    let syn = Header { seq: answer.ack.expect("it acknowledges") + 1000, syn: true, ..Header::default() };
    let Straggler::Reopen { above } = waiting.handle_segment(&Segment::new(syn, b"")) else {
        panic!("a newer one reopens")
    };
    let mut flow = Flow::accept(Config::default(), &Segment::new(syn, b""), above + 1, now).expect("a SYN");
    assert!(flow.poll_transmit(now, 1000).expect("an answer").header.syn);

    fn old() -> Header {
        // An acknowledgement makes it no opening SYN, wherever it lies.
        Header { ack: Some(1), ..Header::default() }
    }
}

#[test]
fn a_smaller_path_is_lived_with() {
    for control in [Congestion::Bbr, Congestion::Cubic] {
        let mut world = world();
        let config = Config { mtu: 1420, control, ..Config::default() };
        world.connect([config.clone(), config], [Script::bulk(5_000_000), Script::bulk(0)]);
        world.run_for(200 * MS);
        let small = Path { mtu: Some(900), ..path() };
        world.set_path(0, small);
        world.run_for(30 * MS);
        let stuck = world.ends(0)[1].received();
        // The router has told.
        let now = world.now();
        world.end_mut(0, 0).flow_mut().expect("open").set_mtu(900, now);
        assert_eq!(world.ends(0)[0].flow().expect("open").figures().mss, 860);
        assert!(world.run_until(5 * SECOND, |world| world.ends(0)[1].received() == 5_000_000));
        assert!(stuck < 5_000_000);
        assert!(world.run_until(5 * SECOND, World::is_over), "{:?}", phases(&world));
    }
}

#[test]
fn buffers_grow_with_the_path_within_what_is_allowed() {
    // 100 Mbit/s and 200 ms: 2.5 MB on the way.
    let long = Path::new(RATE, 100 * MS, 1 << 20);
    for (limit, least) in [(8 << 20, 0.8), (256 << 10, 0.0)] {
        let mut world = World::new(1, Instant::now(), long, long).audited();
        let config = Config { buffers: Buffers { send: limit, receive: limit }, ..Config::default() };
        world.connect([config.clone(), config], [Script { close: Close::Never, ..Script::bulk(u64::MAX) }, quiet()]);
        world.run_for(5 * SECOND);
        let before = world.ends(0)[1].received();
        world.run_for(5 * SECOND);
        let share = (world.ends(0)[1].received() - before) as f64 / (5.0 * 12_500_000.0);
        assert!(share >= least, "{share}");
        for end in world.ends(0) {
            let memory = end.flow().expect("open").memory();
            assert!(memory <= limit.next_power_of_two() + (64 << 10), "{memory} of {limit}");
        }
    }
}

#[test]
fn a_slow_reader_holds_the_window_small() {
    let mut world = world();
    let slow = Script { reads: Some(100_000), ..quiet() };
    let endless = Script { close: Close::Never, ..Script::bulk(u64::MAX) };
    world.connect([Config::default(), Config::default()], [endless, slow]);
    world.run_for(30 * SECOND);
    let memory = world.ends(0)[1].flow().expect("open").memory();
    assert!(memory <= 256 << 10, "{memory}");
    let received = world.ends(0)[1].received();
    assert!((2_900_000..=3_000_000).contains(&received), "{received}");
}

#[test]
fn idle_memory_comes_back() {
    let mut world = world();
    world.connect(
        [Config::default(), Config::default()],
        [
            Script { close: Close::Never, ..Script::bulk(3_000_000) },
            Script { close: Close::Never, ..Script::bulk(3_000_000) },
        ],
    );
    world.run_for(10 * SECOND);
    for side in 0..2 {
        assert_eq!(world.ends(0)[side].received(), 3_000_000);
        let flow = world.end_mut(0, side).flow_mut().expect("open");
        assert!(flow.memory() > 0);
        flow.release_idle_memory();
        assert_eq!(flow.memory(), 0);
    }
    assert!(size_of::<Flow>() <= 2048, "{} bytes", size_of::<Flow>());
}

#[test]
fn a_retransmission_that_was_not_needed_is_undone() {
    // The path takes half a second longer for a moment: a timeout, but nothing is lost.
    let mut world = World::new(1, Instant::now(), path(), path()).audited();
    let config = Config { control: Congestion::Cubic, ..Config::default() };
    let endless = Script { close: Close::Never, ..Script::bulk(u64::MAX) };
    world.connect([config.clone(), config], [endless, quiet()]);
    world.run_for(3 * SECOND);
    let before = figures(&world).window;
    world.set_path(1, Path { delay: 510 * MS, ..path() });
    world.run_for(100 * MS);
    world.set_path(1, path());
    world.run_for(900 * MS);
    let after = figures(&world).window;
    assert!(after as f64 > 0.65 * before as f64, "{after} of {before}");

    fn figures(world: &World) -> postern_tcp::Figures {
        world.ends(0)[0].flow().expect("open").figures()
    }
}

#[test]
fn a_merged_burst_is_acknowledged_at_once() {
    let now = Instant::now();
    let syn = Header { syn: true, window: 60_000, ..Header::default() };
    let mut flow = Flow::accept(Config::default(), &Segment::new(syn, b""), 0, now).expect("a SYN");
    assert!(flow.poll_transmit(now, 1000).is_some());
    let data = |seq| Header { seq, ack: Some(1), window: 60_000, ..Header::default() };
    flow.handle_segment(&Segment { header: data(1), payload: &[0; 5000], packets: 4 }, now);
    assert_eq!(flow.poll_transmit(now, 1000).expect("an ACK").header.ack, Some(5001));
    flow.handle_segment(&Segment::new(data(5001), &[0; 1000]), now);
    assert!(flow.poll_transmit(now, 1000).is_none());
    assert_eq!(flow.poll_timeout(), Some(now + 25 * MS));
    flow.handle_timeout(now + 25 * MS);
    assert_eq!(flow.poll_transmit(now + 25 * MS, 1000).expect("an ACK").header.ack, Some(6001));
}

#[test]
fn a_peer_that_has_used_up_the_window_is_heard() {
    let now = Instant::now();
    let syn = Header { syn: true, window: 60_000, ..Header::default() };
    let config = Config { buffers: Buffers { receive: 10_000, ..Buffers::default() }, ..Config::default() };
    let mut flow = Flow::accept(config, &Segment::new(syn, b""), 0, now).expect("a SYN");
    assert!(flow.poll_transmit(now, 1000).is_some());
    let ack = |seq, ack| Header { seq, ack: Some(ack), window: 60_000, ..Header::default() };
    flow.handle_segment(&Segment::new(ack(1, 1), b""), now);
    flow.write(&[7; 100]);
    assert_eq!(flow.poll_transmit(now, 1000).expect("data").len(), 100);
    // Whatever fills the window is lost on the way.
    flow.handle_segment(&Segment::new(ack(10_002, 101), b""), now);
    assert_eq!(flow.figures().in_flight, 100, "beyond the window");
    flow.handle_segment(&Segment::new(ack(10_001, 101), b""), now);
    assert_eq!(flow.figures().in_flight, 0, "at its edge");
}

#[test]
fn many_flows_share_a_world() {
    let mut world = world();
    for _ in 0..50 {
        world.connect([Config::default(), Config::default()], [Script::bulk(100_000), Script::bulk(1_000)]);
    }
    assert!(world.run_until(60 * SECOND, World::is_over));
    assert!((0..50).all(|pair| world.ends(pair).iter().all(End::has_read_all)));
}
