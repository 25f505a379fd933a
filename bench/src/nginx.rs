//! nginx from Debian, unpacked beside the benchmark: as the peer, and as the upstream of both sides.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::certificate;
use crate::load::{HOST, Load, Proxy};
use crate::machine;
use crate::process::{Place, Process};
use crate::unpacked::Unpacked;

/// An unpacked nginx.
pub(crate) struct Nginx {
    unpacked: Unpacked,
}

/// Where a server listens, and where that is seen from here.
#[derive(Clone, Copy)]
pub(crate) struct Listen {
    pub(crate) at: SocketAddr,
    pub(crate) seen_at: SocketAddr,
}

impl From<SocketAddr> for Listen {
    fn from(at: SocketAddr) -> Self {
        Self { at, seen_at: at }
    }
}

impl Nginx {
    /// Downloads and unpacks it unless it is there.
    pub(crate) fn obtain() -> Result<Self> {
        Ok(Self { unpacked: Unpacked::obtain("nginx")? })
    }

    /// Of the Debian package.
    pub(crate) fn version(&self) -> &str {
        &self.unpacked.version
    }

    /// Serves files of the loads' sizes over plain HTTP.
    pub(crate) fn start_upstream(
        &self,
        place: Place,
        folder: &Path,
        loads: &[Load],
        listen: impl Into<Listen>,
    ) -> Result<Process> {
        let listen = listen.into();
        let files = folder.join("files");
        fs::create_dir(&files).with_context(|| format!("cannot create {}", files.display()))?;
        for load in loads {
            let file = files.join(load.path.trim_start_matches('/'));
            fs::write(&file, vec![b'x'; load.size]).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let http = format!(
            "access_log off;
             sendfile on;
             tcp_nopush on;
             open_file_cache max=16 inactive=1h;
             open_file_cache_valid 1h;
             server {{ listen {} reuseport; root {files:?}; }}",
            listen.at
        );
        self.start("the upstream", place, folder, &http, listen)
    }

    /// Does what Postern does with a public request: TLS 1.3, and the rest as [`start_plain_proxy`](Self::start_plain_proxy).
    pub(crate) fn start_proxy(&self, place: Place, folder: &Path, upstream: SocketAddr) -> Result<Proxy> {
        let pair = certificate::issue(HOST)?;
        let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
        fs::write(&chain, &pair.chain).with_context(|| format!("cannot write {}", chain.display()))?;
        fs::write(&key, &pair.key).with_context(|| format!("cannot write {}", key.display()))?;
        let address = free_address()?;
        let listen = format!(
            "listen {address} ssl reuseport;
             ssl_certificate {chain:?};
             ssl_certificate_key {key:?};
             ssl_protocols TLSv1.3;"
        );
        let http = proxy_configuration(folder, upstream, &listen);
        let process = self.start("nginx", place, folder, &http, address.into())?;
        Ok(Proxy { process, address, ca: pair.ca })
    }

    /// Does what Postern does with a request of a peer: forwarded headers, upstream connections that stay, a log line per
    /// request.
    pub(crate) fn start_plain_proxy(
        &self,
        place: Place,
        folder: &Path,
        upstream: SocketAddr,
        address: SocketAddr,
    ) -> Result<Process> {
        let http = proxy_configuration(folder, upstream, &format!("listen {address} reuseport;"));
        self.start("nginx", place, folder, &http, address.into())
    }

    fn start(&self, name: &'static str, place: Place, folder: &Path, http: &str, listen: Listen) -> Result<Process> {
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, main_configuration(http))
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let mut command = self.unpacked.command(place, "usr/sbin/nginx");
        command
            .args(["-e", "stderr", "-p"])
            .arg(folder)
            .arg("-c")
            .arg(&configuration)
            // This machine's settings of TLS are for its own OpenSSL.
            .env("OPENSSL_CONF", "/dev/null");
        let mut process = Process::spawn(name, command, folder.join("nginx.log"))?;
        machine::poll(name, Duration::from_secs(10), || {
            process.check()?;
            Ok(TcpStream::connect(listen.seen_at).ok())
        })?;
        Ok(process)
    }
}

/// Set for speed where nginx leaves a choice: a buffered log, no temporary files, buffers of one TLS record each (the
/// cheapest of 4, 16, 32 and 64 KiB per MiB sent).
fn proxy_configuration(folder: &Path, upstream: SocketAddr, listen: &str) -> String {
    let log = folder.join("access.log");
    format!(
        "access_log {log:?} combined buffer=64k flush=1s;
         upstream origin {{
             server {upstream};
             keepalive 128;
             keepalive_requests 1000000000;
         }}
         server {{
             {listen}
             server_name {HOST};
             location / {{
                 proxy_pass http://origin;
                 proxy_http_version 1.1;
                 proxy_set_header Connection \"\";
                 proxy_set_header Host $http_host;
                 proxy_set_header X-Real-IP $remote_addr;
                 proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                 proxy_set_header X-Forwarded-Host $http_host;
                 proxy_set_header X-Forwarded-Proto $scheme;
                 proxy_set_header X-Forwarded-Port $server_port;
                 proxy_max_temp_file_size 0;
                 proxy_buffers 16 16k;
                 proxy_busy_buffers_size 128k;
             }}
         }}"
    )
}

/// One worker, everything written below the prefix.
fn main_configuration(http: &str) -> String {
    format!(
        "daemon off;
         worker_processes 1;
         user root root;
         pid nginx.pid;
         error_log stderr error;
         events {{ worker_connections 4096; }}
         http {{
             default_type application/octet-stream;
             keepalive_requests 1000000000;
             client_body_temp_path body;
             proxy_temp_path proxy;
             fastcgi_temp_path fastcgi;
             uwsgi_temp_path uwsgi;
             scgi_temp_path scgi;
             {http}
         }}\n"
    )
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on loopback")?;
    Ok(listener.local_addr()?)
}
