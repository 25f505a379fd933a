//! What packets from a peer lead to.

use std::time::Instant;

use postern_tcp::{Header, Segment, Straggler};

use crate::counters::Drop;
use crate::engine::PeerIndex;
use crate::flows::Role;
use crate::stack::Stack;
use crate::tuple::FourTuple;
use crate::wire::icmp::{self, Message};
use crate::wire::ip::{self, Inner};
use crate::wire::{emit, tcp};

/// Below this nobody's path is: what says so lies (Linux's least path MTU; RFC 8200 section 5).
const LEAST_MTU_V4: u32 = 552;
const LEAST_MTU_V6: u32 = 1280;

impl Stack {
    /// Takes a segment that may belong to a flow.
    pub(crate) fn handle_segment(&mut self, peer: PeerIndex, tuple: &FourTuple, segment: &Segment<'_>, now: Instant) {
        let Some(index) = self.flows.find(tuple) else { return self.handle_stranger(peer, tuple, segment, now) };
        if self.flows.get(index).is_none_or(|slot| slot.peer != peer) {
            return self.counters.drop(Drop::OtherPeer);
        }
        self.deliver(index, segment, now);
    }

    /// Takes a packet that is no TCP segment.
    pub(crate) fn handle_other(&mut self, peer: PeerIndex, inner: &Inner, packet: &[u8], now: Instant) {
        let payload = &packet[inner.payload.clone()];
        match inner.protocol {
            ip::ICMP if inner.from.is_ipv4() => self.handle_icmp(peer, inner, payload, now),
            ip::ICMP_V6 if inner.from.is_ipv6() => self.handle_icmp(peer, inner, payload, now),
            ip::UDP => {
                self.counters.drop(Drop::Protocol);
                let answer = icmp::port_unreachable(inner, packet);
                if answer.len() <= inner.payload.end {
                    self.answer(peer, answer, now);
                } else {
                    self.counters.drop(Drop::Unanswered);
                }
            }
            _ => self.counters.drop(Drop::Protocol),
        }
    }

    /// A segment that belongs to no flow.
    fn handle_stranger(&mut self, peer: PeerIndex, tuple: &FourTuple, segment: &Segment<'_>, now: Instant) {
        let straggler = self.ended.time_wait(tuple, peer, now).map(|wait| wait.handle_segment(segment));
        match straggler {
            Some(Straggler::Nothing) => {}
            Some(Straggler::Answer(header)) => self.answer_with(peer, tuple, &header, now),
            Some(Straggler::Reopen { above }) => self.handle_syn(peer, tuple, segment, Some(above), now),
            None if is_syn(&segment.header) => self.handle_syn(peer, tuple, segment, None, now),
            None => {
                self.counters.drop(Drop::NoFlow);
                self.refuse(peer, tuple, segment, now);
            }
        }
    }

    /// A SYN costs nothing before everything that can speak against it has been asked.
    fn handle_syn(&mut self, peer: PeerIndex, tuple: &FourTuple, syn: &Segment<'_>, above: Option<u32>, now: Instant) {
        let Some((listener, pending)) = self.listeners.find(tuple.local_port) else {
            self.counters.drop(Drop::NoListener);
            return self.refuse(peer, tuple, syn, now);
        };
        let limits = &self.limits;
        let flows_left = (limits.flows as usize).saturating_sub(self.flows.len());
        let backlog_left = limits.backlog.saturating_sub(pending) as usize;
        let line = self.outbox.line(peer);
        let reason = if flows_left == 0 {
            Some(Drop::Flows)
        } else if line.flows >= limits.flows_per_peer || !has_share(line.flows, flows_left) {
            Some(Drop::FlowsOfPeer)
        } else if backlog_left == 0 {
            Some(Drop::Backlog)
        } else if line.embryos >= limits.embryonic_per_peer || !has_share(line.embryos, backlog_left) {
            Some(Drop::Embryonic)
        } else {
            None
        };
        if let Some(reason) = reason {
            return self.counters.drop(reason);
        }
        let isn = self.numbers.isn(tuple, above, now);
        let config = self.flow_config(tuple, peer);
        let Some(flow) = self.flows.accept(config, syn, isn, now) else { return self.counters.drop(Drop::BadTcp) };
        self.ended.remove(tuple);
        self.insert(flow, *tuple, peer, Role::Embryo(listener), self.limits.embryo_patience, now);
    }

    fn handle_icmp(&mut self, peer: PeerIndex, inner: &Inner, message: &[u8], now: Instant) {
        match icmp::parse(inner.protocol, message) {
            Some(Message::EchoRequest) => self.answer(peer, icmp::echo_reply(inner, message), now),
            Some(Message::TooBig { mtu, quoted }) => self.handle_too_big(peer, mtu, quoted, now),
            None => self.counters.drop(Drop::Icmp),
        }
    }

    /// Path MTU discovery (RFC 1191, RFC 8201). Only the peer of a flow is believed, and only that its packets must be smaller.
    fn handle_too_big(&mut self, peer: PeerIndex, mtu: u32, quoted: &[u8], now: Instant) {
        let tuple = ip::parse_quoted(quoted).filter(|inner| inner.protocol == ip::TCP).and_then(|inner| {
            let ports = quoted.get(inner.payload.start..)?.first_chunk::<4>()?;
            let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
            Some(FourTuple { remote: inner.to, local: inner.from, remote_port: port(2), local_port: port(0) })
        });
        let index = tuple.and_then(|tuple| self.flows.find(&tuple));
        let slot = index.and_then(|index| self.flows.get_mut(index)).filter(|slot| slot.peer == peer);
        let (Some(index), Some(slot)) = (index, slot) else { return self.counters.drop(Drop::Icmp) };
        let least = if slot.tuple.remote.is_ipv4() { LEAST_MTU_V4 } else { LEAST_MTU_V6 };
        let mtu = mtu.max(least).min(u32::from(u16::MAX)) as u16;
        if mtu >= slot.mtu {
            return self.counters.drop(Drop::Icmp);
        }
        self.shrink(index, mtu, now);
    }

    /// Cuts a flow into other packets from now on.
    pub(crate) fn shrink(&mut self, index: u32, mtu: u16, now: Instant) {
        let Some(slot) = self.flows.get_mut(index) else { return };
        slot.mtu = mtu;
        let headers = if slot.tuple.remote.is_ipv4() { 40 } else { 60 };
        slot.mss = slot.mss.min(usize::from(mtu).saturating_sub(headers).max(1));
        slot.flow.set_mtu(mtu, now);
        self.touch(index);
        self.settle(index, now);
    }

    /// A reset for what belongs to no flow.
    fn refuse(&mut self, peer: PeerIndex, tuple: &FourTuple, segment: &Segment<'_>, now: Instant) {
        if let Some(header) = Header::reset_for(segment) {
            self.answer_with(peer, tuple, &header, now);
        }
    }

    fn answer_with(&mut self, peer: PeerIndex, tuple: &FourTuple, header: &Header, now: Instant) {
        let mut packet = vec![0; emit::ip_length(tuple.local) + tcp::HEADER + header.options_len()];
        emit::segment(&mut packet, tuple, header, (&[], &[]));
        self.answer(peer, packet, now);
    }

    fn answer(&mut self, peer: PeerIndex, packet: Vec<u8>, now: Instant) {
        if !self.outbox.push_answer(peer, packet, self.limits.answers_per_second, now) {
            self.counters.drop(Drop::Unanswered);
        }
    }
}

/// Whether a peer that holds so many may have one more of what so many are left of: while it has less than an eighth of those.
/// Peers who take all they get leave most of it to the next (dynamic thresholds; Choudhury, Hahne 1998).
fn has_share(held: u32, left: usize) -> bool {
    (held as usize).saturating_mul(8) < left
}

/// What opens a connection, and nothing else.
fn is_syn(header: &Header) -> bool {
    header.syn && header.ack.is_none() && !header.rst && !header.fin
}
