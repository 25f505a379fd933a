//! `postern management`: the management server alone.

use std::path::Path;

use postern_management_server::desired::{Desired, TlsFiles};
use postern_management_server::file::{FileError, Mistake};
use postern_management_server::{self as management_server, Listener, Source, StartError, Tls};

use crate::address::{listen_address, reached};
use crate::args;
use crate::failure::Failure;
use crate::logging::{self, Level};
use crate::paths;
use crate::process::{self, Stop};
use crate::proxy::Environment;
use crate::shell::{program, quoted};

/// NetBird's management port.
pub(crate) const DEFAULT_LISTEN: &str = "127.0.0.1:33073";

/// Runs the server until it is told to stop.
pub(crate) async fn run(args: &args::Management, environment: &Environment) -> Result<(), Failure> {
    let desired = load(args.file.as_deref())?;
    start_log(&args.log, &desired, environment);
    let listener = listener(args, &desired)?;
    let data_dir = paths::data_dir(args.data.data_dir.as_deref(), environment)?;
    let stop = Stop::listen()?;
    process::raise_file_limit();
    let source = source(args.file.as_deref(), desired)?;
    let plaintext = matches!(listener.tls, Tls::Plaintext { .. });
    let config = management_server::Config { data_dir, listener: Some(listener), source };
    let server = management_server::start(config).await.map_err(|error| no_start(&error))?;
    print(&server, plaintext, args.data.data_dir.is_some());
    stop.asked().await;
    server.shutdown().await;
    Ok(())
}

/// The file, checked; without one, nothing is asked for.
pub(crate) fn load(file: Option<&Path>) -> Result<Desired, Failure> {
    file.map_or_else(
        || Ok(Desired::default()),
        |file| management_server::file::load(file).map_err(|error| bad_file(&error)),
    )
}

/// What the server follows: the file, or what is given here.
pub(crate) fn source(file: Option<&Path>, desired: Desired) -> Result<Source, Failure> {
    match file {
        // Told by its whole path, so that `status` means the same wherever it is asked.
        Some(file) => Ok(Source::File(paths::absolute(file)?)),
        None => Ok(Source::Given(Box::new(desired))),
    }
}

/// The flag wins over the file.
pub(crate) fn start_log(log: &args::Log, desired: &Desired, environment: &Environment) {
    let word = log.log_level.as_deref().or(desired.settings.log_level.map(|level| level.as_str()));
    let (level, warning) = word.map_or((Level::Info, None), Level::parse_or_info);
    logging::start(level, environment);
    if let Some(warning) = warning {
        tracing::warn!("{warning}");
    }
}

/// Whether a failed start is the fault of what was asked for.
pub(crate) fn no_start(error: &StartError) -> Failure {
    match error {
        StartError::File(error) => bad_file(error),
        StartError::Apply(_) | StartError::Peers(_) | StartError::Certificate(_) | StartError::Plaintext(_) => {
            Failure::configuration(error)
        }
        StartError::DataDir(_) | StartError::Store(_) | StartError::Bind { .. } | StartError::Admin { .. } => {
            Failure::running(error)
        }
    }
}

/// Every mistake where an editor finds it: file, line, column.
fn bad_file(error: &FileError) -> Failure {
    match error {
        FileError::Read { .. } => Failure::configuration(error),
        FileError::Mistakes { path, mistakes } => {
            let told = |mistake: &Mistake| {
                let Mistake { line, column, message, remedy } = mistake;
                format!("{}:{line}:{column}: {message}; {remedy}", path.display())
            };
            Failure::mistakes(mistakes.iter().map(told).collect())
        }
    }
}

fn listener(args: &args::Management, desired: &Desired) -> Result<Listener, Failure> {
    let settings = &desired.settings.management;
    let addr = match (&args.listen, settings.listen) {
        (None, Some(addr)) => addr,
        (asked, _) => listen_address(asked.as_deref().unwrap_or(DEFAULT_LISTEN))
            .map_err(|mistake| Failure::configuration(format!("--listen: {mistake}")))?,
    };
    let files = match (&args.tls_cert, &args.tls_key) {
        (Some(certificate), Some(key)) => Some(TlsFiles { certificate: certificate.clone(), key: key.clone() }),
        _ => settings.tls.clone(),
    };
    let tls = match files {
        _ if args.allow_plaintext => Tls::Plaintext { anywhere: true },
        Some(files) => Tls::Files(files),
        None => secured(desired),
    };
    Ok(Listener { addr, tls })
}

/// How the file wants it, where no pair is named.
pub(crate) fn secured(desired: &Desired) -> Tls {
    let settings = &desired.settings.management;
    match &settings.tls {
        Some(files) => Tls::Files(files.clone()),
        None if settings.allow_plaintext => Tls::Plaintext { anywhere: true },
        None => Tls::LocalCa { names: settings.names.clone() },
    }
}

#[expect(clippy::print_stdout, reason = "what a person needs next")]
fn print(server: &management_server::Running, plaintext: bool, data_dir_asked: bool) {
    let addr = server.addr().expect("it was asked to listen");
    let program = program();
    let data_dir = quoted(&server.data_dir().display().to_string());
    println!("Management listens on {addr}, data lies in {data_dir}");
    if let Some(file) = server.ca_file() {
        println!("CA file for proxies: {}", file.display());
    }
    let folder = if data_dir_asked { format!(" --data-dir {data_dir}") } else { String::new() };
    println!("\nMake a token for a proxy:\n  TOKEN=$({program} token add my-proxy{folder})");
    println!("\nStart the proxy with it; its certificate lies in ./certs as tls.crt and tls.key:");
    let scheme = if plaintext { "http" } else { "https" };
    let insecure = if plaintext { "NB_PROXY_ALLOW_INSECURE=true " } else { "" };
    let ca = server.ca_file().map(|file| format!(" --mgmt-ca {}", quoted(&file.display().to_string())));
    println!(
        "  {insecure}NB_PROXY_TOKEN=$TOKEN {program} proxy --mgmt {scheme}://{}{} --domain proxy.example.com",
        reached(addr),
        ca.unwrap_or_default()
    );
}
