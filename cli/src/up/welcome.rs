use std::collections::btree_map::{BTreeMap, Entry};
use std::fmt::Write;
use std::net::IpAddr;

use postern_model::Secret;

use super::ready::{Kind, Ready, ReadyService};
use crate::address::reached;
use crate::shell::quoted;

/// How to print for people.
pub(crate) struct Style {
    /// Whether headings may be bold.
    pub(crate) colours: bool,
    /// How this program is called.
    pub(crate) program: String,
    /// Whether this is the demo, or somebody's own file.
    pub(crate) demo: bool,
}

impl Style {
    fn bold(&self, text: &str) -> String {
        if self.colours { format!("\x1b[1m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// What `up` says once everything answers: one line to try each service, where data lies, what to do next.
pub(crate) fn welcome(ready: &Ready, style: &Style) -> String {
    let mut text = format!("{}\n\n", style.bold("Postern is running."));
    let mut told: BTreeMap<&str, &str> = BTreeMap::new();
    for service in &ready.services {
        let who = match service.kind {
            Kind::Open => "open to everybody",
            Kind::Basic if style.demo => "behind a login, made up for this run",
            Kind::Basic => "behind a login",
            Kind::Private => "for peers of the tunnel alone: the public listener knows nothing of it",
        };
        let lines = match (&service.problem, service.kind) {
            (Some(problem), _) => match told.entry(problem) {
                Entry::Vacant(place) => {
                    place.insert(&service.name);
                    problem.clone()
                }
                Entry::Occupied(first) => format!("the same as with {}", first.get()),
            },
            (None, Kind::Open | Kind::Basic) => try_it(ready, service),
            (None, Kind::Private) => try_inside(ready, service, &style.program),
        };
        put(&mut text, &format!("{}  {who}\n  {lines}\n", style.bold(&service.name)));
    }
    let line = |name: &str, value: &str| format!("{name:<12}{value}\n");
    text += &line("Data", &ready.data_dir.display().to_string());
    if let Some(file) = &ready.ca_file {
        text += &line("CA", &format!("{} (trust it in a browser to lose the warning)", file.display()));
    }
    if let Some(address) = ready.management {
        let folder = quoted(&ready.data_dir.display().to_string());
        let token = format!("{} token add NAME --data-dir {folder}", style.program);
        text += &line("Management", &format!("{address} (for proxies elsewhere: {token})"));
    }
    if let Some(address) = ready.health {
        text += &line("Health", &format!("http://{address}/healthz"));
    }
    if style.demo {
        put(&mut text, &format!("\n{} Put this into postern.toml:", style.bold("Publish something real.")));
        text += "\n  [service.app]\n  host = \"app.localhost\"\n  upstream = \"http://127.0.0.1:3000\"\n  access = \"open\"\n\n";
        put(&mut text, &format!("Stop this one with Ctrl-C, and run\n\n  {} up postern.toml", style.program));
    }
    text
}

fn put(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes everything");
}

/// How to become a peer, and what to do then.
fn try_inside(ready: &Ready, service: &ReadyService, program: &str) -> String {
    let (add, conf) = match &ready.demo_peer_conf {
        Some(conf) => (String::new(), quoted(&conf.display().to_string())),
        None => {
            let (folder, conf) = (quoted(&ready.data_dir.display().to_string()), "NAME.conf".to_owned());
            let group = quoted(service.group.as_deref().unwrap_or("GROUP"));
            (format!("{program} peer add NAME --groups {group} --out {conf} --data-dir {folder}\n  "), conf)
        }
    };
    let mut words = vec!["curl --proxy socks5h://127.0.0.1:1080".to_owned()];
    if let Some(file) = &ready.ca_file {
        words.extend(["--cacert".into(), quoted(&file.display().to_string())]);
    }
    words.push(format!("{}/", service.url));
    format!("{add}{program} connect {conf}\n  {}", words.join(" "))
}

/// A curl line that works whatever DNS says and whatever this machine trusts.
fn try_it(ready: &Ready, service: &ReadyService) -> String {
    let mut words = vec!["curl".to_owned()];
    if let Some(file) = &ready.ca_file {
        words.extend(["--cacert".into(), quoted(&file.display().to_string())]);
    }
    let host = service.url.trim_start_matches("https://").split(':').next().unwrap_or_default();
    let listener = reached(ready.https);
    let ip = match listener.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    words.extend(["--resolve".into(), quoted(&format!("{host}:{}:{ip}", listener.port()))]);
    if let Some(user) = &service.user {
        // Without a password curl asks for it.
        let login = match &service.password {
            Some(password) => format!("{user}:{}", Secret::expose(password)),
            None => user.clone(),
        };
        words.extend(["-u".into(), quoted(&login)]);
    }
    words.push(quoted(&service.url));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready() -> Ready {
        let service = |name: &str, kind, user: Option<&str>, password: Option<&str>| ReadyService {
            name: name.into(),
            kind,
            url: format!("https://{name}.localhost:8443"),
            user: user.map(Into::into),
            password: password.map(Secret::from),
            group: (kind == Kind::Private).then(|| "eng".into()),
            problem: None,
        };
        Ready {
            pid: 1,
            https: "127.0.0.1:8443".parse().unwrap(),
            management: Some("127.0.0.1:33073".parse().unwrap()),
            health: None,
            ca_file: Some("/my data/ca.pem".into()),
            data_dir: "/my data".into(),
            demo_peer_conf: None,
            services: vec![
                service("hello", Kind::Open, None, None),
                service("vault", Kind::Basic, Some("guest"), Some("pw")),
                service("own", Kind::Basic, Some("alice"), None),
                service("inside", Kind::Private, None, None),
            ],
        }
    }

    #[test]
    fn each_service_has_one_line_to_try_it() {
        let text = welcome(&ready(), &Style { colours: false, program: "postern".into(), demo: true });
        let start = "\n  curl --cacert '/my data/ca.pem' --resolve";
        for line in [
            "hello.localhost:8443:127.0.0.1 https://hello.localhost:8443\n",
            "vault.localhost:8443:127.0.0.1 -u guest:pw https://vault.localhost:8443\n",
            "own.localhost:8443:127.0.0.1 -u alice https://own.localhost:8443\n",
        ] {
            assert!(text.contains(&format!("{start} {line}")), "{text}");
        }
        let inside = "\n  postern peer add NAME --groups eng --out NAME.conf --data-dir '/my data'\n  postern connect NAME.conf\n\
             \x20 curl --proxy socks5h://127.0.0.1:1080 --cacert '/my data/ca.pem' https://inside.localhost";
        assert!(text.contains(inside), "{text}");
        assert!(text.contains("postern token add NAME --data-dir '/my data'"), "{text}");
        assert!(text.contains("postern up postern.toml") && !text.contains('\x1b'));
    }

    #[test]
    fn a_private_demo_comes_with_the_peer_that_opens_it() {
        let ready = Ready { demo_peer_conf: Some("/my data/demo-peer.conf".into()), ..ready() };
        let text = welcome(&ready, &Style { colours: false, program: "postern".into(), demo: true });
        assert!(text.contains("\n  postern connect '/my data/demo-peer.conf'\n  curl --proxy socks5h://"), "{text}");
    }

    #[test]
    fn what_is_of_no_use_comes_with_the_reason_in_place_of_its_lines() {
        let mut ready = Ready { demo_peer_conf: Some("/conf".into()), ..ready() };
        for at in [1, 2, 3] {
            ready.services[at].problem = Some("UDP port 7 is taken; stop that program".into());
        }
        let text = welcome(&ready, &Style { colours: false, program: "postern".into(), demo: true });
        assert_eq!(text.matches("\n  UDP port 7 is taken; stop that program\n").count(), 1, "said once: {text}");
        assert_eq!(text.matches("\n  the same as with vault\n").count(), 2, "{text}");
        assert!(!text.contains("postern connect") && !text.contains("socks5h"), "{text}");
        assert!(text.contains("https://hello.localhost:8443\n"), "{text}");
    }

    #[test]
    fn colours_are_only_for_those_who_want_them() {
        assert!(
            welcome(&ready(), &Style { colours: true, program: "postern".into(), demo: false }).contains("\x1b[1m")
        );
    }
}
