use postern_model::{AccountId, Mapping, ServiceState};

use crate::hub::{Connected, Hub};
use crate::statuses::Statuses;

/// Why no proxy of an account is in its tunnel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Absence<'a> {
    pub(crate) account: &'a AccountId,
    pub(crate) hub: &'a Hub,
    pub(crate) statuses: &'a Statuses,
}

impl Absence<'_> {
    /// What the matter is, and what to do.
    pub(crate) fn sentence(&self) -> String {
        let connected = self.connected();
        if connected.is_empty() {
            return "no proxy is connected; start one with `postern proxy`, or look into its log".to_owned();
        }
        let needing = self.needing();
        if needing.is_empty() {
            return "no proxy has a tunnel, because no service needs one; publish a private service, or one whose upstream is \
                    `tunnel://PEER:PORT`"
                .to_owned();
        }
        if let Some((proxy, reason)) = self.reason(|_| true) {
            return format!("the proxy {proxy} has no tunnel: {reason}");
        }
        let told = |proxy: &Connected| needing.iter().any(|mapping| is_told(proxy, mapping));
        if connected.iter().any(told) {
            "no proxy is in the tunnel yet; wait a moment, or see `postern status`".to_owned()
        } else {
            "no connected proxy serves private services; start one with `postern proxy --private`".to_owned()
        }
    }

    /// The first connected proxy of `some` that has said in this run that it has no tunnel, and why.
    pub(crate) fn reason(&self, some: impl Fn(&Connected) -> bool) -> Option<(String, String)> {
        let needing = self.needing();
        let why = |proxy: &Connected| {
            let id = proxy.hello.proxy_id.as_str();
            let said = needing.iter().filter_map(|mapping| self.statuses.current(&mapping.id, id));
            let mut missing = said.filter(|said| said.state == ServiceState::TunnelNotCreated);
            let error = missing.next()?.error.filter(|error| !error.is_empty());
            Some((id.to_owned(), error.unwrap_or_else(|| "it does not say why; look into its log".to_owned())))
        };
        self.connected().iter().filter(|proxy| some(proxy)).find_map(why)
    }

    /// By id.
    fn connected(&self) -> Vec<Connected> {
        let mut all = self.hub.connected();
        all.retain(|proxy| proxy.account == *self.account);
        all.sort_by(|a, b| a.hello.proxy_id.cmp(&b.hello.proxy_id));
        all
    }

    /// The services without which no proxy opens a tunnel.
    fn needing(&self) -> Vec<Mapping> {
        let (catalog, _) = self.hub.catalog();
        let needs = |mapping: &&Mapping| {
            let through = mapping.paths.iter().any(|path| !path.options.direct_upstream);
            mapping.account == *self.account && (mapping.private || through)
        };
        catalog.values().map(|published| &published.mapping).filter(needs).cloned().collect()
    }
}

/// Private services are only sent to proxies that serve such.
fn is_told(proxy: &Connected, mapping: &Mapping) -> bool {
    proxy.hello.capabilities.private_service || !mapping.private
}
