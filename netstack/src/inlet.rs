//! A packet's way in: read, checked for being ours, merged with what came just before, given to the flows.

use std::net::IpAddr;
use std::time::Instant;

use postern_tcp::Segment;

use crate::counters::Drop;
use crate::engine::PeerIndex;
use crate::merge::{Merge, is_mergeable};
use crate::stack::Stack;
use crate::tuple::FourTuple;
use crate::wire::ip::Inner;
use crate::wire::{ip, tcp};

/// Passes on what is held back to be merged.
pub(crate) fn flush(merge: &mut Merge, stack: &mut Stack, now: Instant) {
    if let Some((held, segment)) = merge.take() {
        stack.counters.merged += u64::from(segment.packets) - 1;
        stack.handle_segment(held.peer, &held.tuple, &segment, now);
    }
}

/// Takes a packet of `length` bytes that lies in [`Merge::space`].
pub(crate) fn handle_packet(merge: &mut Merge, stack: &mut Stack, peer: PeerIndex, length: usize, now: Instant) {
    let at = merge.next();
    let packet = &merge.bytes()[at..at + length];
    let inner = match ip::parse(packet) {
        Ok(inner) if is_ours(&stack.addresses, inner.to) => inner,
        Ok(_) => return stack.counters.drop(Drop::NotOurs),
        Err(reason) => return stack.counters.drop(reason),
    };
    if inner.protocol != ip::TCP {
        return stack.handle_other(peer, &inner, packet, now);
    }
    handle_tcp(merge, stack, peer, &inner, now);
}

fn handle_tcp(merge: &mut Merge, stack: &mut Stack, peer: PeerIndex, inner: &Inner, now: Instant) {
    let at = merge.next();
    let Some(segment) = tcp::parse(&merge.bytes()[at..][inner.payload.clone()]) else {
        return stack.counters.drop(Drop::BadTcp);
    };
    let tuple = FourTuple { remote: inner.from, local: inner.to, remote_port: segment.from, local_port: segment.to };
    let payload = at + inner.payload.start + segment.payload..at + inner.payload.end;
    let mergeable = is_mergeable(&segment.header, payload.len());
    if mergeable && merge.append(peer, &tuple, &segment.header, payload.clone()) {
        return;
    }
    if mergeable || merge.holds(peer, &tuple) {
        flush(merge, stack, now);
    }
    if mergeable {
        merge.hold(peer, tuple, segment.header, payload, now);
    } else {
        let segment = Segment::new(segment.header, &merge.bytes()[payload]);
        stack.handle_segment(peer, &tuple, &segment, now);
    }
}

fn is_ours(addresses: &[IpAddr], to: IpAddr) -> bool {
    addresses.contains(&to)
}
