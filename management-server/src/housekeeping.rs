use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::clock::unix_now;
use crate::hub::Hub;
use crate::peers::Peers;
use crate::statuses::Statuses;
use crate::store::{Observed, Store, StoredProxy};
use crate::tokens::Tokens;

/// What is new is written down so often.
const EVERY: Duration = Duration::from_secs(1);
/// When tokens and proxies were last seen is written down so many times more rarely (NetBird: once a minute).
const SELDOM: u32 = 60;
/// A proxy without a name of its own has a new one at each start; old ones go after 30 days.
const FORGET_AFTER: i64 = 30 * 24 * 3600;

/// Writes down what is worth knowing after a restart.
#[derive(Debug)]
pub(crate) struct Housekeeping {
    pub(crate) store: Store,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) statuses: Arc<Statuses>,
    pub(crate) hub: Arc<Hub>,
    pub(crate) peers: Arc<Peers>,
}

impl Housekeeping {
    /// Until told to stop, and once more then.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for tick in 0_u32.. {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = ticks.tick() => {
                    // Not in the first moments, when no proxy has found its way back yet.
                    if tick > 0 && tick % SELDOM == 0 {
                        self.statuses.retain_proxies(|proxy| self.hub.is_connected(proxy));
                    }
                    self.note(tick % SELDOM == 0).await;
                }
            }
        }
        self.note(true).await;
    }

    async fn note(&self, everything: bool) {
        let (gone, statuses) = self.statuses.take_unwritten();
        let now = unix_now();
        let mut proxies = self.hub.take_arrivals();
        if everything {
            proxies.extend(self.hub.connected());
        }
        let proxies = proxies.into_iter().map(|proxy| StoredProxy {
            account: proxy.account,
            id: proxy.hello.proxy_id,
            token: proxy.token,
            address: proxy.hello.address,
            version: proxy.hello.version,
            last_seen: now,
        });
        let observed = Observed {
            tokens: if everything { self.tokens.unwritten() } else { Vec::new() },
            statuses,
            gone,
            proxies: proxies.collect(),
            forget_before: now - FORGET_AFTER,
        };
        if !observed.is_empty()
            && let Err(error) = self.store.note(&observed).await
        {
            tracing::error!(%error, "what was observed could not be written down");
        }
        if everything && let Err(error) = self.peers.tidy(now).await {
            tracing::error!(%error, "which proxies were in the tunnel could not be written down");
        }
    }
}
