//! nginx from Debian, unpacked beside the benchmark: as the peer, and as the upstream of both sides.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::certificate;
use crate::load::{HOST, Load, Proxy};
use crate::machine;
use crate::process::{self, Process};
use crate::run_folder::bench_folder;

/// An unpacked nginx.
pub(crate) struct Nginx {
    root: PathBuf,
    loader: PathBuf,
    /// Of the Debian package.
    pub(crate) version: String,
}

impl Nginx {
    /// Downloads and unpacks it unless it is there.
    pub(crate) fn obtain() -> Result<Self> {
        let script = bench_folder().join("peers.sh");
        let status = Command::new(&script).arg("nginx").status();
        let status = status.with_context(|| format!("cannot run {}", script.display()))?;
        ensure!(status.success(), "nginx could not be fetched: the lines above say why");

        let folder = bench_folder().join(".peers/nginx");
        let version = fs::read_to_string(folder.join("version")).context("the unpacked nginx has no version")?;
        let root = folder.join("root");
        Ok(Self { loader: find_loader(&root)?, root, version: version.trim().to_owned() })
    }

    /// Serves files of the loads' sizes over plain HTTP.
    pub(crate) fn start_upstream(&self, core: usize, folder: &Path, loads: &[Load]) -> Result<(Process, SocketAddr)> {
        let files = folder.join("files");
        fs::create_dir(&files).with_context(|| format!("cannot create {}", files.display()))?;
        for load in loads {
            let file = files.join(load.path.trim_start_matches('/'));
            fs::write(&file, vec![b'x'; load.size]).with_context(|| format!("cannot write {}", file.display()))?;
        }
        let address = free_address()?;
        let http = format!(
            "access_log off;
             sendfile on;
             tcp_nopush on;
             open_file_cache max=16 inactive=1h;
             open_file_cache_valid 1h;
             server {{ listen {address} reuseport; root {files:?}; }}"
        );
        Ok((self.start("the upstream", core, folder, &http, address)?, address))
    }

    /// Does what Postern does with a public request: TLS 1.3, forwarded headers, upstream connections that stay, a log
    /// line per request. Set for speed where nginx leaves a choice: a buffered log, no temporary files, buffers of one
    /// TLS record each (the cheapest of 4, 16, 32 and 64 KiB per MiB sent).
    pub(crate) fn start_proxy(&self, core: usize, folder: &Path, upstream: SocketAddr) -> Result<Proxy> {
        let pair = certificate::issue(HOST)?;
        let (chain, key) = (folder.join("chain.pem"), folder.join("key.pem"));
        fs::write(&chain, &pair.chain).with_context(|| format!("cannot write {}", chain.display()))?;
        fs::write(&key, &pair.key).with_context(|| format!("cannot write {}", key.display()))?;
        let address = free_address()?;
        let log = folder.join("access.log");
        let http = format!(
            "access_log {log:?} combined buffer=64k flush=1s;
             upstream origin {{
                 server {upstream};
                 keepalive 128;
                 keepalive_requests 1000000000;
             }}
             server {{
                 listen {address} ssl reuseport;
                 server_name {HOST};
                 ssl_certificate {chain:?};
                 ssl_certificate_key {key:?};
                 ssl_protocols TLSv1.3;
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
        );
        let process = self.start("nginx", core, folder, &http, address)?;
        Ok(Proxy { process, address, ca: pair.ca })
    }

    fn start(
        &self,
        name: &'static str,
        core: usize,
        folder: &Path,
        http: &str,
        address: SocketAddr,
    ) -> Result<Process> {
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, main_configuration(http))
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let mut command = process::pinned(core, &self.loader);
        command
            .arg("--library-path")
            .arg(self.loader.parent().unwrap_or(&self.root))
            .arg(self.root.join("usr/sbin/nginx"))
            .args(["-e", "stderr", "-p"])
            .arg(folder)
            .arg("-c")
            .arg(&configuration)
            // This machine's settings of TLS are for its own OpenSSL.
            .env("OPENSSL_CONF", "/dev/null");
        let mut process = Process::spawn(name, command, folder.join("nginx.log"))?;
        machine::poll(name, Duration::from_secs(10), || {
            process.check()?;
            Ok(TcpStream::connect(address).ok())
        })?;
        Ok(process)
    }
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

/// The loader lies beside the C library, in a folder named after the architecture.
fn find_loader(root: &Path) -> Result<PathBuf> {
    let libraries = root.join("usr/lib");
    let folders = fs::read_dir(&libraries).with_context(|| format!("cannot read {}", libraries.display()))?;
    let mut files = folders.flatten().filter_map(|folder| fs::read_dir(folder.path()).ok()).flatten().flatten();
    let loader = files.find(|file| file.file_name().to_string_lossy().starts_with("ld-linux"));
    Ok(loader.with_context(|| format!("no loader below {}", libraries.display()))?.path())
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on loopback")?;
    Ok(listener.local_addr()?)
}
