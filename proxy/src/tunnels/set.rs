//! All tunnels of this proxy.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use postern_model::AccountId;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::supervisor::{Parts, Supervisor};
use super::ticket::Ticket;
use crate::directory::{Directory, Standing, TunnelEvent};

/// The owner of all tunnels: one supervisor for each account that has one.
pub(crate) struct Tunnels {
    /// `None`: this proxy is configured without any.
    parts: Option<Arc<Parts>>,
    directory: Directory,
    open: HashMap<AccountId, Open>,
    /// Those that are closing: their port and key are free only then.
    closing: HashMap<AccountId, AbortOnDropHandle<()>>,
    nudge: mpsc::UnboundedSender<AccountId>,
    nudges: mpsc::UnboundedReceiver<AccountId>,
}

/// A tunnel that is wanted.
struct Open {
    standing: watch::Receiver<Standing>,
    supervised: Option<Supervised>,
}

struct Supervised {
    tickets: mpsc::UnboundedSender<Ticket>,
    close: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Tunnels {
    /// None is open. Those that are up are to be found in `directory`.
    pub(crate) fn new(parts: Option<Parts>, directory: Directory) -> Self {
        let (nudge, nudges) = mpsc::unbounded_channel();
        Self { parts: parts.map(Arc::new), directory, open: HashMap::new(), closing: HashMap::new(), nudge, nudges }
    }

    /// Opens the tunnel of `account`, which has none. Has to be called on a runtime, which then carries its supervisor.
    pub(crate) fn open(&mut self, account: &AccountId) {
        let (standing, watching) = watch::channel(Standing::Coming);
        let supervised = match &self.parts {
            None => {
                standing.send_replace(Standing::Down(WITHOUT.into()));
                let _we_hold_the_receiver = self.nudge.send(account.clone());
                None
            }
            Some(parts) => {
                let (tickets, offered) = mpsc::unbounded_channel();
                let close = CancellationToken::new();
                let nudge = self.nudge.clone();
                let supervisor =
                    Supervisor::new(account.clone(), Arc::clone(parts), offered, close.clone(), standing, nudge);
                let predecessor = self.closing.remove(account);
                let task = AbortOnDropHandle::new(tokio::spawn(async move {
                    if let Some(predecessor) = predecessor {
                        let _panicked = predecessor.await;
                    }
                    supervisor.run().await;
                }));
                Some(Supervised { tickets, close, task })
            }
        };
        self.directory.insert(account, &watching);
        self.open.insert(account.clone(), Open { standing: watching, supervised });
    }

    /// Hands a ticket to whoever may need it.
    pub(crate) fn offer(&self, ticket: Ticket) {
        if let Some(supervised) = self.open.get(&ticket.account).and_then(|open| open.supervised.as_ref()) {
            let _ended = supervised.tickets.send(ticket);
        }
    }

    /// Closes the tunnel of `account`.
    pub(crate) fn close(&mut self, account: &AccountId) {
        self.directory.remove(account);
        self.closing.retain(|_, task| !task.is_finished());
        if let Some(supervised) = self.open.remove(account).and_then(|open| open.supervised) {
            supervised.close.cancel();
            self.closing.insert(account.clone(), supervised.task);
        }
    }

    /// The next thing that becomes of a tunnel. Nothing is lost if it is given up.
    pub(crate) async fn next(&mut self) -> TunnelEvent {
        loop {
            let account = self.nudges.recv().await.expect("we hold a sender");
            if let Some(open) = self.open.get(&account) {
                let state = open.standing.borrow().state();
                return TunnelEvent { account, state };
            }
        }
    }

    /// Closes all, and waits until they have said good-bye.
    pub(crate) async fn shutdown(mut self) {
        let accounts: Vec<_> = self.open.keys().cloned().collect();
        for account in &accounts {
            self.close(account);
        }
        join_all(self.closing.into_values()).await;
    }
}

const WITHOUT: &str = "this proxy is configured without tunnels; give it a folder for their keys";
