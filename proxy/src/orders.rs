//! What the control side tells the workers.

use std::fmt;
use std::sync::Arc;

use postern_model::AccountId;
use postern_tunnel::{Driver, Listener};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::live::Revocation;

/// One message to one worker.
#[derive(Debug)]
pub(crate) enum Order {
    /// End what these are about.
    Revoke(Arc<[Revocation]>),
    /// Be the home of this tunnel.
    Carry(Load),
    /// Accept nothing more, finish what is under way, cut what is left at the deadline, and say so. Tunnels go on: other workers'
    /// requests may need them.
    Drain {
        /// When patience ends.
        deadline: Instant,
    },
    /// End.
    Stop,
}

/// A tunnel that was just bound. Dropping it tells its supervisor that it is dead.
pub(crate) struct Load {
    /// Whose it is.
    pub account: AccountId,
    /// Moves its packets.
    pub driver: Driver,
    /// Where peers reach the account's services.
    pub listeners: Option<Listeners>,
    /// Told why it ended.
    pub ended: oneshot::Sender<String>,
}

/// The two ports of an account's tunnel.
pub(crate) struct Listeners {
    /// TLS.
    pub https: Listener,
    /// Plain HTTP: the tunnel encrypts it.
    pub http: Listener,
}

impl fmt::Debug for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Load").field("account", &self.account).finish_non_exhaustive()
    }
}

/// All workers of the process.
#[derive(Clone, Debug)]
pub(crate) struct Workers(Arc<[mpsc::UnboundedSender<Order>]>);

impl Workers {
    pub(crate) fn new(workers: Vec<mpsc::UnboundedSender<Order>>) -> Self {
        Self(workers.into())
    }

    /// Tells every worker to end what `revocations` are about.
    pub(crate) fn revoke(&self, revocations: &Arc<[Revocation]>) {
        self.send(|| Order::Revoke(Arc::clone(revocations)));
    }

    /// Tells every worker to finish.
    pub(crate) fn drain(&self, deadline: Instant) {
        self.send(|| Order::Drain { deadline });
    }

    /// Hands a tunnel to its account's home, which is always the same worker.
    pub(crate) fn carry(&self, load: Load) {
        let home = home(load.account.as_str(), self.0.len());
        let _gone = self.0[home].send(Order::Carry(load));
    }

    /// Tells every worker to end.
    pub(crate) fn stop(&self) {
        self.send(|| Order::Stop);
    }

    /// A worker that is gone has nothing left to end.
    fn send(&self, order: impl Fn() -> Order) {
        for worker in self.0.iter() {
            let _gone = worker.send(order());
        }
    }
}

/// Which of `workers` is the home of `account`: FNV-1a, which is the same in every process and every release.
fn home(account: &str, workers: usize) -> usize {
    let hash = account
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    usize::try_from(hash % workers as u64).expect("less than a number of workers")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_has_one_home_and_accounts_spread() {
        assert_eq!(home("", 1), 0);
        // The published value for "foobar" is 85944171f73967e8.
        assert_eq!(home("foobar", 1 << 16), 0x67e8);
        let mut accounts = [0; 4];
        for account in 0..400 {
            accounts[home(&format!("account-{account}"), 4)] += 1;
        }
        assert!(accounts.iter().all(|count| (60..140).contains(count)), "{accounts:?}");
    }
}
