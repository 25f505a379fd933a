//! A whole server with scripted proxies, over memory where the network is not the point.

mod administration;
mod file;
mod listener;
mod logins;
mod logs;
mod peers;
mod streams;
mod tunnel;

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use postern_model::{AccountId, Secret};
use postern_proto::management::proxy_service_client::ProxyServiceClient;
use postern_proto::management::{
    ProxyMapping, SyncMappingsAck, SyncMappingsInit, SyncMappingsRequest, SyncMappingsResponse,
    sync_mappings_request::Msg,
};
use postern_proto::postern::v1::proxy_client::ProxyClient;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

use crate::desired::Desired;
use crate::store::{Store, StoredToken};
use crate::token::ProxyToken;
use crate::{Config, Running, Source, start};

/// Longer than anything here takes; only a failure waits for it.
const LONG: Duration = Duration::from_secs(30);

struct World {
    folder: TempDir,
    running: Running,
}

impl World {
    async fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().expect("tempdir");
        Self::on(folder, text).await
    }

    async fn on(folder: TempDir, text: &str) -> Self {
        let source = Source::Given(Box::new(desired(text)));
        let config = Config { data_dir: folder.path().to_owned(), listener: None, source };
        let running = start(config).await.expect("starts");
        Self { folder, running }
    }

    async fn restart(self, text: &str) -> Self {
        self.running.shutdown().await;
        Self::on(self.folder, text).await
    }

    async fn apply(&self, text: &str) {
        self.running.apply(desired(text)).await.expect("applies");
    }

    /// A new connection, as the proxy in the same process has it.
    async fn connect(&self) -> Calls {
        Calls::over(self.channel().await, self.running.token())
    }

    async fn connect_with(&self, token: &str) -> Calls {
        Calls::over(self.channel().await, Secret::from(token))
    }

    async fn channel(&self) -> Channel {
        let memory = self.running.in_memory();
        let connector = tower::service_fn(move |_| {
            let memory = memory.clone();
            async move {
                let (ours, theirs) = tokio::io::duplex(1 << 16);
                memory.send(theirs).await.map_err(std::io::Error::other)?;
                Ok::<_, std::io::Error>(TokioIo::new(ours))
            }
        });
        Endpoint::from_static("http://management").connect_with_connector(connector).await.expect("connects")
    }

    fn admin(&self) -> crate::admin::Client {
        crate::admin::Client::new(self.folder.path())
    }
}

fn desired(text: &str) -> Desired {
    crate::file::parse(text, Path::new("")).expect("a good text")
}

/// One open service.
fn open(id: &str, upstream: &str) -> String {
    format!("[service.{id}]\nhost = '{id}.example'\nupstream = '{upstream}'\naccess = 'open'\n")
}

/// A proxy's side of one connection.
#[derive(Clone)]
struct Calls {
    proxy: ProxyServiceClient<InterceptedService<Channel, Bearer>>,
    logs: ProxyClient<InterceptedService<Channel, Bearer>>,
}

#[derive(Clone)]
struct Bearer(Secret);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.0.expose().is_empty() {
            let value = format!("Bearer {}", self.0.expose());
            request.metadata_mut().insert("authorization", MetadataValue::try_from(value).expect("ascii"));
        }
        Ok(request)
    }
}

impl Calls {
    fn over(channel: Channel, token: Secret) -> Self {
        let bearer = Bearer(token);
        Self {
            proxy: ProxyServiceClient::with_interceptor(channel.clone(), bearer.clone()),
            logs: ProxyClient::with_interceptor(channel, bearer),
        }
    }

    async fn sync(&self, proxy_id: &str) -> Result<Sync, Status> {
        self.sync_as(init(proxy_id)).await
    }

    async fn sync_as(&self, init: SyncMappingsInit) -> Result<Sync, Status> {
        let (requests, receiver) = mpsc::channel(16);
        requests.send(SyncMappingsRequest { msg: Some(Msg::Init(init)) }).await.expect("open");
        let replies = self.proxy.clone().sync_mappings(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Sync { requests, replies })
    }
}

fn init(proxy_id: &str) -> SyncMappingsInit {
    SyncMappingsInit {
        proxy_id: proxy_id.into(),
        version: "1".into(),
        address: "proxy.example".into(),
        ..SyncMappingsInit::default()
    }
}

/// A scripted mapping stream.
struct Sync {
    requests: mpsc::Sender<SyncMappingsRequest>,
    replies: Streaming<SyncMappingsResponse>,
}

impl Sync {
    async fn next(&mut self) -> Result<Option<SyncMappingsResponse>, Status> {
        timeout(LONG, self.replies.message()).await.expect("in time")
    }

    async fn batch(&mut self) -> SyncMappingsResponse {
        self.next().await.expect("no error").expect("no end")
    }

    async fn ack(&self) {
        self.requests.send(SyncMappingsRequest { msg: Some(Msg::Ack(SyncMappingsAck {})) }).await.expect("open");
    }

    /// The whole snapshot, acknowledged batch by batch.
    async fn snapshot(&mut self) -> Vec<ProxyMapping> {
        let mut all = Vec::new();
        loop {
            let batch = self.batch().await;
            all.extend(batch.mapping);
            self.ack().await;
            if batch.initial_sync_complete {
                return all;
            }
        }
    }

    /// How it ended; changes before that are passed over.
    async fn end(&mut self) -> Result<(), Status> {
        loop {
            if self.next().await?.is_none() {
                return Ok(());
            }
        }
    }
}

/// Looks again and again until something is so.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut check: impl FnMut() -> F) {
    let waited = timeout(LONG, async {
        while !check().await {
            tokio::time::sleep_until(tokio::time::Instant::now() + Duration::from_millis(20)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A folder whose store knows a token of the account `other`, and that token.
async fn with_foreign_token() -> (TempDir, ProxyToken) {
    let folder = tempfile::tempdir().expect("tempdir");
    let token = ProxyToken::random();
    let store = Store::open(folder.path()).await.expect("opens");
    let foreign = StoredToken {
        name: "foreign".into(),
        account: AccountId::parse("other").expect("id"),
        hash: token.hash(),
        created: 0,
        last_used: None,
    };
    assert!(store.add_token(&foreign).await.expect("adds"));
    store.close().await;
    (folder, token)
}
