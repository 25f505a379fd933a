use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use postern_auth::password::{InvalidHash, PasswordError, PasswordHash, Passwords};
use postern_model::{AccountId, BoxFuture, ServiceId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::catalog::{self, Edit};
use crate::desired::{Access, Desired, Password, Settings};
use crate::file::{self, FileError};
use crate::hub::Hub;
use crate::logins::Logins;
use crate::reports::FileStatus;
use crate::statuses::Statuses;
use crate::store::{Credentials, Store, StoreError};
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
    /// A password hash is none.
    #[error("the password hash of {user} cannot be used: {error}; make it anew")]
    Hash {
        /// The user.
        user: String,
        /// What is wrong with it.
        error: InvalidHash,
    },
    /// A password could not be hashed.
    #[error("the password of {user} could not be hashed: {error}; try again")]
    Password {
        /// The user.
        user: String,
        /// What went wrong.
        error: PasswordError,
    },
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

/// A user, the password and its hash.
type Hashed = (String, (Password, PasswordHash));

/// The one who puts desired states in force, one after the other, each whole or not at all.
#[derive(Debug)]
pub(crate) struct Steward {
    account: AccountId,
    hub: Arc<Hub>,
    logins: Arc<Logins>,
    statuses: Arc<Statuses>,
    store: Store,
    passwords: Passwords,
    /// What the store keeps.
    kept: Credentials,
    /// The passwords in force and their hashes.
    hashed: BTreeMap<String, (Password, PasswordHash)>,
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
        store: Store,
    ) -> Result<Self, StoreError> {
        let kept = store.credentials(&account).await?;
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        let passwords = Passwords::new(at_once);
        let (hashed, settings) = (BTreeMap::new(), Settings::default());
        Ok(Self { account, hub, logins, statuses, store, passwords, kept, hashed, file: Arc::default(), settings })
    }

    pub(crate) fn file(&self) -> Arc<Mutex<Option<FileStatus>>> {
        self.file.clone()
    }

    /// Puts the first state in force; its settings are those that the process runs with.
    pub(crate) async fn begin(&mut self, desired: Desired, file: Option<&Path>) -> Result<(), ApplyError> {
        self.settings = desired.settings.clone();
        self.apply(&desired).await?;
        *self.file.lock() = file.map(FileStatus::taken);
        Ok(())
    }

    /// Takes orders and follows the file until told to stop.
    pub(crate) async fn run(
        mut self,
        mut watch: Option<Watch>,
        mut orders: mpsc::Receiver<Order>,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                Some((desired, done)) = orders.recv() => {
                    let _ = done.send(self.apply(&desired).await.map(drop));
                }
                (path, content) = changed(watch.as_mut()) => self.file_changed(&path, content).await,
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
        let edits = self.apply(&desired).await?;
        Ok((desired.settings, edits))
    }

    fn file_settings_differ(&self, path: &Path, (settings, edits): (Settings, Vec<Edit>)) -> bool {
        tracing::info!(file = %path.display(), changed_services = edits.len(), "file taken up");
        let differ = settings != self.settings;
        if differ {
            tracing::warn!("[proxy], [management] or [log] has changed: start again for it to take effect");
        }
        differ
    }

    /// The order makes it safe to die anywhere: what sessions rest on is on disk before anybody can hear of it.
    async fn apply(&mut self, desired: &Desired) -> Result<Vec<Edit>, ApplyError> {
        let hashed = self.hash(desired).await?;
        let hashes = hashed.iter().map(|(name, (_, hash))| (name.clone(), hash.clone())).collect();
        let (catalog, keys) = catalog::publish(&self.account, desired, &hashes, &self.kept.keys);
        let edits = self.hub.compare(&catalog);
        let plain = hashed.iter().filter(|(_, (password, _))| matches!(password, Password::Plain(_)));
        let kept = Credentials { hashes: plain.map(|(n, (_, hash))| (n.clone(), hash.clone())).collect(), keys };
        if !edits.is_empty() || kept != self.kept {
            let revision = self.store.replace_credentials(&self.account, &kept).await?;
            self.hub.publish(catalog, revision);
            // Nobody can report on them any more.
            let (catalog, _) = self.hub.catalog();
            self.statuses.retain_services(|service| catalog.contains_key(service));
        }
        (self.kept, self.hashed) = (kept, hashed);
        for edit in &edits {
            if let Edit::Removed(published) = edit {
                self.logins.forget(&published.mapping.id);
            }
        }
        Ok(edits)
    }

    /// A hash for each user whom a service lets in. The same password keeps its hash, over restarts too.
    async fn hash(&self, desired: &Desired) -> Result<BTreeMap<String, (Password, PasswordHash)>, ApplyError> {
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        let hashing = named(desired)?.into_iter().map(|(name, password)| self.hash_named(name, password));
        stream::iter(hashing.collect::<Vec<_>>()).buffer_unordered(at_once).try_collect().await
    }

    fn hash_named<'a>(&'a self, name: &'a str, password: &'a Password) -> BoxFuture<'a, Result<Hashed, ApplyError>> {
        Box::pin(async move {
            let hash = self.hash_one(name, password).await?;
            Ok((name.to_owned(), (password.clone(), hash)))
        })
    }

    async fn hash_one(&self, user: &str, password: &Password) -> Result<PasswordHash, ApplyError> {
        let failed = |error| ApplyError::Password { user: user.to_owned(), error };
        if let Some((before, hash)) = self.hashed.get(user)
            && before == password
        {
            return Ok(hash.clone());
        }
        let plain = match password {
            Password::Plain(plain) => plain,
            Password::Hash(hash) => {
                let user = user.to_owned();
                return PasswordHash::parse(hash.expose()).map_err(|error| ApplyError::Hash { user, error });
            }
        };
        if let Some(kept) = self.kept.hashes.get(user)
            && self.passwords.verify(plain.clone(), Some(kept.clone())).await.map_err(failed)?
        {
            return Ok(kept.clone());
        }
        self.passwords.hash(plain.clone()).await.map_err(failed)
    }
}

/// The users whom services let in.
fn named(desired: &Desired) -> Result<BTreeMap<&str, &Password>, ApplyError> {
    let mut named = BTreeMap::new();
    for (service, names) in desired.services.iter().filter_map(|(id, service)| match &service.access {
        Access::Open => None,
        Access::Basic(names) => Some((id, names)),
    }) {
        if names.is_empty() {
            return Err(ApplyError::Nobody { service: service.clone() });
        }
        for name in names.iter().collect::<BTreeSet<_>>() {
            let user = desired.users.get(name);
            let unknown = || ApplyError::UnknownUser { service: service.clone(), user: name.clone() };
            named.insert(name.as_str(), &user.ok_or_else(unknown)?.password);
        }
    }
    Ok(named)
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
