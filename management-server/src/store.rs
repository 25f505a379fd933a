use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_auth::password::PasswordHash;
use postern_auth::session::SigningKey;
use postern_model::{AccountId, ProxyId, ServiceId, StatusUpdate};
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ConnectOptions, Row, Sqlite, Transaction};
use zeroize::Zeroizing;

use crate::data_dir::private_file;
use crate::peer::{Delta, Kept};
use crate::peer_rows;
use crate::states;
use crate::token::TokenHash;

/// Another process may hold the file for a backup, never for long.
const BUSY: Duration = Duration::from_secs(5);

/// Why the store does not answer. Each text is one sentence that ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A newer version of this program has written it.
    #[error("{} was written by a newer postern; use that version, or another data folder", .path.display())]
    Newer {
        /// The database.
        path: PathBuf,
    },
    /// It cannot be opened.
    #[error("cannot open {}: {detail}; restore it from a backup, or move it away to begin with an empty one", .path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// What the system or SQLite says.
        detail: String,
    },
    /// It cannot be read or written.
    #[error("the store failed: {0}; check the data folder's disk")]
    Failed(#[from] sqlx::Error),
}

/// What must survive a restart: one SQLite file, `postern.db` in the data folder.
///
/// One connection does everything: what is asked often is held in memory by those who ask.
#[derive(Clone, Debug)]
pub(crate) struct Store(SqlitePool);

/// A token as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredToken {
    pub(crate) name: String,
    pub(crate) account: AccountId,
    pub(crate) hash: TokenHash,
    /// Seconds since 1970, as every time here.
    pub(crate) created: i64,
    pub(crate) last_used: Option<i64>,
}

/// Stands for a password that was given in clear and tells nothing about it: random bytes, new with each change.
pub(crate) type Revision = [u8; 32];

/// What a change of the desired state keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Credentials {
    /// Of the passwords that were given in clear, by user.
    pub(crate) revisions: BTreeMap<String, Revision>,
    /// Tells whether these passwords are still the same.
    pub(crate) seal: Option<PasswordHash>,
    /// By service.
    pub(crate) keys: BTreeMap<ServiceId, SessionSeed>,
}

/// A session key, the seed it grows from and the access it was made for.
#[derive(Clone)]
pub(crate) struct SessionSeed {
    pub(crate) access: [u8; 32],
    seed: Zeroizing<[u8; 32]>,
    pub(crate) signing: SigningKey,
}

impl SessionSeed {
    pub(crate) fn new(access: [u8; 32], seed: Zeroizing<[u8; 32]>) -> Self {
        let signing = SigningKey::from_seed(&seed);
        Self { access, seed, signing }
    }
}

impl PartialEq for SessionSeed {
    fn eq(&self, other: &Self) -> bool {
        (self.access, &*self.seed) == (other.access, &*other.seed)
    }
}

impl Eq for SessionSeed {}

impl std::fmt::Debug for SessionSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SessionSeed")
    }
}

/// One proxy's newest word on one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredStatus {
    pub(crate) proxy: String,
    pub(crate) status: StatusUpdate,
    pub(crate) reported: i64,
}

/// A proxy that was here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredProxy {
    pub(crate) account: AccountId,
    pub(crate) id: ProxyId,
    pub(crate) token: String,
    pub(crate) address: String,
    pub(crate) version: String,
    pub(crate) last_seen: i64,
}

impl Store {
    /// Opens the database in `folder`, made if it is not there, and brings it to this version's shape.
    pub(crate) async fn open(folder: &Path) -> Result<Self, StoreError> {
        let path = folder.join("postern.db");
        let failed = |detail: String| StoreError::Open { path: path.clone(), detail };
        // SQLite gives its side files the permissions of the main one.
        private_file(&path).map_err(|error| failed(error.to_string()))?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            // A token that was shown must be there after a power cut.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY)
            .disable_statement_logging();
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options)
            .await
            .map_err(|error| failed(error.to_string()))?;
        match sqlx::migrate!().run(&pool).await {
            Ok(()) => Ok(Self(pool)),
            Err(MigrateError::VersionMissing(_)) => Err(StoreError::Newer { path }),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Closes the file, its write-ahead log folded in.
    pub(crate) async fn close(&self) {
        self.0.close().await;
    }

    /// Takes the write lock at once, so that no reading goes stale before the writing.
    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.0.begin_with("BEGIN IMMEDIATE").await
    }

    pub(crate) async fn revision(&self) -> Result<u64, StoreError> {
        let value: i64 = sqlx::query_scalar("SELECT value FROM revision").fetch_one(&self.0).await?;
        Ok(value.unsigned_abs())
    }

    pub(crate) async fn tokens(&self) -> Result<Vec<StoredToken>, StoreError> {
        let rows = sqlx::query("SELECT name, account, hash, created, last_used FROM tokens ORDER BY name")
            .fetch_all(&self.0)
            .await?;
        rows.iter()
            .map(|row| {
                Ok(StoredToken {
                    name: row.try_get("name")?,
                    account: column(row.try_get("account")?, AccountId::parse)?,
                    hash: TokenHash::stored(row.try_get("hash")?),
                    created: row.try_get("created")?,
                    last_used: row.try_get("last_used")?,
                })
            })
            .collect()
    }

    /// `false` if the name is taken.
    pub(crate) async fn add_token(&self, token: &StoredToken) -> Result<bool, StoreError> {
        let done = sqlx::query("INSERT INTO tokens VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING")
            .bind(&token.name)
            .bind(token.account.as_str())
            .bind(token.hash.as_str())
            .bind(token.created)
            .bind(token.last_used)
            .execute(&self.0)
            .await?;
        Ok(done.rows_affected() == 1)
    }

    /// `false` if there is none of that name.
    pub(crate) async fn remove_token(&self, name: &str) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM tokens WHERE name = ?").bind(name).execute(&self.0).await?;
        Ok(done.rows_affected() == 1)
    }

    pub(crate) async fn credentials(&self, account: &AccountId) -> Result<Credentials, StoreError> {
        let mut found = Credentials::default();
        let users = sqlx::query("SELECT name, revision FROM users WHERE account = ?").bind(account.as_str());
        for row in users.fetch_all(&self.0).await? {
            found.revisions.insert(row.try_get("name")?, bytes(&row, "revision")?);
        }
        let seal: Option<String> = sqlx::query_scalar("SELECT seal FROM seals WHERE account = ?")
            .bind(account.as_str())
            .fetch_optional(&self.0)
            .await?;
        found.seal = seal.map(|seal| column(&seal, PasswordHash::parse)).transpose()?;
        let keys =
            sqlx::query("SELECT service, access, seed FROM session_keys WHERE account = ?").bind(account.as_str());
        for row in keys.fetch_all(&self.0).await? {
            let seed = SessionSeed::new(bytes(&row, "access")?, Zeroizing::new(bytes(&row, "seed")?));
            found.keys.insert(column(row.try_get("service")?, ServiceId::parse)?, seed);
        }
        Ok(found)
    }

    /// Keeps the credentials `new` in place of `old`, which are kept now, and what comes of them for peers, as the next
    /// revision: all or nothing. What is the same in both is not written again.
    pub(crate) async fn replace_credentials(
        &self,
        account: &AccountId,
        old: &Credentials,
        new: &Credentials,
        peers: &Delta,
    ) -> Result<u64, StoreError> {
        let mut tx = self.begin().await?;
        peer_rows::write(&mut tx, account, peers).await?;
        for name in old.revisions.keys().filter(|name| !new.revisions.contains_key(*name)) {
            let delete = sqlx::query("DELETE FROM users WHERE account = ? AND name = ?").bind(account.as_str());
            delete.bind(name).execute(&mut *tx).await?;
        }
        for (name, revision) in new.revisions.iter().filter(|(name, new)| old.revisions.get(*name) != Some(*new)) {
            let insert = sqlx::query("INSERT OR REPLACE INTO users VALUES (?, ?, ?)").bind(account.as_str());
            insert.bind(name).bind(&revision[..]).execute(&mut *tx).await?;
        }
        for service in old.keys.keys().filter(|service| !new.keys.contains_key(*service)) {
            let delete = sqlx::query("DELETE FROM session_keys WHERE account = ? AND service = ?");
            delete.bind(account.as_str()).bind(service.as_str()).execute(&mut *tx).await?;
        }
        for (service, key) in new.keys.iter().filter(|(service, new)| old.keys.get(*service) != Some(*new)) {
            let insert = sqlx::query("INSERT OR REPLACE INTO session_keys VALUES (?, ?, ?, ?)").bind(account.as_str());
            insert.bind(service.as_str()).bind(&key.access[..]).bind(&key.seed[..]).execute(&mut *tx).await?;
        }
        if old.seal != new.seal {
            sqlx::query("DELETE FROM seals WHERE account = ?").bind(account.as_str()).execute(&mut *tx).await?;
            if let Some(seal) = &new.seal {
                let insert = sqlx::query("INSERT INTO seals VALUES (?, ?)").bind(account.as_str());
                insert.bind(seal.to_string()).execute(&mut *tx).await?;
            }
        }
        let next = sqlx::query_scalar("UPDATE revision SET value = value + 1 RETURNING value");
        let revision: i64 = next.fetch_one(&mut *tx).await?;
        tx.commit().await?;
        Ok(revision.unsigned_abs())
    }

    /// By account.
    pub(crate) async fn peers(&self) -> Result<BTreeMap<AccountId, Kept>, StoreError> {
        Ok(peer_rows::read(&mut *self.0.acquire().await?).await?)
    }

    /// All or nothing.
    pub(crate) async fn change_peers(&self, account: &AccountId, delta: &Delta) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        peer_rows::write(&mut tx, account, delta).await?;
        tx.commit().await?;
        Ok(())
    }

    pub(crate) async fn statuses(&self) -> Result<Vec<StoredStatus>, StoreError> {
        let rows = sqlx::query("SELECT * FROM statuses").fetch_all(&self.0).await?;
        rows.iter()
            .map(|row| {
                let state: &str = row.try_get("state")?;
                let status = StatusUpdate {
                    service: column(row.try_get("service")?, ServiceId::parse)?,
                    account: column(row.try_get("account")?, AccountId::parse)?,
                    state: column(state, |word| states::parse(word).ok_or(UnknownState))?,
                    certificate_issued: row.try_get("certificate_issued")?,
                    error: row.try_get("error")?,
                    // Its proxy says it anew when it comes back.
                    inbound: None,
                };
                Ok(StoredStatus { proxy: row.try_get("proxy")?, status, reported: row.try_get("reported")? })
            })
            .collect()
    }

    pub(crate) async fn proxies(&self) -> Result<Vec<StoredProxy>, StoreError> {
        let rows = sqlx::query("SELECT * FROM proxies ORDER BY id").fetch_all(&self.0).await?;
        rows.iter()
            .map(|row| {
                Ok(StoredProxy {
                    account: column(row.try_get("account")?, AccountId::parse)?,
                    id: column(row.try_get("id")?, ProxyId::parse)?,
                    token: row.try_get("token")?,
                    address: row.try_get("address")?,
                    version: row.try_get("version")?,
                    last_seen: row.try_get("last_seen")?,
                })
            })
            .collect()
    }

    /// Writes down what was observed: all or nothing, in one go, because each commit waits for the disk.
    pub(crate) async fn note(&self, observed: &Observed) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        for (name, last_used) in &observed.tokens {
            let update = sqlx::query("UPDATE tokens SET last_used = ? WHERE name = ?").bind(last_used).bind(name);
            update.execute(&mut *tx).await?;
        }
        for StoredStatus { proxy, status, reported } in &observed.statuses {
            sqlx::query("INSERT OR REPLACE INTO statuses VALUES (?, ?, ?, ?, ?, ?, ?)")
                .bind(status.account.as_str())
                .bind(status.service.as_str())
                .bind(proxy)
                .bind(states::word(status.state))
                .bind(status.certificate_issued)
                .bind(&status.error)
                .bind(reported)
                .execute(&mut *tx)
                .await?;
        }
        for (service, proxy) in &observed.gone {
            let delete = sqlx::query("DELETE FROM statuses WHERE service = ? AND proxy = ?").bind(service.as_str());
            delete.bind(proxy).execute(&mut *tx).await?;
        }
        for proxy in &observed.proxies {
            sqlx::query("INSERT OR REPLACE INTO proxies VALUES (?, ?, ?, ?, ?, ?)")
                .bind(proxy.account.as_str())
                .bind(proxy.id.as_str())
                .bind(&proxy.token)
                .bind(&proxy.address)
                .bind(&proxy.version)
                .bind(proxy.last_seen)
                .execute(&mut *tx)
                .await?;
        }
        if !observed.proxies.is_empty() {
            sqlx::query("DELETE FROM proxies WHERE last_seen < ?")
                .bind(observed.forget_before)
                .execute(&mut *tx)
                .await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// What is worth knowing after a restart, and no loss if a crash takes the last second of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Observed {
    /// When tokens were last used, by name.
    pub(crate) tokens: Vec<(String, i64)>,
    pub(crate) statuses: Vec<StoredStatus>,
    /// Statuses that are of no interest any more, by service and proxy; none of those above is among them.
    pub(crate) gone: Vec<(ServiceId, String)>,
    pub(crate) proxies: Vec<StoredProxy>,
    /// Proxies seen last before this are forgotten.
    pub(crate) forget_before: i64,
}

impl Observed {
    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.is_empty() && self.statuses.is_empty() && self.gone.is_empty() && self.proxies.is_empty()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("unknown state")]
struct UnknownState;

fn column<T, E: std::error::Error + Send + Sync + 'static>(
    text: &str,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Result<T, sqlx::Error> {
    parse(text).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn bytes(row: &sqlx::sqlite::SqliteRow, column: &str) -> Result<[u8; 32], sqlx::Error> {
    let found: &[u8] = row.try_get(column)?;
    found.try_into().map_err(|_| sqlx::Error::Decode(format!("{column} has not 32 bytes").into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{Device, Owner, Peer, Proxy, Role, Standing};
    use postern_model::{Generation, PublicKey, ServiceState};
    use std::os::unix::fs::PermissionsExt;

    fn account() -> AccountId {
        AccountId::parse("default").expect("id")
    }

    fn token(name: &str) -> StoredToken {
        let hash = TokenHash::stored(format!("hash of {name}"));
        StoredToken { name: name.into(), account: account(), hash, created: 1, last_used: None }
    }

    fn credentials(seed: u8) -> Credentials {
        let hash = "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$r0zIuvRLc1xZ7pgGPkVdWTtMbRLZyGMX7GpNeEgB4AA";
        let key = SessionSeed::new([seed; 32], Zeroizing::new([seed; 32]));
        Credentials {
            revisions: [("alice".to_owned(), [seed; 32])].into(),
            seal: Some(PasswordHash::parse(hash).expect("hash")),
            keys: [(ServiceId::parse("vault").expect("id"), key)].into(),
        }
    }

    async fn keep(store: &Store, old: &Credentials, new: &Credentials) -> u64 {
        store.replace_credentials(&account(), old, new, &Delta::default()).await.expect("keeps")
    }

    /// A change of one service among thousands costs one row.
    #[tokio::test]
    async fn what_is_the_same_is_not_written_again() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(folder.path()).await.expect("opens");
        let written = || async {
            let changes: i64 = sqlx::query_scalar("SELECT total_changes()").fetch_one(&store.0).await.expect("counts");
            changes
        };
        let service = |n: u8| ServiceId::parse(&format!("s{n}")).expect("id");
        let key = |n: u8| SessionSeed::new([n; 32], Zeroizing::new([n; 32]));
        let mut many = credentials(7);
        many.keys = (0..100).map(|n| (service(n), key(n))).collect();
        many.revisions = (0..100).map(|n| (format!("user{n}"), [n; 32])).collect();
        keep(&store, &Credentials::default(), &many).await;

        let mut changed = many.clone();
        changed.keys.insert(service(5), key(200));
        changed.keys.remove(&service(6));
        changed.revisions.insert("user7".into(), [200; 32]);
        changed.revisions.remove("user8");
        let before = written().await;
        keep(&store, &many, &changed).await;
        assert_eq!(written().await - before, 5, "four credentials and the revision");
        assert_eq!(store.credentials(&account()).await.expect("reads"), changed);
        keep(&store, &changed, &Credentials::default()).await;
        assert_eq!(store.credentials(&account()).await.expect("reads"), Credentials::default());
    }

    #[tokio::test]
    async fn what_was_kept_is_there_after_a_restart() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(folder.path()).await.expect("opens");
        assert!(store.add_token(&token("a")).await.expect("adds"));
        assert!(!store.add_token(&token("a")).await.expect("taken"), "the name is taken");
        assert_eq!(keep(&store, &Credentials::default(), &credentials(7)).await, 1);
        let service = ServiceId::parse("vault").expect("id");
        let status = StatusUpdate {
            service: service.clone(),
            account: account(),
            state: ServiceState::Error,
            certificate_issued: true,
            error: Some("why".into()),
            inbound: None,
        };
        let seen = StoredProxy {
            account: account(),
            id: ProxyId::parse("p").expect("id"),
            token: "a".into(),
            address: "x".into(),
            version: "1".into(),
            last_seen: 9,
        };
        let status = StoredStatus { proxy: "p".into(), status, reported: 5 };
        let observed = Observed {
            tokens: vec![("a".into(), 4)],
            statuses: vec![status.clone()],
            proxies: vec![seen.clone()],
            ..Observed::default()
        };
        store.note(&observed).await.expect("notes");
        store.close().await;

        let store = Store::open(folder.path()).await.expect("opens again");
        assert_eq!(store.tokens().await.expect("reads"), [StoredToken { last_used: Some(4), ..token("a") }]);
        assert_eq!(store.credentials(&account()).await.expect("reads"), credentials(7));
        assert_eq!(store.statuses().await.expect("reads"), [status]);
        assert_eq!(store.proxies().await.expect("reads"), [seen]);
        assert_eq!(store.revision().await.expect("reads"), 1);
        store.note(&Observed { gone: vec![(service, "p".into())], ..Observed::default() }).await.expect("notes");
        assert_eq!(store.statuses().await.expect("reads"), []);
        assert!(store.remove_token("a").await.expect("removes"));
        assert!(!store.remove_token("a").await.expect("gone"));
    }

    /// A crash leaves what the disk holds: the main file and the write-ahead log, with a transaction that never ended.
    #[tokio::test]
    async fn a_crash_in_the_middle_leaves_the_state_before() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(folder.path()).await.expect("opens");
        keep(&store, &Credentials::default(), &credentials(7)).await;
        let mut tx = store.begin().await.expect("begins");
        sqlx::query("DELETE FROM session_keys").execute(&mut *tx).await.expect("deletes");
        sqlx::query("UPDATE revision SET value = 99").execute(&mut *tx).await.expect("updates");
        let crashed = tempfile::tempdir().expect("tempdir");
        for name in ["postern.db", "postern.db-wal"] {
            std::fs::copy(folder.path().join(name), crashed.path().join(name)).expect("copies");
        }
        drop(tx);
        let reopened = Store::open(crashed.path()).await.expect("opens after the crash");
        assert_eq!(reopened.credentials(&account()).await.expect("reads"), credentials(7));
        assert_eq!(reopened.revision().await.expect("reads"), 1);
        assert_eq!(keep(&reopened, &credentials(7), &credentials(8)).await, 2, "goes on");
    }

    #[tokio::test]
    async fn peers_are_there_after_a_restart_and_two_of_one_key_never() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(folder.path()).await.expect("opens");
        let device = Device {
            name: "laptop".into(),
            owner: Some(Owner { user: "alice".into(), standing: Standing::Listed(["ops".to_owned()].into()) }),
            groups: ["eng".to_owned()].into(),
            site: vec!["10.9.0.0/16".parse().expect("range")],
            enabled: true,
            expires: Some(9),
            created: 1,
        };
        let peer = |key: u8, generation: u64, role| Peer {
            key: PublicKey([key; 32]),
            generation: Generation(generation),
            role,
        };
        let proxy = Proxy { name: "p".into(), cluster: "c".into(), in_process: true, port: 7, last_seen: 8 };
        let empty = Kept {
            range: "10.9.0.0/24".parse().expect("range"),
            generation: Generation(0),
            peers: BTreeMap::new(),
            released: BTreeMap::new(),
        };
        let kept = Kept {
            generation: Generation(u64::from(u32::MAX) + 2),
            peers: [(1, peer(1, 1, Role::Device(device))), (3, peer(3, 2, Role::Proxy(proxy)))].into(),
            released: [(2, 5)].into(),
            ..empty.clone()
        };
        store.change_peers(&account(), &Delta::between(&empty, &kept)).await.expect("writes");
        store.close().await;

        let store = Store::open(folder.path()).await.expect("opens again");
        assert_eq!(store.peers().await.expect("reads"), [(account(), kept.clone())].into());
        // The key of the one goes to the other, which has it only once the one is gone.
        let mut swapped = kept.clone();
        let first = swapped.peers.remove(&1).expect("there");
        swapped.released.insert(1, 6);
        swapped.released.remove(&2);
        swapped.peers.insert(2, first.clone());
        store.change_peers(&account(), &Delta::between(&kept, &swapped)).await.expect("writes");
        assert_eq!(store.peers().await.expect("reads"), [(account(), swapped.clone())].into());
        let mut twice = swapped.clone();
        twice.peers.insert(4, first);
        twice.released.insert(9, 9);
        store.change_peers(&account(), &Delta::between(&swapped, &twice)).await.expect_err("one key, one peer");
        assert_eq!(store.peers().await.expect("reads"), [(account(), swapped)].into(), "all or nothing");
    }

    #[tokio::test]
    async fn its_files_are_for_this_user_only() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(folder.path()).await.expect("opens");
        store.add_token(&token("a")).await.expect("adds");
        for entry in std::fs::read_dir(folder.path()).expect("lists") {
            let entry = entry.expect("entry");
            let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
            assert_eq!(mode, 0o600, "{:?}", entry.file_name());
        }
    }

    #[tokio::test]
    async fn what_is_no_database_is_one_sentence() {
        let folder = tempfile::tempdir().expect("tempdir");
        std::fs::write(folder.path().join("postern.db"), "this is not a database, and it is long enough to tell")
            .expect("writes");
        let refused = Store::open(folder.path()).await.expect_err("no database").to_string();
        assert!(refused.contains("postern.db") && refused.contains("move it away"), "{refused}");
    }
}
