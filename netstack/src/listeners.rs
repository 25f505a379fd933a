//! Ports that are listened on, and what waits to be accepted.

use std::collections::{HashMap, VecDeque};

use crate::event::{ListenError, ListenerId, StreamId};

/// All listeners.
#[derive(Debug, Default)]
pub(crate) struct Listeners {
    ports: HashMap<u16, Listener>,
    epoch: u64,
}

#[derive(Debug)]
struct Listener {
    epoch: u64,
    /// Handshakes that are through.
    queue: VecDeque<StreamId>,
    /// Those, and the unfinished ones.
    pending: u32,
    /// The application has been told and has not yet found the queue empty.
    told: bool,
}

impl Listeners {
    pub(crate) fn add(&mut self, port: u16) -> Result<ListenerId, ListenError> {
        if port == 0 {
            return Err(ListenError::Zero);
        }
        if self.ports.contains_key(&port) {
            return Err(ListenError::InUse(port));
        }
        self.epoch += 1;
        let epoch = self.epoch;
        self.ports.insert(port, Listener { epoch, queue: VecDeque::new(), pending: 0, told: false });
        Ok(ListenerId { port, epoch })
    }

    pub(crate) fn remove(&mut self, id: ListenerId) {
        if self.get(id).is_some() {
            self.ports.remove(&id.port);
        }
    }

    /// Who listens on a port, and how much waits there.
    pub(crate) fn find(&self, port: u16) -> Option<(ListenerId, u32)> {
        let listener = self.ports.get(&port)?;
        Some((ListenerId { port, epoch: listener.epoch }, listener.pending))
    }

    /// A handshake has begun.
    pub(crate) fn begin(&mut self, id: ListenerId) {
        if let Some(listener) = self.get(id) {
            listener.pending += 1;
        }
    }

    /// A handshake is through. Returns whether the application has to be told.
    pub(crate) fn ready(&mut self, id: ListenerId, stream: StreamId) -> bool {
        let Some(listener) = self.get(id) else { return false };
        listener.queue.push_back(stream);
        !std::mem::replace(&mut listener.told, true)
    }

    /// What was begun, or waited, has ended.
    pub(crate) fn gone(&mut self, id: ListenerId, stream: StreamId) {
        if let Some(listener) = self.get(id) {
            listener.pending -= 1;
            listener.queue.retain(|waiting| *waiting != stream);
        }
    }

    /// The one that has waited longest.
    pub(crate) fn accept(&mut self, id: ListenerId) -> Option<StreamId> {
        let listener = self.get(id)?;
        let stream = listener.queue.pop_front();
        if stream.is_some() {
            listener.pending -= 1;
        } else {
            listener.told = false;
        }
        stream
    }

    fn get(&mut self, id: ListenerId) -> Option<&mut Listener> {
        self.ports.get_mut(&id.port).filter(|listener| listener.epoch == id.epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_one_listener_and_an_old_handle_names_none() {
        let mut listeners = Listeners::default();
        let first = listeners.add(443).expect("free");
        assert_eq!(listeners.add(443), Err(ListenError::InUse(443)));
        assert_eq!(listeners.add(0), Err(ListenError::Zero));
        listeners.remove(first);
        let second = listeners.add(443).expect("free again");
        listeners.remove(first);
        assert_eq!(listeners.find(443), Some((second, 0)));
    }

    #[test]
    fn the_application_is_told_once_until_it_has_found_nothing() {
        let mut listeners = Listeners::default();
        let id = listeners.add(443).expect("free");
        let stream = |index| StreamId { index, epoch: 0 };
        for index in 0..3 {
            listeners.begin(id);
            assert_eq!(listeners.ready(id, stream(index)), index == 0);
        }
        listeners.gone(id, stream(1));
        assert_eq!((listeners.accept(id), listeners.find(443)), (Some(stream(0)), Some((id, 1))));
        assert_eq!((listeners.accept(id), listeners.accept(id)), (Some(stream(2)), None));
        listeners.begin(id);
        assert!(listeners.ready(id, stream(3)));
    }
}
