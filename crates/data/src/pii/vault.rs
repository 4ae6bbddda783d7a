use std::collections::BTreeMap;
use std::path::Path;

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use rand::Rng;
use serde::{Deserialize, Serialize};

use super::PiiKey;
use crate::DataError;

/// What placeholders hide: for each record (or for the corpus) the original behind each placeholder.
///
/// On disk it is sealed by XChaCha20-Poly1305: without the key nothing of it can be read, and a changed byte
/// is noticed. The file is `FTPII`, a version byte, a random 24-byte nonce, and the sealed JSON.
///
/// ```
/// use ferrotune_data::pii::{PiiKey, Vault};
/// let mut vault = Vault::new();
/// vault.insert("row-1", "[EMAIL_1]", "sam@example.org").unwrap();
/// let key = PiiKey::generate();
/// let sealed = vault.seal(&key);
/// assert!(!sealed.windows(3).any(|w| w == b"sam"));
/// let opened = Vault::open(&sealed, &key).unwrap();
/// assert_eq!(opened.restore("row-1", "Write to [EMAIL_1]."), "Write to sam@example.org.");
/// assert!(Vault::open(&sealed, &PiiKey::generate()).is_err());
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vault {
    /// Scope (a record's id, or empty for the corpus), then placeholder, then original.
    originals: BTreeMap<String, BTreeMap<String, String>>,
}

const MAGIC: &[u8; 6] = b"FTPII\x01";
const NONCE: usize = 24;

impl Vault {
    /// An empty one.
    pub fn new() -> Self {
        Vault::default()
    }

    /// Keeps the original behind a placeholder. `scope` is the record's id, or empty for the corpus.
    ///
    /// # Errors
    /// [`DataError::Vault`] where the placeholder already hides another value in this scope: two records
    /// share an id.
    pub fn insert(&mut self, scope: &str, placeholder: &str, original: &str) -> Result<(), DataError> {
        let scope_originals = self.originals.entry(scope.to_owned()).or_default();
        match scope_originals.get(placeholder) {
            Some(known) if known != original => Err(DataError::Vault(format!(
                "{placeholder} of {scope:?} hides two values: is the id unique?"
            ))),
            Some(_) => Ok(()),
            None => {
                scope_originals.insert(placeholder.to_owned(), original.to_owned());
                Ok(())
            }
        }
    }

    /// How many originals it holds.
    pub fn len(&self) -> usize {
        self.originals.values().map(BTreeMap::len).sum()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.originals.is_empty()
    }

    /// `text` with every placeholder that the scope knows replaced by its original; others stay.
    pub fn restore(&self, scope: &str, text: &str) -> String {
        let Some(originals) = self.originals.get(scope) else { return text.to_owned() };
        let mut fresh = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(open) = rest.find('[') {
            fresh.push_str(&rest[..open]);
            rest = &rest[open..];
            let end = rest.find(']').map_or(0, |close| close + 1);
            if let Some(original) = originals.get(&rest[..end]) {
                fresh.push_str(original);
                rest = &rest[end..];
            } else {
                fresh.push('[');
                rest = &rest[1..];
            }
        }
        fresh + rest
    }

    /// The sealed bytes.
    pub fn seal(&self, key: &PiiKey) -> Vec<u8> {
        let mut nonce = [0; NONCE];
        rand::rng().fill_bytes(&mut nonce);
        let plain = serde_json::to_vec(self).expect("maps of strings are JSON");
        let payload = Payload { msg: &plain, aad: MAGIC };
        let sealed =
            cipher(key).encrypt(&XNonce::from(nonce), payload).expect("a vault is far below 256 GiB");
        [&MAGIC[..], &nonce, &sealed].concat()
    }

    /// Opens sealed bytes.
    ///
    /// # Errors
    /// [`DataError::Vault`] where they are no vault, were changed, or the key is another one.
    pub fn open(bytes: &[u8], key: &PiiKey) -> Result<Self, DataError> {
        let bad = |why: &str| DataError::Vault(why.to_owned());
        let rest = bytes.strip_prefix(MAGIC).ok_or_else(|| bad("this is no vault, or of another version"))?;
        let (nonce, sealed) =
            rest.split_first_chunk::<NONCE>().ok_or_else(|| bad("the file is cut short"))?;
        let payload = Payload { msg: sealed, aad: MAGIC };
        let plain = cipher(key)
            .decrypt(&XNonce::from(*nonce), payload)
            .map_err(|_| bad("the key is another one, or the file was changed"))?;
        serde_json::from_slice(&plain).map_err(|e| bad(&format!("the content cannot be read: {e}")))
    }

    /// Writes the sealed vault to a file.
    ///
    /// # Errors
    /// [`DataError::Io`].
    pub fn save(&self, path: &Path, key: &PiiKey) -> Result<(), DataError> {
        std::fs::write(path, self.seal(key)).map_err(DataError::io("write", path))
    }

    /// Reads a sealed vault from a file.
    ///
    /// # Errors
    /// [`DataError::Io`], [`DataError::Vault`].
    pub fn load(path: &Path, key: &PiiKey) -> Result<Self, DataError> {
        Vault::open(&std::fs::read(path).map_err(DataError::io("read", path))?, key)
    }
}

fn cipher(key: &PiiKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&key.mac("vault", &[]).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_told() {
        let key = PiiKey::generate();
        let sealed = Vault::new().seal(&key);
        let check = |bytes: &[u8], expect: &str| {
            let error = Vault::open(bytes, &key).unwrap_err().to_string();
            assert!(error.contains(expect), "{error}");
        };
        check(b"", "no vault");
        check(b"FTPII\x02", "no vault");
        check(&sealed[..20], "cut short");
        check(&sealed[..sealed.len() - 1], "changed");
        let mut changed = sealed.clone();
        changed[40] ^= 1;
        check(&changed, "changed");
    }

    #[test]
    fn one_placeholder_hides_one_value() {
        let mut vault = Vault::new();
        vault.insert("a", "[EMAIL_1]", "x@y.org").unwrap();
        vault.insert("a", "[EMAIL_1]", "x@y.org").unwrap();
        vault.insert("b", "[EMAIL_1]", "z@y.org").unwrap();
        assert!(vault.insert("a", "[EMAIL_1]", "z@y.org").is_err());
        assert_eq!(vault.len(), 2);
        assert_eq!(vault.restore("b", "[[EMAIL_1] [EMAIL_2] ["), "[z@y.org [EMAIL_2] [");
        assert_eq!(vault.restore("c", "[EMAIL_1]"), "[EMAIL_1]");
    }
}
