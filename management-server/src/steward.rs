use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use postern_auth::password::{Expected, InvalidHash, PasswordError, PasswordHash, Passwords};
use postern_model::{AccountId, HostName, ServiceId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::catalog::{self, Edit, Member, Publication};
use crate::clock::unix_now;
use crate::desired::{Access, Desired, Password, Settings, User};
use crate::file::{self, FileError};
use crate::hub::Hub;
use crate::logins::Logins;
use crate::peers::Peers;
use crate::reports::FileStatus;
use crate::seal::{self, InClear, Sealed};
use crate::statuses::Statuses;
use crate::store::{Credentials, Revision, Store, StoreError};
use crate::watch::{Content, Watch};

/// Why a desired state is not put in force. What was in force stays.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A service lets in somebody who is not there.
    #[error("the service {service} names the user {user}, who is not there; add the user, or remove the name")]
    UnknownUser {
        /// The service.
        service: ServiceId,
        /// The user.
        user: String,
    },
    /// A service lets in nobody. To a stock proxy, a service without a login is open to everybody.
    #[error("the service {service} lets nobody in; name at least one user, or remove the service")]
    Nobody {
        /// The service.
        service: ServiceId,
    },
    /// A service lets in somebody by a password who has none.
    #[error(
        "the service {service} asks the user {user} for a password, who has none; give the user one, or remove the name"
    )]
    NoPassword {
        /// The service.
        service: ServiceId,
        /// The user.
        user: String,
    },
    /// Two services want one host.
    #[error("the services {first} and {second} both want the host {host}; give each a host of its own")]
    SameHost {
        /// One of them.
        first: ServiceId,
        /// The other.
        second: ServiceId,
        /// What both want.
        host: HostName,
    },
    /// A password hash is none.
    #[error("the password hash of {user} cannot be used: {error}; make it anew")]
    Hash {
        /// The user.
        user: String,
        /// What is wrong with it.
        error: InvalidHash,
    },
    /// The passwords given in clear could not be sealed.
    #[error("the passwords could not be processed: {0}; try again")]
    Password(#[from] PasswordError),
    /// It could not be written down.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The server is stopping.
    #[error("the management server is stopping; start it again")]
    Stopping,
}

/// Why the content of the file is not put in force.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

/// A desired state to be put in force, and where to say how that went.
pub(crate) type Order = (Desired, oneshot::Sender<Result<(), ApplyError>>);

/// The one who puts desired states in force, one after the other, each whole or not at all.
#[derive(Debug)]
pub(crate) struct Steward {
    account: AccountId,
    hub: Arc<Hub>,
    logins: Arc<Logins>,
    statuses: Arc<Statuses>,
    peers: Arc<Peers>,
    store: Store,
    passwords: Passwords,
    /// What is in force.
    desired: Desired,
    /// What the store keeps.
    kept: Credentials,
    /// The passwords in force that were given in clear; not known before the first state is.
    in_clear: Option<InClear>,
    /// How the file stands, for whoever asks.
    file: Arc<Mutex<Option<FileStatus>>>,
    /// Those that the process runs with.
    settings: Settings,
}

impl Steward {
    pub(crate) async fn new(
        account: AccountId,
        hub: Arc<Hub>,
        logins: Arc<Logins>,
        statuses: Arc<Statuses>,
        peers: Arc<Peers>,
        store: Store,
    ) -> Result<Self, StoreError> {
        let kept = store.credentials(&account).await?;
        let (passwords, desired, in_clear) = (Passwords::new(1), Desired::default(), None);
        let (file, settings) = (Arc::default(), Settings::default());
        Ok(Self { account, hub, logins, statuses, peers, store, passwords, desired, kept, in_clear, file, settings })
    }

    pub(crate) fn file(&self) -> Arc<Mutex<Option<FileStatus>>> {
        self.file.clone()
    }

    /// Puts the first state in force; its settings are those that the process runs with.
    pub(crate) async fn begin(&mut self, desired: Desired, file: Option<&Path>) -> Result<(), ApplyError> {
        self.settings = desired.settings.clone();
        self.apply(desired).await?;
        *self.file.lock() = file.map(FileStatus::taken);
        Ok(())
    }

    /// Takes orders, follows the file, and follows the peers that services lead to, until told to stop.
    pub(crate) async fn run(
        mut self,
        mut watch: Option<Watch>,
        mut orders: mpsc::Receiver<Order>,
        stop: CancellationToken,
    ) {
        let mut peers = self.peers.watch();
        // One may have changed since the first state was put in force.
        peers.mark_changed();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some((desired, done)) = orders.recv() => {
                    let _ = done.send(self.apply(desired).await.map(drop));
                }
                (path, content) = changed(watch.as_mut()) => self.file_changed(&path, content).await,
                Ok(()) = peers.changed() => {
                    if let Err(error) = self.apply(self.desired.clone()).await {
                        tracing::error!("what leads to peers stays as it is: {error}");
                    }
                }
            }
        }
    }

    async fn file_changed(&mut self, path: &Path, content: Content) {
        let status = match self.take_up(path, content).await {
            Ok(edits) => {
                let needs_restart = self.file_settings_differ(path, edits);
                FileStatus { needs_restart, ..FileStatus::taken(path) }
            }
            Err(refused) => {
                tracing::error!("what runs stays as it is: {refused}");
                FileStatus::refused(path, &refused)
            }
        };
        *self.file.lock() = Some(status);
    }

    async fn take_up(&mut self, path: &Path, content: Content) -> Result<(Settings, Vec<Edit>), Refused> {
        let content = content.map_err(|detail| FileError::Read { path: path.to_owned(), detail })?;
        let desired = file::parse_bytes(path, &content)?;
        let settings = desired.settings.clone();
        Ok((settings, self.apply(desired).await?))
    }

    fn file_settings_differ(&self, path: &Path, (settings, edits): (Settings, Vec<Edit>)) -> bool {
        tracing::info!(file = %path.display(), changed_services = edits.len(), "file taken up");
        let differ = settings != self.settings;
        if differ {
            tracing::warn!("[proxy], [management], [tunnel] or [log] has changed: start again for it to take effect");
        }
        differ
    }

    /// The order makes it safe to die anywhere: what sessions and peers rest on is on disk before anybody can hear of it.
    async fn apply(&mut self, desired: Desired) -> Result<Vec<Edit>, ApplyError> {
        check(&desired)?;
        let in_clear = in_clear(&desired);
        let Sealed { revisions, seal } =
            seal::sealed(&self.passwords, self.in_clear.as_ref(), &self.kept, &in_clear).await?;
        let users = users(&desired, &revisions)?;
        let mut peers = self.peers.change(&self.account).await;
        let groups = |(name, user): (&String, &User)| (name.clone(), user.groups.iter().cloned().collect());
        peers.roster.list(desired.users.iter().map(groups).collect());
        let now = unix_now();
        let reach = |name: &str| peers.roster.reach(name, now);
        let Publication { catalog, keys } = catalog::publish(&self.account, &desired, &users, &self.kept.keys, &reach);
        let (edits, others) = (self.hub.compare(&catalog), peers.delta());
        let kept = Credentials { revisions, seal, keys };
        let (before, revision) = self.hub.catalog();
        let revision = if edits.is_empty() && others.is_empty() && kept == self.kept {
            revision
        } else {
            self.store.replace_credentials(&self.account, &self.kept, &kept, &others).await?
        };
        peers.publish();
        for (service, sentence) in catalog::newly_lacking(&before, &catalog) {
            tracing::warn!(%service, "a path leads nowhere: {sentence}");
        }
        self.hub.publish(catalog, revision);
        // Nobody can report any more on services that are gone.
        let (catalog, _) = self.hub.catalog();
        self.statuses.retain_services(|service| catalog.contains_key(service));
        self.desired = desired;
        (self.kept, self.in_clear) = (kept, Some(in_clear));
        for edit in &edits {
            if let Edit::Removed(published) = edit {
                self.logins.forget(&published.mapping.id);
            }
        }
        Ok(edits)
    }
}

/// What a file is refused for with its line, for those who give their state in another way.
fn check(desired: &Desired) -> Result<(), ApplyError> {
    let mut hosts: BTreeMap<&HostName, &ServiceId> = BTreeMap::new();
    for (id, service) in &desired.services {
        if let Some(first) = hosts.insert(&service.host, id) {
            let (first, second, host) = (first.clone(), id.clone(), service.host.clone());
            return Err(ApplyError::SameHost { first, second, host });
        }
        let Access::Basic(names) = &service.access else { continue };
        if names.is_empty() {
            return Err(ApplyError::Nobody { service: id.clone() });
        }
        for name in names {
            let (service, user) = (id.clone(), name.clone());
            match desired.users.get(name) {
                None => return Err(ApplyError::UnknownUser { service, user }),
                Some(User { password: None, .. }) => return Err(ApplyError::NoPassword { service, user }),
                Some(User { password: Some(_), .. }) => {}
            }
        }
    }
    Ok(())
}

/// The users whom services let in by their passwords.
fn named(desired: &Desired) -> impl Iterator<Item = (&String, &User, &Password)> {
    let names = desired.services.values().flat_map(|service| match &service.access {
        Access::Open | Access::Private(_) => &[][..],
        Access::Basic(names) => names,
    });
    let names: BTreeSet<&String> = names.collect();
    let user =
        |name| desired.users.get_key_value(name).and_then(|(name, user)| Some((name, user, user.password.as_ref()?)));
    names.into_iter().filter_map(user)
}

fn in_clear(desired: &Desired) -> InClear {
    let plain = |(name, _, password): (&String, &User, &Password)| match password {
        Password::Plain(plain) => Some((name.clone(), plain.clone())),
        Password::Hash(_) => None,
    };
    named(desired).filter_map(plain).collect()
}

fn users(desired: &Desired, revisions: &BTreeMap<String, Revision>) -> Result<BTreeMap<String, Member>, ApplyError> {
    let member = |(name, user, password): (&String, &User, &Password)| {
        let (password, revision) = match password {
            Password::Plain(plain) => {
                let revision = *revisions.get(name).expect("each password given in clear has a revision");
                (Expected::Plain(plain.clone()), revision)
            }
            Password::Hash(text) => {
                let hash = PasswordHash::parse(text.expose());
                let hash = hash.map_err(|error| ApplyError::Hash { user: name.clone(), error })?;
                (Expected::Hash(hash), seal::revision_of_hash(text))
            }
        };
        Ok((name.clone(), Member { password, revision, groups: user.groups.clone() }))
    };
    named(desired).map(member).collect()
}

async fn changed(watch: Option<&mut Watch>) -> (std::path::PathBuf, Content) {
    match watch {
        Some(watch) => {
            let content = watch.changed().await;
            (watch.path().to_owned(), content)
        }
        None => std::future::pending().await,
    }
}

impl FileStatus {
    fn taken(path: &Path) -> Self {
        Self { path: path.to_owned(), in_force: true, problem: None, mistakes: Vec::new(), needs_restart: false }
    }

    fn refused(path: &Path, refused: &Refused) -> Self {
        let mistakes = match refused {
            Refused::File(FileError::Mistakes { mistakes, .. }) => mistakes.clone(),
            Refused::File(FileError::Read { .. }) | Refused::Apply(_) => Vec::new(),
        };
        let problem = match refused {
            Refused::File(FileError::Mistakes { mistakes, .. }) => {
                let count = mistakes.len();
                let noun = if count == 1 { "mistake" } else { "mistakes" };
                format!("the file has {count} {noun}; correct it, the state before it stays in force")
            }
            Refused::File(FileError::Read { .. }) | Refused::Apply(_) => refused.to_string(),
        };
        Self { path: path.to_owned(), in_force: false, problem: Some(problem), mistakes, needs_restart: false }
    }
}
