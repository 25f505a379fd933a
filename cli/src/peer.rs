//! `postern peer`: the WireGuard peers of the postern that runs on a data folder.

use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use postern_management_server::admin::{AddPeer, AdminError, NewPeer, PeerChanges, PeerState, PeerStatus, Update};

use crate::admin::{ago, client, paint, print, refused, table};
use crate::args;
use crate::failure::Failure;
use crate::logging::colours;
use crate::private_file::NewFile;
use crate::proxy::Environment;

const DAY: i64 = 86_400;

/// Makes, lists, shows, changes or removes peers.
pub(crate) async fn run(command: &args::Peer, environment: &Environment) -> Result<(), Failure> {
    match command {
        args::Peer::Add(args) => add(args, environment).await?,
        args::Peer::List { json, data } => {
            let peers = client(data, environment)?.peers().await.map_err(|error| refused(&error))?;
            print(&if *json { line(&peers) } else { listed(&peers, environment) });
        }
        args::Peer::Show { name, endpoint, json, data } => {
            let found = client(data, environment)?.peer(name, endpoint.as_deref()).await;
            let found = found.map_err(|error| refused(&error))?;
            print(&if *json { line(&found.peer) } else { shown(&found, environment) });
            warn(&found.warnings);
        }
        args::Peer::Set(args) => {
            let changes = PeerChanges {
                user: update(args.user.clone(), args.no_user),
                groups: args.groups.as_deref().map(named),
                enabled: if args.enable { Some(true) } else { args.disable.then_some(false) },
                expires: update(args.expires.map(days_from_now), args.no_expiry),
            };
            let client = client(&args.data, environment)?;
            let peer = client.set_peer(&args.name, &changes).await.map_err(|error| refused(&error))?;
            warn(&peer.warnings);
        }
        args::Peer::Remove { name, user, data } => {
            let client = client(data, environment)?;
            remove(&client, name.as_deref(), user.as_deref()).await.map_err(|error| refused(&error))?;
        }
    }
    Ok(())
}

async fn add(args: &args::AddPeer, environment: &Environment) -> Result<(), Failure> {
    let asked = AddPeer {
        name: args.name.clone(),
        user: args.user.clone(),
        groups: named(&args.groups),
        public_key: args.public_key.clone(),
        endpoint: args.endpoint.clone(),
        site: args.site.clone(),
        expires: args.expires.map(days_from_now),
    };
    // Before there is a peer, because its private key is told once.
    let out = args.out.as_deref().map(|path| Ok((path, new_file(path)?))).transpose()?;
    let made = client(&args.data, environment)?.add_peer(&asked).await.map_err(|error| refused(&error))?;
    match out {
        Some((path, file)) => file.write(&made.conf).map_err(|error| unwritten(path, &args.name, &error))?,
        // Alone on the output, so that a pipe carries nothing else.
        None => print(&made.conf),
    }
    warn(&made.warnings);
    Ok(())
}

fn new_file(path: &Path) -> Result<NewFile, Failure> {
    let name = path.display();
    NewFile::create(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Failure::configuration(format!("{name} is there already; give --out another path, or remove it first"))
        }
        _ => Failure::running(format!("cannot write {name}: {error}; give --out a path this user may write to")),
    })
}

fn unwritten(path: &Path, name: &str, error: &io::Error) -> Failure {
    Failure::running(format!(
        "cannot write {}: {error}; remove the peer, whose key is lost, with `postern peer remove {name}`, and add it again",
        path.display()
    ))
}

async fn remove(
    client: &postern_management_server::admin::Client,
    name: Option<&str>,
    user: Option<&str>,
) -> Result<(), AdminError> {
    if let Some(name) = name {
        client.remove_peer(name).await?;
    }
    if let Some(user) = user {
        client.remove_peers_of(user).await?;
    }
    Ok(())
}

fn named(groups: &[String]) -> std::collections::BTreeSet<String> {
    groups.iter().map(|group| group.trim().to_owned()).filter(|group| !group.is_empty()).collect()
}

fn days_from_now(days: u32) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or_default() + i64::from(days) * DAY
}

fn update<T>(to: Option<T>, clear: bool) -> Update<T> {
    if clear { Update::Clear } else { to.map_or(Update::Keep, Update::To) }
}

/// What people should know beside what they asked for, after it.
#[expect(clippy::print_stderr, reason = "what is not part of the answer")]
fn warn(warnings: &[String]) {
    let _ = io::stdout().flush();
    for warning in warnings {
        eprintln!("postern: {warning}");
    }
}

fn line(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("peers are plain data") + "\n"
}

fn state(peer: &PeerStatus) -> &'static str {
    match peer.state {
        PeerState::Active => "active",
        PeerState::Disabled => "disabled",
        PeerState::Expired => "expired",
        PeerState::UserGone => "user gone",
    }
}

fn whose(peer: &PeerStatus) -> String {
    match (&peer.user, peer.site.is_empty()) {
        (Some(user), _) => user.clone(),
        (None, true) => "nobody's".to_owned(),
        (None, false) => "a site".to_owned(),
    }
}

fn joined<T: ToString>(parts: impl IntoIterator<Item = T>) -> String {
    let parts: Vec<_> = parts.into_iter().map(|part| part.to_string()).collect();
    if parts.is_empty() { "-".to_owned() } else { parts.join(", ") }
}

fn listed(peers: &[PeerStatus], environment: &Environment) -> String {
    let colours = colours(environment, &io::stdout());
    let row = |peer: &PeerStatus| {
        let address = peer.addresses.first().map(ToString::to_string).unwrap_or_default();
        let sentence = peer.sentence.clone().unwrap_or_default();
        vec![peer.name.clone(), paint(state(peer), colours), address, whose(peer), joined(&peer.groups), sentence]
    };
    table(&peers.iter().map(row).collect::<Vec<_>>(), "No peers; `postern peer add NAME` makes one.")
}

fn shown(found: &NewPeer, environment: &Environment) -> String {
    let peer = &found.peer;
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("name", peer.name.clone()),
        row("state", paint(state(peer), colours(environment, &io::stdout()))),
        row("user", whose(peer)),
        row("groups", joined(&peer.groups)),
        row("addresses", joined(&peer.addresses)),
        row("opens", joined(&peer.opens)),
        row("public key", peer.public_key.clone()),
        row("added", ago(peer.created)),
    ];
    if !peer.site.is_empty() {
        rows.push(row("site", joined(&peer.site)));
    }
    if let Some(expires) = peer.expires {
        rows.push(row("expires", until(expires - days_from_now(0))));
    }
    format!("{}\n{}", table(&rows, ""), found.conf)
}

/// Rounded up, so that a day from now is 24 h away.
fn until(seconds: i64) -> String {
    match seconds {
        ..=0 => "is over".to_owned(),
        1..3_600 => format!("in {} min", (seconds + 59) / 60),
        3_600..=172_800 => format!("in {} h", (seconds + 3_599) / 3_600),
        _ => format!("in {} days", (seconds + DAY - 1) / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_as_people_count() {
        let told = [-5, 30, DAY - 2, DAY, 2 * DAY, 7 * DAY - 3].map(until);
        assert_eq!(told, ["is over", "in 1 min", "in 24 h", "in 24 h", "in 48 h", "in 7 days"]);
    }

    #[test]
    fn what_is_not_named_stays() {
        assert_eq!(update::<u8>(None, false), Update::Keep);
        assert_eq!(update::<u8>(None, true), Update::Clear);
        assert_eq!(update(Some(1), false), Update::To(1));
    }
}
