//! What the driver and the handles of one tunnel share: the netstack behind its lock, and who waits for it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use parking_lot::Mutex;
use postern_model::{AccountId, PublicKey};
use postern_netstack::{Batch, Deadline, Event, ListenerId, Netstack, Path, StreamId};

/// One tunnel. The lock is held for one call or one batch, never across an await; who waits is woken after it is given back.
pub(crate) struct Shared {
    pub(crate) account: AccountId,
    pub(crate) public_key: PublicKey,
    /// Where the UDP socket is.
    pub(crate) local: SocketAddr,
    core: Mutex<Core>,
}

pub(crate) struct Core {
    pub(crate) netstack: Netstack,
    /// By [`StreamId::index`].
    streams: Vec<Option<Waiting>>,
    listeners: HashMap<ListenerId, Option<Waker>>,
    orphans: Vec<Orphan>,
    driver: Option<Waker>,
    /// Something was done that the driver has not looked at.
    dirty: bool,
    phase: Phase,
    /// Ours, inside.
    pub(crate) addresses: Vec<IpAddr>,
    /// Datagrams that the system refused.
    pub(crate) refused: u64,
}

/// Who waits for a stream.
struct Waiting {
    id: StreamId,
    reader: Option<Waker>,
    writer: Option<Waker>,
    connected: bool,
}

/// A handle that was dropped: the driver closes what it stood for, so that a drop never runs the netstack.
pub(crate) enum Orphan {
    Stream(StreamId),
    Listener(ListenerId),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    /// `close` was called: the driver says farewell and ends.
    Closing,
    /// No driver any more.
    Ended,
}

/// The tunnel is closed, or its driver is gone.
pub(crate) struct Closed;

/// What the driver has to do.
pub(crate) enum Next {
    /// There is work.
    Work,
    /// Nothing before this moment; the waker is left behind.
    Rest(Option<Deadline>),
}

impl Shared {
    pub(crate) fn new(account: AccountId, public_key: PublicKey, local: SocketAddr, netstack: Netstack) -> Self {
        let core = Core {
            netstack,
            streams: Vec::new(),
            listeners: HashMap::new(),
            orphans: Vec::new(),
            driver: None,
            dirty: false,
            phase: Phase::Running,
            addresses: Vec::new(),
            refused: 0,
        };
        Self { account, public_key, local, core: Mutex::new(core) }
    }

    /// For looking only: what changes the netstack goes through [`Self::act`].
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Core) -> T) -> T {
        look(&self.core.lock())
    }

    /// Does something on behalf of a handle, and sets the driver off to send what comes of it.
    ///
    /// # Errors
    /// [`Closed`], and nothing was done.
    pub(crate) fn act<T>(&self, act: impl FnOnce(&mut Core) -> T) -> Result<T, Closed> {
        self.enter(act, |_| true)
    }

    /// The same for what may find nothing to do: then it has left a waker behind, and the driver is left in peace.
    pub(crate) fn poll<T>(&self, poll: impl FnOnce(&mut Core) -> Poll<T>) -> Result<Poll<T>, Closed> {
        self.enter(poll, Poll::is_ready)
    }

    fn enter<T>(&self, act: impl FnOnce(&mut Core) -> T, acted: impl FnOnce(&T) -> bool) -> Result<T, Closed> {
        let (result, driver) = {
            let mut core = self.core.lock();
            if core.phase != Phase::Running {
                return Err(Closed);
            }
            let result = act(&mut core);
            let driver = if acted(&result) {
                core.dirty = true;
                core.driver.take()
            } else {
                None
            };
            (result, driver)
        };
        driver.into_iter().for_each(Waker::wake);
        Ok(result)
    }

    /// Asks the driver to end, and everything with it.
    pub(crate) fn close(&self) {
        let driver = {
            let mut core = self.core.lock();
            if core.phase == Phase::Running {
                core.phase = Phase::Closing;
            }
            core.driver.take()
        };
        driver.into_iter().for_each(Waker::wake);
    }

    /// No driver any more: whoever waits learns it. Touches nothing of the netstack, which may have panicked.
    pub(crate) fn end(&self) {
        let wakers = {
            let mut core = self.core.lock();
            core.phase = Phase::Ended;
            core.orphans.clear();
            let streams = std::mem::take(&mut core.streams).into_iter().flatten();
            let listeners = std::mem::take(&mut core.listeners).into_values();
            let wakers = streams.flat_map(|waiting| [waiting.reader, waiting.writer]).chain(listeners);
            wakers.flatten().collect::<Vec<_>>()
        };
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Takes in what was received and what time has brought; `wake` gets those who have something to do. `behind`: more was
    /// there than was received.
    pub(crate) fn take_in<'a>(
        &self,
        datagrams: impl Iterator<Item = (SocketAddr, &'a mut [u8])>,
        behind: bool,
        wake: &mut Vec<Waker>,
    ) {
        let mut core = self.core.lock();
        let now = Instant::now();
        core.netstack.set_behind(behind);
        for (from, datagram) in datagrams {
            core.netstack.handle_datagram(Path::Udp(from), datagram, now);
        }
        core.netstack.handle_timeout(now);
        core.dispatch(wake);
    }

    /// The next batch to send; false if there is none. `refused` is what became of the ones before.
    pub(crate) fn fill(&self, batch: &mut Batch, refused: u64, wake: &mut Vec<Waker>) -> bool {
        let mut core = self.core.lock();
        let now = Instant::now();
        core.refused += refused;
        core.dirty = false;
        core.bury(now);
        let filled = core.netstack.poll_transmit(now, batch);
        core.dispatch(wake);
        filled
    }

    /// Whether `close` was called: then everything is closed here, for the last [`Self::fill`]s to say so to the peers.
    pub(crate) fn farewell(&self) -> bool {
        let mut core = self.core.lock();
        if core.phase != Phase::Closing {
            return false;
        }
        core.netstack.close_all(Instant::now());
        true
    }

    /// What the driver does after everything is sent, or, `blocked`, after the system took no more: then what is done meanwhile
    /// has to wait, but for handles that were dropped. Work and waker are settled under one lock: no change slips between.
    pub(crate) fn next(&self, cx: &Context<'_>, blocked: bool) -> Next {
        let mut core = self.core.lock();
        if (core.dirty && !blocked) || core.phase != Phase::Running {
            return Next::Work;
        }
        core.bury(Instant::now());
        leave(&mut core.driver, cx);
        Next::Rest(core.netstack.poll_timeout())
    }
}

impl Core {
    /// A stream's handle begins.
    pub(crate) fn adopt(&mut self, stream: StreamId) {
        if self.streams.len() <= stream.index() {
            self.streams.resize_with(stream.index() + 1, || None);
        }
        self.streams[stream.index()] = Some(Waiting { id: stream, reader: None, writer: None, connected: false });
    }

    /// A listener's handle begins.
    pub(crate) fn adopt_listener(&mut self, listener: ListenerId) {
        self.listeners.insert(listener, None);
    }

    /// A handle ends.
    pub(crate) fn abandon(&mut self, orphan: Orphan) {
        match orphan {
            Orphan::Stream(id) => drop(self.streams.get_mut(id.index()).and_then(Option::take)),
            Orphan::Listener(id) => drop(self.listeners.remove(&id)),
        }
        self.orphans.push(orphan);
    }

    /// Waits for [`Event::Readable`] or the stream's end.
    pub(crate) fn await_readable<T>(&mut self, stream: StreamId, cx: &Context<'_>) -> Poll<T> {
        if let Some(waiting) = self.waiting(stream) {
            leave(&mut waiting.reader, cx);
        }
        Poll::Pending
    }

    /// Waits for [`Event::Writable`], [`Event::Connected`] or the stream's end.
    pub(crate) fn await_writable<T>(&mut self, stream: StreamId, cx: &Context<'_>) -> Poll<T> {
        if let Some(waiting) = self.waiting(stream) {
            leave(&mut waiting.writer, cx);
        }
        Poll::Pending
    }

    /// Waits for [`Event::Incoming`].
    pub(crate) fn await_incoming<T>(&mut self, listener: ListenerId, cx: &Context<'_>) -> Poll<T> {
        leave(self.listeners.entry(listener).or_default(), cx);
        Poll::Pending
    }

    /// Whether [`Event::Connected`] has come.
    pub(crate) fn is_connected(&mut self, stream: StreamId) -> bool {
        self.waiting(stream).is_some_and(|waiting| waiting.connected)
    }

    /// Closes what the dropped handles stood for.
    pub(crate) fn bury(&mut self, now: Instant) {
        for orphan in self.orphans.drain(..) {
            match orphan {
                Orphan::Stream(id) => self.netstack.close(id, now),
                Orphan::Listener(id) => self.netstack.close_listener(id, now),
            }
        }
    }

    fn dispatch(&mut self, wake: &mut Vec<Waker>) {
        while let Some(event) = self.netstack.poll_event() {
            match event {
                Event::Incoming(id) => wake.extend(self.listeners.get_mut(&id).and_then(Option::take)),
                Event::Readable(id) => wake.extend(self.waiting(id).and_then(|waiting| waiting.reader.take())),
                Event::Writable(id) => wake.extend(self.waiting(id).and_then(|waiting| waiting.writer.take())),
                Event::Connected(id) => {
                    let Some(waiting) = self.waiting(id) else { continue };
                    waiting.connected = true;
                    wake.extend(waiting.writer.take());
                }
                Event::Closed(id) => {
                    let Some(waiting) = self.waiting(id) else { continue };
                    wake.extend([waiting.reader.take(), waiting.writer.take()].into_iter().flatten());
                }
            }
        }
    }

    /// `None` once the handle is gone: what is still said of the stream concerns nobody.
    fn waiting(&mut self, stream: StreamId) -> Option<&mut Waiting> {
        self.streams.get_mut(stream.index())?.as_mut().filter(|waiting| waiting.id == stream)
    }
}

fn leave(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use postern_netstack::{Config, Limits, PrivateKey};

    use super::*;

    fn shared() -> Shared {
        let key = PrivateKey::generate();
        let public_key = PublicKey(key.public());
        let config = Config { key, addresses: Vec::new(), mtu: 1420, limits: Limits::default(), seed: [1; 32] };
        let local = SocketAddr::from(([127, 0, 0, 1], 1));
        let account = AccountId::parse("acc").unwrap();
        Shared::new(account, public_key, local, Netstack::new(config, Instant::now()))
    }

    #[test]
    fn while_nothing_can_be_sent_the_driver_rests_and_buries() {
        let (shared, cx) = (shared(), Context::from_waker(Waker::noop()));
        let listener = shared.act(|core| core.netstack.listen(1)).ok().unwrap().unwrap();
        assert!(shared.act(|core| core.abandon(Orphan::Listener(listener))).is_ok());
        assert!(matches!(shared.next(&cx, false), Next::Work));
        assert!(matches!(shared.next(&cx, true), Next::Rest(None)));
        assert!(shared.act(|core| core.netstack.listen(1)).is_ok_and(|again| again.is_ok()), "it is buried");
        assert!(matches!(shared.next(&cx, false), Next::Work), "and what was done is not forgotten");
        shared.close();
        assert!(matches!(shared.next(&cx, true), Next::Work));
    }
}
