//! RFC 5961 case by case: what somebody who does not see the connection can do to it. Every refusal has a twin that succeeds.

use std::time::{Duration, Instant};

use postern_tcp::{Config, Error, Flow, Header, Ignored, Phase, Segment, Transmit};

const OURS: u32 = u32::MAX - 100;
const THEIRS: u32 = 5_000;

/// An open connection that has received 10 bytes and sent 20.
fn open(now: Instant) -> Flow {
    let syn = Header { seq: THEIRS, syn: true, window: 60_000, mss: Some(1000), ..Header::default() };
    let mut flow = Flow::accept(Config::default(), &Segment::new(syn, b""), OURS, now).expect("a SYN");
    let answer = send(&mut flow, now).expect("a SYN is answered");
    assert!(answer.syn && answer.ack == Some(THEIRS + 1));
    let data = Header { seq: THEIRS + 1, ack: Some(OURS.wrapping_add(1)), window: 60_000, ..Header::default() };
    flow.handle_segment(&Segment::new(data, &[7; 10]), now);
    assert_eq!(flow.write(&[9; 20]), 20);
    while send(&mut flow, now).is_some() {}
    assert_eq!(flow.phase(), Phase::Established);
    flow
}

fn send(flow: &mut Flow, now: Instant) -> Option<Header> {
    flow.poll_transmit(now, 60_000).map(|Transmit { header, .. }| header)
}

/// What the peer would send next.
fn next() -> Header {
    Header { seq: THEIRS + 11, ack: Some(OURS.wrapping_add(21)), window: 60_000, ..Header::default() }
}

fn give(flow: &mut Flow, header: Header, payload: &[u8], now: Instant) {
    flow.handle_segment(&Segment::new(header, payload), now);
}

#[track_caller]
fn challenged(flow: &mut Flow, reason: Ignored, now: Instant) {
    assert_eq!(flow.counters().ignored(reason), 1, "{reason:?}");
    let ack = send(flow, now).expect("a challenge");
    assert_eq!((ack.ack, ack.rst, ack.syn), (Some(THEIRS + 11), false, false));
    assert_eq!(ack.seq, OURS.wrapping_add(21));
    assert_eq!((send(flow, now), flow.phase()), (None, Phase::Established));
}

/// Section 3.
#[test]
fn a_reset_in_the_window_is_challenged_one_outside_ignored_and_the_exact_one_believed() {
    let now = Instant::now();
    let reset = Header { rst: true, ack: None, ..next() };

    let mut flow = open(now);
    give(&mut flow, Header { seq: reset.seq + 1, ..reset }, b"", now);
    challenged(&mut flow, Ignored::BlindReset, now);

    for seq in [reset.seq - 1, reset.seq.wrapping_add(1 << 30), reset.seq - 5000] {
        let mut flow = open(now);
        give(&mut flow, Header { seq, ..reset }, b"", now);
        assert_eq!(flow.counters().ignored(Ignored::BlindReset), 1);
        assert_eq!((send(&mut flow, now), flow.phase()), (None, Phase::Established));
    }

    let mut flow = open(now);
    give(&mut flow, reset, b"", now);
    assert_eq!((flow.phase(), flow.error()), (Phase::Closed, Some(Error::Reset)));
    assert_eq!((send(&mut flow, now), flow.poll_timeout()), (None, None));
}

/// Section 4.
#[test]
fn a_syn_is_challenged_wherever_it_lies() {
    let now = Instant::now();
    for seq in [THEIRS, THEIRS - 1000, next().seq, next().seq + 7, THEIRS.wrapping_add(1 << 31)] {
        let mut flow = open(now);
        give(&mut flow, Header { seq, syn: true, ack: None, ..next() }, b"", now);
        challenged(&mut flow, Ignored::UnexpectedSyn, now);
    }
}

/// Section 5.
#[test]
fn an_acknowledgement_is_believed_within_a_window_of_what_was_sent() {
    let now = Instant::now();
    let with = |ack: u32| Header { ack: Some(OURS.wrapping_add(ack)), ..next() };

    let mut flow = open(now);
    give(&mut flow, with(22), b"stranger", now);
    challenged(&mut flow, Ignored::AckOfUnsent, now);

    let mut flow = open(now);
    give(&mut flow, with(1u32.wrapping_sub(60_001)), b"stranger", now);
    challenged(&mut flow, Ignored::AckTooOld, now);

    for ack in [21, 1] {
        let mut flow = open(now);
        give(&mut flow, with(ack), b"friend", now);
        assert_eq!(flow.peek().0.len() + flow.peek().1.len(), 16, "{ack}");
    }
}

/// Section 7.
#[test]
fn strangers_get_ten_answers_a_second() {
    let start = Instant::now();
    let mut flow = open(start);
    let mut answers = 0;
    for ms in 0..2000 {
        let now = start + Duration::from_millis(ms);
        give(&mut flow, Header { syn: true, ..next() }, b"", now);
        answers += u32::from(send(&mut flow, now).is_some_and(|answer| !answer.psh));
        while send(&mut flow, now).is_some() {}
    }
    assert!((20..=25).contains(&answers), "{answers}, retransmissions included");
    assert_eq!(flow.counters().ignored(Ignored::UnexpectedSyn), 2000);
}

/// RFC 9293 section 3.10.7.4.
#[test]
fn what_lies_outside_the_window_is_not_read() {
    let now = Instant::now();
    for (seq, reason) in [
        (next().seq.wrapping_add(1 << 20), Ignored::OutsideWindow),
        (next().seq.wrapping_sub(10), Ignored::Duplicate),
        (next().seq.wrapping_sub(1 << 20), Ignored::Duplicate),
    ] {
        let mut flow = open(now);
        give(&mut flow, Header { seq, ..next() }, &[1; 10], now);
        assert_eq!(flow.counters().ignored(reason), 1);
        assert_eq!(flow.peek().0, [7; 10]);
        assert_eq!(send(&mut flow, now).expect("an answer").ack, Some(THEIRS + 11));
    }
}

#[test]
fn nonsense_is_counted_and_changes_nothing() {
    let now = Instant::now();
    let mut flow = open(now);
    give(&mut flow, Header { syn: true, fin: true, ..next() }, b"", now);
    assert_eq!(flow.counters().ignored(Ignored::BadFlags), 1);
    give(&mut flow, Header { ack: None, ..next() }, b"stranger", now);
    assert_eq!(flow.counters().ignored(Ignored::NoAck), 1);
    assert_eq!(flow.peek().0, [7; 10]);
    assert_eq!((send(&mut flow, now), flow.phase()), (None, Phase::Established));
}

#[test]
fn a_fin_stays_where_it_was_first() {
    let now = Instant::now();
    let mut flow = open(now);
    // Beyond a hole: known, not reached.
    give(&mut flow, Header { seq: next().seq + 10, fin: true, ..next() }, &[2; 10], now);
    assert_eq!(flow.phase(), Phase::Established);
    give(&mut flow, Header { fin: true, ..next() }, &[3; 5], now);
    give(&mut flow, Header { seq: next().seq + 10, fin: true, ..next() }, &[2; 30], now);
    assert_eq!(flow.counters().ignored(Ignored::FinMoved), 2);
    assert_eq!(flow.counters().ignored(Ignored::BeyondFin), 1);
    assert_eq!(flow.phase(), Phase::Established);
    give(&mut flow, next(), &[3; 10], now);
    assert_eq!((flow.phase(), flow.peek().0.len()), (Phase::CloseWait, 30));
    // What comes after the end is not read.
    give(&mut flow, Header { seq: next().seq + 21, ..next() }, &[4; 10], now);
    assert_eq!(flow.peek().0.len(), 30);
}

#[test]
fn a_syn_is_answered_by_a_flow_and_anything_else_by_none() {
    let now = Instant::now();
    let syn = Header { syn: true, ..Header::default() };
    let accept = |header| Flow::accept(Config::default(), &Segment::new(header, b""), 0, now);
    assert!(accept(syn).is_some());
    for header in [
        Header { syn: false, ..syn },
        Header { rst: true, ..syn },
        Header { fin: true, ..syn },
        Header { ack: Some(1), ..syn },
    ] {
        assert!(accept(header).is_none(), "{header:?}");
    }
}

#[test]
fn while_connecting_only_an_answer_to_our_syn_is_believed() {
    let now = Instant::now();
    let connect = || {
        let mut flow = Flow::connect(Config::default(), OURS, now);
        assert!(send(&mut flow, now).expect("a SYN").syn);
        flow
    };
    let answer = Header { seq: THEIRS, ack: Some(OURS.wrapping_add(1)), ..Header::default() };

    // An acknowledgement of something else earns a reset and changes nothing; a reset of something else nothing at all.
    for ack in [OURS, OURS.wrapping_add(2), OURS.wrapping_sub(9)] {
        let mut flow = connect();
        give(&mut flow, Header { ack: Some(ack), syn: true, ..answer }, b"", now);
        let reset = send(&mut flow, now).expect("a reset");
        assert_eq!((reset.rst, reset.seq, flow.phase()), (true, ack, Phase::SynSent));
        give(&mut flow, Header { ack: Some(ack), rst: true, ..answer }, b"", now);
        assert_eq!((send(&mut flow, now), flow.phase(), flow.error()), (None, Phase::SynSent, None));
    }
    let mut flow = connect();
    give(&mut flow, Header { rst: true, ..answer }, b"", now);
    assert_eq!(flow.error(), Some(Error::Refused));
    let mut flow = connect();
    give(&mut flow, Header { syn: true, ..answer }, b"", now);
    assert_eq!(flow.phase(), Phase::Established);
    assert_eq!(send(&mut flow, now).expect("an ACK").ack, Some(THEIRS + 1));
}
