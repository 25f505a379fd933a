//! The states of a connection, and how it can fail.

use std::fmt;

/// The states of RFC 9293 section 3.3.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Our SYN waits for an answer.
    SynSent,
    /// Both SYNs are sent, ours is not acknowledged.
    SynReceived,
    /// Data flows.
    Established,
    /// Our FIN is sent, not acknowledged.
    FinWait1,
    /// Our FIN is acknowledged; the peer may still send.
    FinWait2,
    /// The peer's FIN has arrived; we may still send.
    CloseWait,
    /// Both FINs crossed on the way.
    Closing,
    /// The peer's FIN came first and ours is sent.
    LastAck,
    /// Ended in order; stragglers are answered.
    TimeWait,
    /// Over.
    Closed,
}

impl Phase {
    /// The state of an open connection: whether our FIN was sent and acknowledged, whether the peer's has arrived, and whether
    /// that was before ours.
    pub(crate) fn of_fins(sent: bool, acknowledged: bool, received: bool, received_first: bool) -> Self {
        match (sent, acknowledged, received) {
            (false, _, false) => Self::Established,
            (false, _, true) => Self::CloseWait,
            (true, false, false) => Self::FinWait1,
            (true, true, false) => Self::FinWait2,
            (true, _, true) if received_first => Self::LastAck,
            (true, _, true) => Self::Closing,
        }
    }
}

/// Why a connection ended out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The peer answered our SYN with a reset.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// The peer was silent for longer than [`Config::patience`](crate::Config::patience), or did not answer keep-alive probes.
    TimedOut,
    /// [`Flow::abort`](crate::Flow::abort) was called.
    Aborted,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the peer refused the connection",
            Self::Reset => "the peer reset the connection",
            Self::TimedOut => "the peer has not answered for too long",
            Self::Aborted => "the connection was aborted on this side",
        })
    }
}

impl std::error::Error for Error {}
