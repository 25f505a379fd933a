//! `postern token` and `postern status`: asking the postern that runs on a data folder.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use postern_management_server::admin::{AccessKind, AdminError, Client, ServiceStatus, Status, TunnelStatus};

use crate::args;
use crate::failure::Failure;
use crate::logging::colours;
use crate::paths;
use crate::proxy::Environment;

/// Makes, lists or removes tokens.
pub(crate) async fn token(command: &args::Token, environment: &Environment) -> Result<(), Failure> {
    match command {
        args::Token::Add { name, data } => {
            let made = client(data, environment)?.add_token(name).await.map_err(|error| refused(&error))?;
            // Alone on its line, so that $(postern token add NAME) is the token.
            print(&format!("{}\n", made.token));
        }
        args::Token::List { data } => {
            let tokens = client(data, environment)?.tokens().await.map_err(|error| refused(&error))?;
            let rows = tokens.iter().map(|token| {
                let used = token.last_used.map_or_else(|| "never used".into(), |at| format!("last used {}", ago(at)));
                vec![token.name.clone(), format!("made {}", ago(token.created)), used]
            });
            print(&table(&rows.collect::<Vec<_>>(), "No tokens; `postern token add NAME` makes one."));
        }
        args::Token::Remove { name, data } => {
            client(data, environment)?.remove_token(name).await.map_err(|error| refused(&error))?;
        }
    }
    Ok(())
}

/// Shows how everything stands.
pub(crate) async fn status(args: &args::Status, environment: &Environment) -> Result<(), Failure> {
    let status = client(&args.data, environment)?.status().await.map_err(|error| refused(&error))?;
    if args.json {
        let json = serde_json::to_string(&status).expect("a status is plain data");
        print(&format!("{json}\n"));
    } else {
        print(&told(&status, colours(environment, &io::stdout()) && io::stdout().is_terminal()));
    }
    Ok(())
}

pub(crate) fn client(data: &args::DataDir, environment: &Environment) -> Result<Client, Failure> {
    Ok(Client::new(&paths::data_dir(data.data_dir.as_deref(), environment)?))
}

/// What was asked for cannot be, or could not be done.
pub(crate) fn refused(error: &AdminError) -> Failure {
    match error {
        AdminError::Refused(_) => Failure::configuration(error),
        AdminError::Failed(_)
        | AdminError::NotRunning { .. }
        | AdminError::NotAllowed { .. }
        | AdminError::Broken { .. } => Failure::running(error),
    }
}

/// A reader that goes away, such as `head`, is no failure.
pub(crate) fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn told(status: &Status, colours: bool) -> String {
    let services = status.services.iter().map(|service| {
        let access = match service.access {
            AccessKind::Open => "open",
            AccessKind::Basic => "login",
            AccessKind::Private => "private",
        };
        let sentence = service.sentence.clone().or_else(|| uncovered(service)).or_else(|| inside(service));
        let sentence = sentence.unwrap_or_default();
        vec![service.name.clone(), service.host.clone(), access.into(), paint(&service.state, colours), sentence]
    });
    let proxies = status.proxies.iter().map(|proxy| {
        let state = if proxy.connected { "connected" } else { "away" };
        vec![proxy.id.clone(), proxy.address.clone(), paint(state, colours), format!("since {}", ago(proxy.since))]
    });
    let mut text = String::from("Services\n");
    text += &table(&services.collect::<Vec<_>>(), "None; add one to postern.toml.");
    text += "\nProxies\n";
    text += &table(&proxies.collect::<Vec<_>>(), "None; `postern token add NAME` begins one.");
    if status.tunnel.peers > 0 || !status.tunnel.proxies.is_empty() {
        let TunnelStatus { peers, active_peers, .. } = status.tunnel;
        text += &format!("\nTunnel\n  {active_peers} of {peers} peers may enter; `postern peer list` shows them\n");
    }
    for problem in &status.problems {
        text += &format!("\nProblem\n  {problem}\n");
    }
    if let Some(file) = status.file.as_ref() {
        text += &format!("\nFile\n  {}", file.path.display());
        text += if file.in_force { " is in force\n" } else { " is not in force, what was before still is\n" };
        if let Some(problem) = file.problem.as_ref().filter(|_| file.mistakes.is_empty()) {
            text += &format!("  {problem}\n");
        }
        for mistake in &file.mistakes {
            text += &format!("  {mistake}\n");
        }
        if file.needs_restart {
            text += "  some of its settings wait for the next start\n";
        }
    }
    text
}

/// What is served under a certificate that clients refuse is active to its proxies, and of no use.
fn uncovered(service: &ServiceStatus) -> Option<String> {
    let useless = service.state == "active" && !service.certificate_issued;
    useless.then(|| {
        let host = &service.host;
        format!("no certificate for {host} on every proxy, so clients refuse it; give --cert-dir a pair that covers it")
    })
}

/// Where tunnel peers reach a private service.
fn inside(service: &ServiceStatus) -> Option<String> {
    let at: Vec<_> = service.inbound.iter().map(|inbound| inbound.address.to_string()).collect();
    let told = matches!(service.access, AccessKind::Private) && !at.is_empty();
    told.then(|| format!("at {} in the tunnel", at.join(", ")))
}

/// Green is well, red is not.
pub(crate) fn paint(state: &str, colours: bool) -> String {
    let code = match state {
        "active" | "connected" => 32,
        _ => 31,
    };
    if colours { format!("\x1b[{code}m{state}\x1b[0m") } else { state.to_owned() }
}

/// Columns as wide as their widest cell; the last is as wide as it likes.
pub(crate) fn table(rows: &[Vec<String>], nothing: &str) -> String {
    if rows.is_empty() {
        return format!("  {nothing}\n");
    }
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| seen(cell)).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell}{}", " ".repeat(width - seen(cell))));
        format!("  {}\n", padded.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// How many characters a terminal shows: colours take no room.
fn seen(cell: &str) -> usize {
    cell.split('\x1b')
        .enumerate()
        .map(|(part, text)| {
            let shown = if part == 0 { text } else { text.split_once('m').map_or("", |(_, rest)| rest) };
            shown.chars().count()
        })
        .sum()
}

pub(crate) fn ago(seconds: i64) -> String {
    let then = UNIX_EPOCH + Duration::from_secs(seconds.max(0).unsigned_abs());
    let passed = SystemTime::now().duration_since(then).unwrap_or_default().as_secs();
    match passed {
        0..60 => format!("{passed} s ago"),
        60..3_600 => format!("{} min ago", passed / 60),
        3_600..172_800 => format!("{} h ago", passed / 3_600),
        _ => format!("{} days ago", passed / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_colours_or_not() {
        let rows = |colours| {
            vec![
                vec!["a".to_owned(), paint("active", colours), "x".to_owned()],
                vec!["longer".to_owned(), paint("error", colours), String::new()],
            ]
        };
        assert_eq!(table(&rows(false), ""), "  a       active  x\n  longer  error\n");
        assert_eq!(
            table(&rows(true), "").replace("\x1b[32m", "").replace("\x1b[31m", "").replace("\x1b[0m", ""),
            table(&rows(false), "")
        );
        assert_eq!(table(&[], "None."), "  None.\n");
    }

    #[test]
    fn a_mistake_of_whoever_asks_ends_differently_from_a_failure() {
        let data_dir = std::path::PathBuf::from("d");
        assert_eq!(refused(&AdminError::Refused("no".into())), Failure::configuration("no"));
        assert_eq!(refused(&AdminError::Failed("no".into())), Failure::running("no"));
        let away = AdminError::NotRunning { data_dir };
        assert_eq!(refused(&away), Failure::running(&away));
    }

    #[test]
    fn times_are_told_roughly() {
        let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
        assert_eq!(ago(now - 120), "2 min ago");
        assert_eq!(ago(now - 86_400), "24 h ago");
        assert_eq!(ago(now - 3 * 86_400), "3 days ago");
        assert_eq!(ago(now + 50), "0 s ago");
    }
}
