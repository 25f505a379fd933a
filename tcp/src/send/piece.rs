//! A stretch of our stream on its way out.

/// What leaves next, in stream offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) seq: u32,
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) push: bool,
    /// Whether something waits behind it, allowed to leave or not.
    pub(crate) more: bool,
}
