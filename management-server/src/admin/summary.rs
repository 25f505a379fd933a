use postern_model::{InboundListener, ServiceState};

use crate::catalog::Published;
use crate::reports::{AccessKind, InboundStatus, ServiceStatus};
use crate::states;
use crate::store::StoredStatus;

/// A connected proxy.
#[derive(Clone, Debug)]
pub(super) struct Here {
    pub(super) id: String,
    /// It serves private services too; others are not told of them.
    pub(super) private: bool,
}

/// How a service stands: what it lacks, or else what the connected proxies last said of it.
pub(super) fn service(published: &Published, reports: &[StoredStatus], connected: &[Here]) -> ServiceStatus {
    let told: Vec<_> = connected.iter().filter(|proxy| proxy.private || !published.mapping.private).collect();
    let worst = told
        .iter()
        .map(|Here { id, .. }| (id, reports.iter().find(|report| report.proxy == *id)))
        .map(|(proxy, report)| match report {
            Some(report) => (report.status.state, sentence(proxy, report)),
            None => {
                (ServiceState::Pending, Some(format!("the proxy {proxy} has not reported on it yet; wait a moment")))
            }
        })
        .max_by_key(|(state, _)| severity(*state));
    let none = || {
        let (state, sentence) = if connected.is_empty() {
            (ServiceState::Pending, "no proxy is connected; start one with `postern proxy`, or look into its log")
        } else {
            (
                ServiceState::TunnelNotCreated,
                "no connected proxy serves private services; start one with `postern proxy --private`",
            )
        };
        (state, Some(sentence.to_owned()))
    };
    let lacks = published.lacks.clone().map(|sentence| (ServiceState::Error, Some(sentence)));
    let (state, sentence) = lacks.or(worst).unwrap_or_else(none);
    let issued = |proxy: &&Here| reports.iter().any(|r| r.proxy == proxy.id && r.status.certificate_issued);
    let of_told = reports.iter().filter(|report| told.iter().any(|proxy| proxy.id == report.proxy));
    let inbound = |report: &StoredStatus| {
        let InboundListener { address, https, http } = report.status.inbound?;
        Some(InboundStatus { proxy: report.proxy.clone(), address, https, http })
    };
    ServiceStatus {
        name: published.mapping.id.to_string(),
        host: published.mapping.host.to_string(),
        access: match (published.mapping.private, published.mapping.authentication.deliberately_open) {
            (true, _) => AccessKind::Private,
            (false, Some(true)) => AccessKind::Open,
            (false, Some(false) | None) => AccessKind::Basic,
        },
        state: states::word(state).to_owned(),
        certificate_issued: !told.is_empty() && told.iter().all(issued),
        inbound: of_told.filter_map(inbound).collect(),
        sentence,
    }
}

fn severity(state: ServiceState) -> u8 {
    match state {
        ServiceState::Active => 0,
        ServiceState::Pending => 1,
        ServiceState::CertificatePending => 2,
        ServiceState::TunnelNotCreated => 3,
        ServiceState::CertificateFailed => 4,
        ServiceState::Error => 5,
    }
}

fn sentence(proxy: &str, report: &StoredStatus) -> Option<String> {
    let by_itself = match report.status.state {
        ServiceState::Active => return None,
        ServiceState::Pending => "it is being set up; wait a moment",
        ServiceState::CertificatePending => "its certificate is being ordered; wait a moment",
        ServiceState::TunnelNotCreated => "it has no tunnel; look into the proxy's log",
        ServiceState::CertificateFailed => "its certificate could not be had; look into the proxy's log",
        ServiceState::Error => "it is not served; look into the proxy's log",
    };
    let why = report.status.error.as_deref().filter(|error| !error.is_empty()).unwrap_or(by_itself);
    Some(format!("on the proxy {proxy}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, no_peers, publish};
    use postern_model::{AccountId, ServiceId, StatusUpdate};
    use std::collections::BTreeMap;

    const OPEN: &str = "[service.a]\nhost = 'a.b'\nupstream = 'http://x'\naccess = 'open'";

    fn id() -> ServiceId {
        ServiceId::parse("a").expect("id")
    }

    fn account() -> AccountId {
        AccountId::parse("default").expect("id")
    }

    fn published(text: &str) -> Catalog {
        let desired = crate::file::parse(text, std::path::Path::new("")).expect("good");
        publish(&account(), &desired, &BTreeMap::new(), &BTreeMap::new(), &no_peers).catalog
    }

    fn report(proxy: &str, state: ServiceState, error: Option<&str>) -> StoredStatus {
        let status = StatusUpdate {
            service: id(),
            account: account(),
            state,
            certificate_issued: true,
            error: error.map(str::to_owned),
            inbound: None,
        };
        StoredStatus { proxy: proxy.into(), status, reported: 0 }
    }

    #[test]
    fn the_worst_word_of_a_connected_proxy_counts() {
        let catalog = published(OPEN);
        let reports = [
            report("one", ServiceState::Active, None),
            report("two", ServiceState::Error, Some("no route")),
            report("gone", ServiceState::Error, Some("old")),
        ];
        let ask = |connected: &[&str]| {
            let connected: Vec<_> = connected.iter().map(|&id| Here { id: id.to_owned(), private: false }).collect();
            let status = service(&catalog[&id()], &reports, &connected);
            (status.state, status.certificate_issued, status.sentence.unwrap_or_default())
        };
        assert_eq!(ask(&["one"]), ("active".into(), true, String::new()));
        assert_eq!(ask(&["one", "two"]), ("error".into(), true, "on the proxy two: no route".into()));
        let (state, issued, sentence) = ask(&["one", "three"]);
        assert_eq!((state.as_str(), issued), ("pending", false));
        assert!(sentence.contains("three has not reported"), "{sentence}");
        let (state, issued, sentence) = ask(&[]);
        assert_eq!((state.as_str(), issued), ("pending", false));
        assert!(sentence.contains("no proxy is connected"), "{sentence}");
    }

    #[test]
    fn what_a_service_lacks_comes_before_what_proxies_say() {
        let text = "[service.a]\nhost = 'a.b'\nupstream = 'tunnel://nas:1'\naccess = 'open'";
        let catalog = published(text);
        let here = [Here { id: "one".to_owned(), private: false }];
        let status = service(&catalog[&id()], &[report("one", ServiceState::Active, None)], &here);
        assert_eq!((status.state.as_str(), status.sentence.as_deref()), ("error", Some("no peer nas")));
        assert!(status.certificate_issued, "as it is");
    }

    #[test]
    fn tunnel_peers_reach_it_where_connected_proxies_listen() {
        let listening = |proxy: &str, n: u8| {
            let inbound = Some(InboundListener { address: [100, 72, 0, n].into(), https: 443, http: 80 });
            let StoredStatus { status, .. } = report(proxy, ServiceState::Active, None);
            StoredStatus { proxy: proxy.into(), status: StatusUpdate { inbound, ..status }, reported: 0 }
        };
        let reports = [listening("gone", 1), listening("one", 2), report("three", ServiceState::Active, None)];
        let here = ["one", "two", "three"].map(|id| Here { id: id.to_owned(), private: false });
        let inbound = service(&published(OPEN)[&id()], &reports, &here).inbound;
        let one = InboundStatus { proxy: "one".to_owned(), address: [100, 72, 0, 2].into(), https: 443, http: 80 };
        assert_eq!(inbound, [one]);
    }
}
