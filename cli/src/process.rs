use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// Lets the process have as many connections as the system allows: each is a file.
pub(crate) fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
}

/// SIGTERM and SIGINT: the first asks for an end in good order, the second ends at once.
pub(crate) struct Stop(CancellationToken);

impl Stop {
    /// Takes over both signals.
    pub(crate) fn listen() -> Result<Self, Failure> {
        let failed = |error| Failure::running(format!("cannot listen for signals: {error}"));
        let terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let asked = CancellationToken::new();
        tokio::spawn(obey(terminate, interrupt, asked.clone()));
        Ok(Self(asked))
    }

    /// Waits for the first signal.
    pub(crate) async fn asked(&self) {
        self.0.cancelled().await;
    }
}

async fn obey(mut terminate: Signal, mut interrupt: Signal, asked: CancellationToken) {
    either(&mut terminate, &mut interrupt).await;
    tracing::info!("stopping; a second signal stops at once");
    asked.cancel();
    either(&mut terminate, &mut interrupt).await;
    tracing::warn!("stopped at once");
    std::process::exit(1);
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}
