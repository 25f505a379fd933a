//! `postern connect`: a peer without root.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use postern_connector::conf::Mistake;
use postern_connector::{Conf, DIAL, conf};

use crate::address::listen_address;
use crate::args;
use crate::failure::Failure;
use crate::logging::{self, Level};
use crate::process::{self, Stop};
use crate::proxy::Environment;
use crate::shell::quoted;

/// Is the peer of a configuration until told to stop.
pub(crate) async fn run(args: &args::Connect, environment: &Environment) -> Result<(), Failure> {
    let (level, warning) = Level::parse_or_info(args.log.log_level.as_deref().unwrap_or("info"));
    logging::start(level, environment);
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
    let conf = read(&args.conf)?;
    let socks = listen_address(&args.socks).map_err(|error| Failure::configuration(format!("--socks: {error}")))?;
    if !socks.ip().is_loopback() {
        tracing::warn!("whoever reaches {socks} is this peer: SOCKS5 asks nobody for a password");
    }
    let stop = Stop::listen()?;
    process::raise_file_limit();
    let told = Told::of(&conf);
    let mut connected = postern_connector::start(conf, socks, DIAL).await.map_err(Failure::running)?;
    say(&told.text(&connected.socks_addr().to_string()));
    let works = tokio::select! {
        () = stop.asked() => true,
        () = async { while let Some(news) = connected.news().await { say(&format!("{news}\n")) } } => false,
    };
    connected.shutdown().await;
    if works { Ok(()) } else { Err(Failure::running("the tunnel has ended, and the log says why; start it again")) }
}

/// A reader that went away is no failure.
fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
}

fn read(file: &Path) -> Result<Conf, Failure> {
    let name = file.display();
    let text = std::fs::read_to_string(file).map_err(|error| {
        Failure::configuration(format!("cannot read {name}: {error}; give the file that `postern peer add` printed"))
    })?;
    conf::parse(&text).map_err(|mistakes| Failure::mistakes(listed(file, &mistakes)))
}

/// Something that is no such file at all has mistakes in every line.
fn listed(file: &Path, mistakes: &[Mistake]) -> Vec<String> {
    const MOST: usize = 10;
    let name = file.display();
    let mut sentences: Vec<_> = mistakes.iter().take(MOST).map(|mistake| format!("{name}: {mistake}")).collect();
    if let Some(more) = mistakes.len().checked_sub(MOST).filter(|&more| more > 0) {
        sentences.push(format!("{name}: and {more} more; give the file that `postern peer add` printed"));
    }
    sentences
}

/// What people are told of a configuration.
struct Told {
    endpoints: String,
    addresses: String,
    hosts: Vec<String>,
}

impl Told {
    fn of(conf: &Conf) -> Self {
        let joined = |parts: Vec<String>| parts.join(", ");
        Self {
            endpoints: joined(conf.peers.iter().map(|peer| peer.endpoint.clone()).collect()),
            addresses: joined(conf.addresses.iter().map(ToString::to_string).collect()),
            hosts: conf.hosts.keys().map(ToString::to_string).collect(),
        }
    }

    fn text(&self, socks: &str) -> String {
        let Self { endpoints, addresses, hosts } = self;
        let mut text = format!("This is the peer {addresses} of the proxy at {endpoints}; SOCKS5 at {socks}\n");
        for host in hosts {
            let (socks, url) = (quoted(&format!("socks5h://{socks}")), quoted(&format!("https://{host}/")));
            writeln!(text, "  curl --proxy {socks} {url}").expect("a String takes everything");
        }
        text += if hosts.is_empty() {
            "  no private services yet: once there are some, make the file anew, or reach them by address\n"
        } else {
            "  (with --cacert FILE where the proxy has a local CA: `postern up` prints FILE)\n"
        };
        if socks != USUAL {
            writeln!(text, "  (lines printed elsewhere may say {USUAL}: here it is {socks})")
                .expect("a String takes everything");
        }
        text
    }
}

/// Where the SOCKS proxy is unless somebody says otherwise.
const USUAL: &str = "127.0.0.1:1080";

#[cfg(test)]
mod tests {
    use super::*;

    fn told(hosts: &[&str]) -> Told {
        let hosts = hosts.iter().map(|&host| host.to_owned()).collect();
        Told { endpoints: "p:1".into(), addresses: "100.72.0.2".into(), hosts }
    }

    #[test]
    fn each_service_has_a_line_and_what_else_it_takes_is_said() {
        let text = told(&["inside.localhost", "wiki.test"]).text(USUAL);
        assert!(text.contains("\n  curl --proxy socks5h://127.0.0.1:1080 https://wiki.test/\n"), "{text}");
        assert!(text.contains("--cacert FILE") && !text.contains("elsewhere"), "{text}");
        let text = told(&["wiki.test"]).text("127.0.0.1:7");
        assert!(text.contains("may say 127.0.0.1:1080: here it is 127.0.0.1:7"), "{text}");
        let text = told(&[]).text(USUAL);
        assert!(text.contains("no private services yet") && !text.contains("curl"), "{text}");
    }

    #[test]
    fn a_file_of_something_else_is_refused_in_a_few_lines() {
        let nonsense = "nonsense\n".repeat(1000);
        let mistakes = conf::parse(&nonsense).unwrap_err();
        let sentences = listed(Path::new("x.conf"), &mistakes);
        assert_eq!(sentences.len(), 11);
        let more = mistakes.len() - 10;
        assert!(sentences[10].starts_with(&format!("x.conf: and {more} more; ")), "{}", sentences[10]);
        assert_eq!(listed(Path::new("x.conf"), &mistakes[..10]).len(), 10);
    }
}
