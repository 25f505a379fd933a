use postern_model::ServiceState;

use crate::catalog::Published;
use crate::reports::{AccessKind, ServiceStatus};
use crate::states;
use crate::store::StoredStatus;

/// How a service stands, from what the connected proxies last said of it.
pub(super) fn service(published: &Published, reports: &[StoredStatus], connected: &[String]) -> ServiceStatus {
    let worst = connected
        .iter()
        .map(|proxy| (proxy, reports.iter().find(|report| report.proxy == *proxy)))
        .map(|(proxy, report)| match report {
            Some(report) => (report.status.state, sentence(proxy, report)),
            None => {
                (ServiceState::Pending, Some(format!("the proxy {proxy} has not reported on it yet; wait a moment")))
            }
        })
        .max_by_key(|(state, _)| severity(*state));
    let none = || {
        let sentence = "no proxy is connected; start one with `postern proxy`, or look into its log";
        (ServiceState::Pending, Some(sentence.to_owned()))
    };
    let (state, sentence) = worst.unwrap_or_else(none);
    let issued = |proxy: &String| reports.iter().any(|r| r.proxy == *proxy && r.status.certificate_issued);
    ServiceStatus {
        name: published.mapping.id.to_string(),
        host: published.mapping.host.to_string(),
        access: match published.mapping.authentication.deliberately_open {
            Some(true) => AccessKind::Open,
            Some(false) | None => AccessKind::Basic,
        },
        state: states::word(state).to_owned(),
        certificate_issued: !connected.is_empty() && connected.iter().all(issued),
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
    use crate::catalog::publish;
    use postern_model::{AccountId, ServiceId, StatusUpdate};
    use std::collections::BTreeMap;

    #[test]
    fn the_worst_word_of_a_connected_proxy_counts() {
        let text = "[service.a]\nhost = 'a.b'\nupstream = 'http://x'\naccess = 'open'";
        let desired = crate::file::parse(text, std::path::Path::new("")).expect("good");
        let account = AccountId::parse("default").expect("id");
        let (catalog, _) = publish(&account, &desired, &BTreeMap::new(), &BTreeMap::new());
        let id = ServiceId::parse("a").expect("id");
        let report = |proxy: &str, state, error: Option<&str>| StoredStatus {
            proxy: proxy.into(),
            status: StatusUpdate {
                service: id.clone(),
                account: account.clone(),
                state,
                certificate_issued: true,
                error: error.map(str::to_owned),
            },
            reported: 0,
        };
        let reports = [
            report("one", ServiceState::Active, None),
            report("two", ServiceState::Error, Some("no route")),
            report("gone", ServiceState::Error, Some("old")),
        ];
        let ask = |connected: &[&str]| {
            let connected: Vec<String> = connected.iter().map(|&id| id.to_owned()).collect();
            let status = service(&catalog[&id], &reports, &connected);
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
}
