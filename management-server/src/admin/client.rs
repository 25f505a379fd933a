use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;
use url::Url;

use super::wire::{AddToken, Problem, socket_path};
use crate::peer_reports::{AddPeer, NewPeer, PeerChanges, PeerStatus};
use crate::reports::{LogLine, NewToken, Status, TokenStatus};

const PATIENCE: Duration = Duration::from_secs(10);
/// A status of a hundred thousand services is smaller.
const LONGEST_ANSWER: usize = 64 << 20;

/// Why administration did not work. Each text is one sentence that ends with what to do.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens.
    #[error("no postern is running on the data folder {}; start it, or name its folder with --data-dir", .data_dir.display())]
    NotRunning {
        /// The folder.
        data_dir: PathBuf,
    },
    /// The socket belongs to somebody else.
    #[error("this user may not administer the postern on {}; run this as the user that runs it", .data_dir.display())]
    NotAllowed {
        /// The folder.
        data_dir: PathBuf,
    },
    /// What was asked for cannot be: whoever asked has to ask for something else.
    #[error("{0}")]
    Refused(String),
    /// It could not do what was asked for.
    #[error("{0}")]
    Failed(String),
    /// It does not answer, or not as expected.
    #[error("the postern on {} does not answer as it should: {detail}; look into its log", .data_dir.display())]
    Broken {
        /// The folder.
        data_dir: PathBuf,
        /// What happened.
        detail: String,
    },
}

/// Asks the postern that runs on a data folder.
#[derive(Clone, Debug)]
pub struct Client {
    data_dir: PathBuf,
}

impl Client {
    /// For the postern of this data folder.
    #[must_use]
    pub fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }

    /// How everything stands.
    ///
    /// # Errors
    /// [`AdminError`], as for every call.
    pub async fn status(&self) -> Result<Status, AdminError> {
        self.json(Method::GET, &["status"], None, NOTHING).await
    }

    /// The tokens, by name.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn tokens(&self) -> Result<Vec<TokenStatus>, AdminError> {
        self.json(Method::GET, &["tokens"], None, NOTHING).await
    }

    /// Makes a token. What is returned is shown this once.
    ///
    /// # Errors
    /// [`AdminError::Refused`] for a name that is taken or no name.
    pub async fn add_token(&self, name: &str) -> Result<NewToken, AdminError> {
        self.json(Method::POST, &["tokens"], None, Some(&AddToken { name: name.to_owned() })).await
    }

    /// Removes a token; what runs under it ends within a second.
    ///
    /// # Errors
    /// [`AdminError::Refused`] if there is none of that name.
    pub async fn remove_token(&self, name: &str) -> Result<(), AdminError> {
        self.call(Method::DELETE, &["tokens", name], None, NOTHING).await.map(drop)
    }

    /// The newest lines of the access log, oldest first; at most a thousand are kept.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn access_log(&self, limit: usize) -> Result<Vec<LogLine>, AdminError> {
        self.json(Method::GET, &["access-log"], Some(("limit", &limit.to_string())), NOTHING).await
    }

    /// The peers of the tunnel, by name.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn peers(&self) -> Result<Vec<PeerStatus>, AdminError> {
        self.json(Method::GET, &["peers"], None, NOTHING).await
    }

    /// One peer and its configuration as it is now, without the private key; `endpoint` is where it reaches the proxy, if
    /// not at `endpoint` of `[tunnel]`.
    ///
    /// # Errors
    /// [`AdminError::Refused`] if there is none of that name, or the endpoint is none.
    pub async fn peer(&self, name: &str, endpoint: Option<&str>) -> Result<NewPeer, AdminError> {
        let endpoint = endpoint.map(|endpoint| ("endpoint", endpoint));
        self.json(Method::GET, &["peers", name], endpoint, NOTHING).await
    }

    /// Adds a peer. What is returned may hold its private key, and then does this once.
    ///
    /// # Errors
    /// [`AdminError::Refused`] for a name or a key that is taken, ranges that overlap, or texts that are none of what they
    /// should be.
    pub async fn add_peer(&self, peer: &AddPeer) -> Result<NewPeer, AdminError> {
        self.json(Method::POST, &["peers"], None, Some(peer)).await
    }

    /// Changes a peer. Its live connections end within a second, unless only its end has moved.
    ///
    /// # Errors
    /// [`AdminError::Refused`], as [`add_peer`](Self::add_peer).
    pub async fn set_peer(&self, name: &str, changes: &PeerChanges) -> Result<PeerStatus, AdminError> {
        self.json(Method::PATCH, &["peers", name], None, Some(changes)).await
    }

    /// Removes a peer; its live connections end within a second.
    ///
    /// # Errors
    /// [`AdminError::Refused`] if there is none of that name.
    pub async fn remove_peer(&self, name: &str) -> Result<(), AdminError> {
        self.call(Method::DELETE, &["peers", name], None, NOTHING).await.map(drop)
    }

    /// Removes every peer of a user, as [`remove_peer`](Self::remove_peer) does, and returns their names.
    ///
    /// # Errors
    /// [`AdminError::Refused`] if there is none.
    pub async fn remove_peers_of(&self, user: &str) -> Result<Vec<String>, AdminError> {
        self.json(Method::DELETE, &["peers"], Some(("user", user)), NOTHING).await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: Option<(&str, &str)>,
        body: Option<&impl Serialize>,
    ) -> Result<T, AdminError> {
        let bytes = self.call(method, path, query, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.broken(&error))
    }

    async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: Option<(&str, &str)>,
        body: Option<&impl Serialize>,
    ) -> Result<Bytes, AdminError> {
        // As steps of a path they would lead elsewhere.
        if let Some(name) = path.iter().find(|part| matches!(**part, "" | "." | "..")) {
            let sentence = format!("`{name}` is no name, names begin with a letter or a digit; give the name of one");
            return Err(AdminError::Refused(sentence));
        }
        let mut url = Url::parse("http://postern/v1/").expect("a URL");
        url.path_segments_mut().expect("it has a path").pop_if_empty().extend(path);
        url.query_pairs_mut().extend_pairs(query);
        let target = format!("{}?{}", url.path(), url.query().unwrap_or_default());
        let body = body.map(|body| serde_json::to_vec(body).expect("texts are JSON")).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "postern")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .expect("a request of checked parts");
        let (status, bytes) =
            timeout(PATIENCE, self.exchange(request)).await.map_err(|_| self.broken(&"it took longer than 10 s"))??;
        if status.is_success() {
            return Ok(bytes);
        }
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) if status.is_client_error() => Err(AdminError::Refused(problem.message)),
            Ok(problem) => Err(AdminError::Failed(problem.message)),
            Err(_) => Err(self.broken(&status)),
        }
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), AdminError> {
        let stream = UnixStream::connect(socket_path(&self.data_dir)).await.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                AdminError::NotRunning { data_dir: self.data_dir.clone() }
            }
            io::ErrorKind::PermissionDenied => AdminError::NotAllowed { data_dir: self.data_dir.clone() },
            _ => self.broken(&error),
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER).collect().await;
            Ok((status, body.map_err(|error| self.broken(&error))?.to_bytes()))
        };
        // The connection is driven here and ends with the exchange.
        tokio::pin!(exchange);
        tokio::select! {
            done = &mut exchange => done,
            ended = connection => match ended {
                Ok(()) => exchange.await,
                Err(error) => Err(self.broken(&error)),
            },
        }
    }

    fn broken(&self, detail: &impl ToString) -> AdminError {
        AdminError::Broken { data_dir: self.data_dir.clone(), detail: detail.to_string() }
    }
}

const NOTHING: Option<&()> = None;
