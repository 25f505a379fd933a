use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::RwLock;
use postern_model::{AccountId, Secret};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;

use crate::clock::unix_now;
use crate::listener::ConnectionInfo;
use crate::store::{Store, StoreError, StoredToken};
use crate::token::{ProxyToken, TokenHash};
use crate::words;

/// Never used.
const NEVER: i64 = i64::MIN;

/// The tokens that are valid now. The data folder is this process's alone, so memory and store agree.
#[derive(Debug)]
pub(crate) struct Tokens {
    store: Store,
    valid: RwLock<HashMap<TokenHash, Arc<Bearer>>>,
    /// Held while a token is added or removed: store and memory change together, or a name added and removed at once could
    /// be gone from one and stay in the other.
    changing: Mutex<()>,
}

/// Who calls, by a valid token. In the extensions of each call that got through.
#[derive(Debug)]
pub(crate) struct Bearer {
    pub(crate) name: String,
    pub(crate) account: AccountId,
    /// Cancelled when the token is removed: what runs under it ends.
    pub(crate) removed: CancellationToken,
    pub(crate) created: i64,
    last_used: AtomicI64,
    written: AtomicI64,
    /// Made for this run, for the proxy in this process; not stored.
    pub(crate) internal: bool,
}

/// Why a token is not added or removed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    #[error(
        "a token name has 1 to 64 letters, digits, hyphens, dots and underscores, a letter or a digit first; choose another name"
    )]
    Name,
    #[error("there is a token named {0} already; choose another name, or remove that one first")]
    Taken(String),
    #[error("there is no token named {0}; `postern token list` shows those that there are")]
    Unknown(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Tokens {
    pub(crate) async fn load(store: Store) -> Result<Self, StoreError> {
        let valid =
            store.tokens().await?.into_iter().map(|token| (token.hash.clone(), Arc::new(Bearer::stored(token))));
        Ok(Self { valid: RwLock::new(valid.collect()), store, changing: Mutex::default() })
    }

    /// A token for the proxy in this process, gone with the process.
    pub(crate) fn internal(&self, account: &AccountId) -> Secret {
        let token = ProxyToken::random();
        let bearer = Bearer::new("this process".into(), account.clone(), unix_now(), NEVER, true);
        self.valid.write().insert(token.hash(), Arc::new(bearer));
        token.into_secret()
    }

    /// Makes a token. It is shown here and never again.
    pub(crate) async fn add(&self, name: &str, account: &AccountId) -> Result<Secret, TokenError> {
        if !words::is_name(name) {
            return Err(TokenError::Name);
        }
        let token = ProxyToken::random();
        let stored = StoredToken {
            name: name.to_owned(),
            account: account.clone(),
            hash: token.hash(),
            created: unix_now(),
            last_used: None,
        };
        let _changing = self.changing.lock().await;
        if !self.store.add_token(&stored).await? {
            return Err(TokenError::Taken(name.to_owned()));
        }
        self.valid.write().insert(token.hash(), Arc::new(Bearer::stored(stored)));
        Ok(token.into_secret())
    }

    /// Removes a token and ends what runs under it.
    pub(crate) async fn remove(&self, name: &str) -> Result<(), TokenError> {
        let _changing = self.changing.lock().await;
        if !self.store.remove_token(name).await? {
            return Err(TokenError::Unknown(name.to_owned()));
        }
        self.valid.write().retain(|_, bearer| {
            let goes = !bearer.internal && bearer.name == name;
            if goes {
                bearer.removed.cancel();
            }
            !goes
        });
        Ok(())
    }

    /// Those that are stored, by name.
    pub(crate) fn list(&self) -> Vec<Arc<Bearer>> {
        let mut all: Vec<_> = self.valid.read().values().filter(|bearer| !bearer.internal).cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Uses that the store does not know yet.
    pub(crate) fn unwritten(&self) -> Vec<(String, i64)> {
        let unwritten = |bearer: &Arc<Bearer>| {
            let used = bearer.last_used.load(Ordering::Relaxed);
            (bearer.written.swap(used, Ordering::Relaxed) != used).then(|| (bearer.name.clone(), used))
        };
        self.list().iter().filter_map(unwritten).collect()
    }

    /// NetBird's rule: metadata `authorization`, first value, `Bearer ` and the token; form and checksum before any look-up.
    fn bearer(&self, metadata: &MetadataMap) -> Result<Arc<Bearer>, Status> {
        let refused = |why: &str| Status::unauthenticated(format!("{why}; make a token with `postern token add`"));
        let value = metadata.get("authorization").ok_or_else(|| refused("there is no authorization in the call"))?;
        let token = value.to_str().ok().and_then(|value| value.strip_prefix("Bearer "));
        let token = token.ok_or_else(|| refused("the authorization is not a bearer token"))?;
        let token = ProxyToken::parse(token).map_err(|error| refused(&error.to_string()))?;
        let bearer = self.valid.read().get(&token.hash()).cloned();
        let bearer = bearer.ok_or_else(|| refused("the token is not valid here, or not any more"))?;
        bearer.last_used.store(unix_now(), Ordering::Relaxed);
        Ok(bearer)
    }
}

impl Bearer {
    fn new(name: String, account: AccountId, created: i64, last_used: i64, internal: bool) -> Self {
        let removed = CancellationToken::new();
        let (written, last_used) = (AtomicI64::new(last_used), AtomicI64::new(last_used));
        Self { name, account, removed, created, last_used, written, internal }
    }

    fn stored(token: StoredToken) -> Self {
        Self::new(token.name, token.account, token.created, token.last_used.unwrap_or(NEVER), false)
    }

    pub(crate) fn last_used(&self) -> Option<i64> {
        Some(self.last_used.load(Ordering::Relaxed)).filter(|&used| used != NEVER)
    }
}

/// Lets calls through that carry a valid token.
#[derive(Clone, Debug)]
pub(crate) struct TokenCheck(pub(crate) Arc<Tokens>);

impl Interceptor for TokenCheck {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let bearer = self.0.bearer(request.metadata())?;
        if let Some(connection) = request.extensions().get::<ConnectionInfo>() {
            connection.introduced();
        }
        request.extensions_mut().insert(bearer);
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> AccountId {
        AccountId::parse("default").expect("id")
    }

    fn metadata(value: &str) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("authorization", value.parse().expect("a metadata value"));
        metadata
    }

    #[tokio::test]
    async fn a_token_is_valid_from_its_making_to_its_removal_and_over_restarts() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(folder.path()).await.expect("opens");
        let tokens = Tokens::load(store.clone()).await.expect("loads");
        let secret = tokens.add("edge-1", &account()).await.expect("adds");
        let call = metadata(&format!("Bearer {}", secret.expose()));
        let bearer = tokens.bearer(&call).expect("valid");
        assert_eq!((bearer.name.as_str(), bearer.last_used().is_some()), ("edge-1", true));
        assert_eq!(tokens.unwritten().len(), 1);
        assert_eq!(tokens.unwritten().len(), 0, "written once");
        let internal = tokens.internal(&account());
        tokens.bearer(&metadata(&format!("Bearer {}", internal.expose()))).expect("valid in this run");
        assert_eq!(tokens.list().len(), 1, "the internal one is not shown");
        assert!(matches!(tokens.add("edge-1", &account()).await, Err(TokenError::Taken(_))));

        let next = Tokens::load(store.clone()).await.expect("loads");
        next.bearer(&call).expect("valid after a restart");
        next.bearer(&metadata(&format!("Bearer {}", internal.expose()))).expect_err("gone with its run");
        let bytes = std::fs::read(folder.path().join("postern.db-wal")).expect("reads");
        let raw = secret.expose().as_bytes();
        assert!(!bytes.windows(raw.len()).any(|window| window == raw), "the token itself is on disk");

        tokens.remove("edge-1").await.expect("removes");
        assert!(bearer.removed.is_cancelled());
        assert_eq!(tokens.bearer(&call).expect_err("removed").code(), tonic::Code::Unauthenticated);
        assert!(matches!(tokens.remove("edge-1").await, Err(TokenError::Unknown(_))));
    }

    /// The store has one connection and answers in order: a removal that did not wait would be done before the reading.
    #[tokio::test]
    async fn one_change_waits_for_the_other() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(folder.path()).await.expect("opens");
        let tokens = Tokens::load(store.clone()).await.expect("loads");
        tokens.add("edge-1", &account()).await.expect("adds");
        let account = account();
        let changing = tokens.changing.lock().await;
        let mut removal = std::pin::pin!(tokens.remove("edge-1"));
        let mut addition = std::pin::pin!(tokens.add("edge-2", &account));
        assert!(futures_util::poll!(&mut removal).is_pending());
        assert!(futures_util::poll!(&mut addition).is_pending());
        let names = || async {
            let stored = store.tokens().await.expect("reads");
            stored.into_iter().map(|token| token.name).collect::<Vec<_>>()
        };
        let (stored, waiting) = tokio::join!(names(), async { futures_util::poll!(&mut removal).is_pending() });
        assert!(waiting && stored == ["edge-1"], "{stored:?}");
        drop(changing);
        let (removed, added) = tokio::join!(removal, addition);
        removed.expect("removes");
        added.expect("adds");
        assert_eq!(names().await, ["edge-2"]);
        assert_eq!(tokens.list().iter().map(|bearer| bearer.name.as_str()).collect::<Vec<_>>(), ["edge-2"]);
    }

    #[tokio::test]
    async fn what_carries_no_token_is_told_why() {
        let folder = tempfile::tempdir().expect("tempdir");
        let store = Store::open(folder.path()).await.expect("opens");
        let tokens = Tokens::load(store).await.expect("loads");
        let cases = [
            (MetadataMap::new(), "no authorization"),
            (metadata("Basic abc"), "not a bearer token"),
            (metadata("bearer nbx_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr"), "not a bearer token"),
            (metadata("Bearer secret"), "form of a proxy token"),
            (metadata("Bearer nbx_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPls"), "checksum"),
            (metadata("Bearer nbx_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA0uCPlr"), "not valid here"),
        ];
        for (metadata, why) in cases {
            let status = tokens.bearer(&metadata).expect_err(why);
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
            assert!(status.message().contains(why), "{}", status.message());
        }
        for name in ["", ".", "..", "a b", "ä", &"x".repeat(65)] {
            assert!(matches!(tokens.add(name, &account()).await, Err(TokenError::Name)), "{name:?}");
        }
    }
}
