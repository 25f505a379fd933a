//! Who we are in an account's tunnel, kept on disk: a restart is the same peer at the same port.

use std::fmt::{self, Write as _};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use postern_model::{AccountId, InvalidKey, PublicKey};
use postern_netstack::PrivateKey;
use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use crate::folder::Folder;

/// Reads a WireGuard private key: the 44 characters that `wg genkey` prints.
///
/// # Errors
/// [`InvalidKey`] for anything but 32 bytes in base64.
pub fn parse_private_key(text: &str) -> Result<PrivateKey, InvalidKey> {
    Ok(PrivateKey::from_bytes(*secret(text)?))
}

/// Our key in one account's tunnel, with the UDP port and the addresses that went with it last. It lives in one file per
/// account that only its owner can read.
pub struct Identity {
    path: PathBuf,
    secret: Zeroizing<[u8; 32]>,
    port: u16,
    addresses: Vec<IpAddr>,
}

/// Why there is no identity. Whoever reads it never loses a key: a file that cannot be understood is left as it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file is there and cannot be read.
    #[error("cannot read the tunnel key {}: {source}; make it readable, or move it away to become a new peer", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("the tunnel key {} is damaged ({what}); restore it, or move it away to become a new peer", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never a part of the key.
        what: String,
    },
    /// Others may read the file, and that cannot be changed.
    #[error("others can read the tunnel key {} and that cannot be mended: {source}; make it yours and run chmod 600", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file cannot be written.
    #[error("cannot write the tunnel key {}: {source}; make its folder writable", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Identity {
    /// Reads the account's identity in `folder`, or makes one there. Blocks on the disk.
    ///
    /// # Errors
    /// [`IdentityError`]; only a file that does not exist is made.
    pub fn load(folder: &Folder, account: &AccountId) -> Result<Self, IdentityError> {
        let path = file_of(folder.path(), account);
        match fs::read_to_string(&path) {
            Ok(text) => {
                let text = Zeroizing::new(text);
                close_to_others(&path)?;
                parse(path.clone(), &text).map_err(|what| IdentityError::Malformed { path, what })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(IdentityError::Malformed { path, what: "it is not text".to_owned() })
            }
            Err(source) => Err(IdentityError::Read { path, source }),
        }
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> PrivateKey {
        PrivateKey::from_bytes(*self.secret)
    }

    /// What peers know us by.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.key().public())
    }

    /// The UDP port of last time; 0 if there was none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Our addresses in the tunnel, of last time.
    #[must_use]
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Keeps port and addresses for the next start. Writes, and blocks on the disk, only if something is different.
    ///
    /// # Errors
    /// [`IdentityError::Write`].
    pub fn keep(&mut self, port: u16, addresses: &[IpAddr]) -> Result<(), IdentityError> {
        if self.port == port && self.addresses == addresses {
            return Ok(());
        }
        self.port = port;
        addresses.clone_into(&mut self.addresses);
        self.write()
    }

    fn make(path: PathBuf) -> Result<Self, IdentityError> {
        let mut secret = Zeroizing::new([0; 32]);
        SysRng.try_fill_bytes(&mut *secret).expect("the system has randomness");
        let identity = Self { path, secret, port: 0, addresses: Vec::new() };
        identity.write()?;
        Ok(identity)
    }

    /// Whoever reads the file, even after a crash, finds the old text or the new one.
    fn write(&self) -> Result<(), IdentityError> {
        let write = || -> io::Result<()> {
            let folder = self.path.parent().unwrap_or(Path::new("."));
            DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
            let temporary = self.path.with_extension(format!("tmp-{}", std::process::id()));
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            // A file that was already there keeps its own mode through `open`.
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(self.text().as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)?;
            File::open(folder)?.sync_all()
        };
        write().map_err(|source| IdentityError::Write { path: self.path.clone(), source })
    }

    fn text(&self) -> Zeroizing<String> {
        // Room for all of it, so that no smaller copy with the key in it is left behind by growing.
        let mut text = Zeroizing::new(String::with_capacity(512));
        let key = Zeroizing::new(STANDARD.encode(*self.secret));
        let addresses: Vec<_> = self.addresses.iter().map(IpAddr::to_string).collect();
        text.push_str("# Postern's key in a tunnel. Whoever has it is this proxy: keep it secret.\n");
        write!(text, "private_key = {}\nport = {}\naddresses = {}\n", *key, self.port, addresses.join(", "))
            .expect("a String takes everything");
        text
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("path", &self.path).field("port", &self.port).finish_non_exhaustive()
    }
}

/// One file per account, whatever the account's id is: what is not a letter, digit, `-` or `_` becomes `%` and two
/// hexadecimal digits, and an id too long for a file name continues in folders.
fn file_of(folder: &Path, account: &AccountId) -> PathBuf {
    // File systems take 255 bytes; the rest is for endings.
    const LONGEST: usize = 200;
    let mut name = String::new();
    for byte in account.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            name.push(char::from(byte));
        } else {
            write!(name, "%{byte:02X}").expect("a String takes everything");
        }
    }
    let mut path = folder.to_owned();
    let mut rest = name.as_str();
    while rest.len() > LONGEST {
        let (part, others) = rest.split_at(LONGEST);
        path.push(part);
        rest = others;
    }
    path.push(format!("{rest}.key"));
    path
}

fn close_to_others(path: &Path) -> Result<(), IdentityError> {
    let mend = || -> io::Result<()> {
        let mode = fs::metadata(path)?.permissions().mode();
        if mode & 0o077 != 0 {
            tracing::warn!(path = %path.display(), "others could read this tunnel key; its permissions are 0600 from here on");
            fs::set_permissions(path, Permissions::from_mode(0o600))?;
        }
        Ok(())
    };
    mend().map_err(|source| IdentityError::Exposed { path: path.to_owned(), source })
}

fn parse(path: PathBuf, text: &str) -> Result<Identity, String> {
    let (mut key, mut port, mut addresses) = (None, None, None);
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').ok_or_else(|| format!("line {number} is not `name = value`"))?;
        let value = value.trim();
        let again = match name.trim() {
            "private_key" => key.replace(secret(value).map_err(|_| format!("line {number} is no key"))?).is_some(),
            "port" => port.replace(value.parse().map_err(|_| format!("line {number} is no port"))?).is_some(),
            "addresses" => {
                addresses.replace(list(value).ok_or_else(|| format!("line {number} is no addresses"))?).is_some()
            }
            _ => return Err(format!("line {number} is unknown")),
        };
        if again {
            return Err(format!("line {number} says the same thing again"));
        }
    }
    let secret = key.ok_or("it has no private_key")?;
    Ok(Identity { path, secret, port: port.unwrap_or(0), addresses: addresses.unwrap_or_default() })
}

fn secret(text: &str) -> Result<Zeroizing<[u8; 32]>, InvalidKey> {
    let bytes = Zeroizing::new(STANDARD.decode(text).map_err(|_| InvalidKey)?);
    let bytes: &[u8; 32] = bytes.as_slice().try_into().map_err(|_| InvalidKey)?;
    Ok(Zeroizing::new(*bytes))
}

fn list(text: &str) -> Option<Vec<IpAddr>> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(id: &str) -> AccountId {
        AccountId::parse(id).unwrap()
    }

    fn folder() -> (tempfile::TempDir, Folder) {
        let folder = tempfile::tempdir().unwrap();
        let keys = Folder::open(folder.path()).unwrap();
        (folder, keys)
    }

    #[test]
    fn a_restart_is_the_same_peer_at_the_same_port() {
        let (_folder, keys) = folder();
        let address = "100.72.0.1".parse().unwrap();
        let mut first = Identity::load(&keys, &account("a")).unwrap();
        assert_eq!((first.port(), first.addresses()), (0, &[][..]));
        first.keep(51820, &[address]).unwrap();
        let again = Identity::load(&keys, &account("a")).unwrap();
        assert_eq!((again.public_key(), again.port(), again.addresses()), (first.public_key(), 51820, &[address][..]));
        let other = Identity::load(&keys, &account("b")).unwrap();
        assert!(
            !format!("{other:?}").contains(&STANDARD.encode(*other.secret)) && !format!("{other:?}").contains("secret")
        );
        assert_ne!(other.public_key(), first.public_key());
    }

    #[test]
    fn what_does_not_change_is_not_written() {
        let (folder, keys) = folder();
        let mut identity = Identity::load(&keys, &account("a")).unwrap();
        identity.keep(1, &[]).unwrap();
        fs::remove_file(file_of(folder.path(), &account("a"))).unwrap();
        identity.keep(1, &[]).unwrap();
        assert!(!file_of(folder.path(), &account("a")).exists());
        identity.keep(2, &[]).unwrap();
        assert!(file_of(folder.path(), &account("a")).exists());
    }

    #[test]
    fn only_the_owner_reads_the_file_and_nothing_else_is_left_in_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("tunnel");
        let keys = Folder::open(&inner).unwrap();
        let identity = Identity::load(&keys, &account("a")).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let file = file_of(&inner, &account("a"));
        assert_eq!((mode(&inner), mode(&file)), (0o700, 0o600));
        assert_eq!(fs::read_dir(&inner).unwrap().count(), 2, "the key and the lock");
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        let again = Identity::load(&keys, &account("a")).unwrap();
        assert_eq!((again.public_key(), mode(&file)), (identity.public_key(), 0o600));
    }

    #[test]
    fn a_damaged_file_is_one_sentence_and_stays_as_it_is() {
        let (folder, keys) = folder();
        let good = STANDARD.encode([7; 32]);
        let file = file_of(folder.path(), &account("a"));
        for (text, what) in [
            (String::new(), "it has no private_key"),
            ("private_key".to_owned(), "line 1 is not `name = value`"),
            (format!("private_key = {}", &good[..40]), "line 1 is no key"),
            (format!("private_key = {good}\nport = 65536"), "line 2 is no port"),
            (format!("private_key = {good}\naddresses = here"), "line 2 is no addresses"),
            (format!("private_key = {good}\ncolour = red"), "line 2 is unknown"),
            (format!("private_key = {good}\nprivate_key = {good}"), "line 2 says the same thing again"),
        ] {
            fs::write(&file, &text).unwrap();
            let error = Identity::load(&keys, &account("a")).unwrap_err();
            let IdentityError::Malformed { what: said, .. } = &error else { panic!("{error}") };
            assert_eq!(said, what);
            assert!(!error.to_string().contains(&good[..40]) && !error.to_string().contains('\n'));
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        fs::write(&file, [0xff, 0xfe]).unwrap();
        assert!(matches!(Identity::load(&keys, &account("a")), Err(IdentityError::Malformed { .. })));
        fs::write(&file, format!("# mine\n\nprivate_key = {good}\nport = 65535\naddresses = 10.0.0.1, fd7a::1\n"))
            .unwrap();
        let identity = Identity::load(&keys, &account("a")).unwrap();
        assert_eq!((*identity.secret, identity.port(), identity.addresses().len()), ([7; 32], 65535, 2));
    }

    #[test]
    fn an_unreadable_file_and_an_unwritable_folder_are_errors() {
        let (folder, keys) = folder();
        let file = file_of(folder.path(), &account("a"));
        fs::create_dir(&file).unwrap();
        assert!(matches!(Identity::load(&keys, &account("a")), Err(IdentityError::Read { .. })));
        fs::remove_dir(&file).unwrap();
        assert!(Identity::load(&keys, &account("a")).is_ok());
        let long = AccountId::parse(&"b".repeat(255)).unwrap();
        // Where its folder would be, there is a file.
        fs::write(folder.path().join("b".repeat(200)), "").unwrap();
        assert!(matches!(Identity::load(&keys, &long), Err(IdentityError::Read { .. })));
        // Where the text is written first, there is a folder.
        let temporary = file_of(folder.path(), &account("c")).with_extension(format!("tmp-{}", std::process::id()));
        fs::create_dir(&temporary).unwrap();
        assert!(matches!(Identity::load(&keys, &account("c")), Err(IdentityError::Write { .. })));
    }

    #[test]
    fn every_account_has_a_file_of_its_own_inside_the_folder() {
        let folder = Path::new("/data");
        let name = |id: &str| file_of(folder, &account(id)).to_string_lossy().into_owned();
        assert_eq!(name("acc-1_B"), "/data/acc-1_B.key");
        assert_eq!(name("../up"), "/data/%2E%2E%2Fup.key");
        assert_eq!(name("a%2Fb"), "/data/a%252Fb.key");
        assert_eq!(name("é"), "/data/%C3%A9.key");
        let long = "/".repeat(255);
        let path = file_of(folder, &account(&long));
        assert!(path.starts_with(folder));
        assert!(path.components().all(|part| part.as_os_str().len() <= 204));
        assert_ne!(path, file_of(folder, &account(&long[..254])));
    }

    #[test]
    fn a_private_key_is_44_characters_of_base64() {
        let text = STANDARD.encode([9; 32]);
        assert_eq!(parse_private_key(&text).unwrap().public(), PrivateKey::from_bytes([9; 32]).public());
        assert!(parse_private_key(&text[1..]).is_err());
        assert!(parse_private_key("").is_err());
    }
}
