use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use postern_model::Secret;
use serde::{Serialize, Serializer};

use crate::failure::Failure;
use crate::private_file;

/// What a script needs to know of a running `postern up`: printed with `--json`, written to `--ready-file`.
#[derive(Debug, Serialize)]
pub(crate) struct Ready {
    pub(crate) pid: u32,
    pub(crate) https: SocketAddr,
    pub(crate) management: Option<SocketAddr>,
    pub(crate) health: Option<SocketAddr>,
    /// `None` where the certificate comes from elsewhere.
    pub(crate) ca_file: Option<PathBuf>,
    pub(crate) data_dir: PathBuf,
    /// The wg-quick file of a tunnel peer to try the demo with; `None` for somebody's own services, or without a tunnel.
    pub(crate) demo_peer_conf: Option<PathBuf>,
    pub(crate) services: Vec<ReadyService>,
}

/// One published service.
#[derive(Debug, Serialize)]
pub(crate) struct ReadyService {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) url: String,
    /// Who may enter, where that is somebody.
    pub(crate) user: Option<String>,
    /// Only where it was made up for this run.
    #[serde(serialize_with = "exposed")]
    pub(crate) password: Option<Secret>,
    /// A group whose peers enter; for people, who have to name one.
    #[serde(skip)]
    pub(crate) group: Option<String>,
    /// Why it is of no use at the moment, and what to do; one sentence.
    pub(crate) problem: Option<String>,
}

/// Who may enter a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Open,
    Basic,
    /// Peers of the tunnel, by group.
    Private,
}

impl Ready {
    /// One line of JSON.
    pub(crate) fn json(&self) -> String {
        serde_json::to_string(self).expect("paths come from text and the rest is plain")
    }

    /// Writes the JSON so that whoever sees the file sees all of it; it holds a password, so only for this user.
    pub(crate) fn write(&self, path: &Path) -> Result<(), Failure> {
        private_file::replace(path, &(self.json() + "\n")).map_err(|error| {
            let path = path.display();
            Failure::running(format!("cannot write {path}: {error}; give --ready-file a path this user may write to"))
        })
    }
}

fn exposed<S: Serializer>(password: &Option<Secret>, serializer: S) -> Result<S::Ok, S::Error> {
    password.as_ref().map(Secret::expose).serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_has_the_promised_shape() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ready.json");
        let services = vec![
            ReadyService {
                name: "hello".into(),
                kind: Kind::Open,
                url: "https://h:1".into(),
                user: None,
                password: None,
                group: None,
                problem: Some("no".into()),
            },
            ReadyService {
                name: "vault".into(),
                kind: Kind::Basic,
                url: "https://v:1".into(),
                user: Some("guest".into()),
                password: Some(Secret::from("pw")),
                group: Some("eng".into()),
                problem: None,
            },
        ];
        let ready = Ready {
            pid: 1,
            https: "127.0.0.1:8443".parse().unwrap(),
            management: Some("127.0.0.1:33073".parse().unwrap()),
            health: None,
            ca_file: Some("/d/ca.pem".into()),
            data_dir: "/d".into(),
            demo_peer_conf: None,
            services,
        };
        ready.write(&path).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let wanted = serde_json::json!({
            "pid": 1, "https": "127.0.0.1:8443", "management": "127.0.0.1:33073", "health": null, "ca_file": "/d/ca.pem",
            "data_dir": "/d", "demo_peer_conf": null,
            "services": [
                {"name": "hello", "kind": "open", "url": "https://h:1", "user": null, "password": null, "problem": "no"},
                {"name": "vault", "kind": "basic", "url": "https://v:1", "user": "guest", "password": "pw", "problem": null},
            ],
        });
        assert_eq!(read, wanted);
        assert!(!format!("{ready:?}").contains("pw"));
        assert!(ready.write(&folder.path().join("no/such/folder")).is_err());
    }
}
