use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use rand::Rng;
use sha2::Sha256;

use crate::DataError;

/// The 256-bit secret behind pseudonyms, fakes and the vault. Each use gets a key of its own, derived from it.
#[derive(Clone)]
pub struct PiiKey([u8; 32]);

impl fmt::Debug for PiiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PiiKey(…)")
    }
}

impl PiiKey {
    /// A new random key.
    pub fn generate() -> Self {
        let mut bytes = [0; 32];
        rand::rng().fill_bytes(&mut bytes);
        PiiKey(bytes)
    }

    /// 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`DataError::Vault`] where it is anything else.
    pub fn from_hex(hex: &str) -> Result<Self, DataError> {
        let hex = hex.trim();
        let mut bytes = [0; 32];
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(DataError::Vault(format!(
                "a key is 64 hexadecimal digits, this one has {}",
                hex.len()
            )));
        }
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).unwrap_or("?");
            *byte = u8::from_str_radix(pair, 16)
                .map_err(|_| DataError::Vault("a key is 64 hexadecimal digits".to_owned()))?;
        }
        Ok(PiiKey(bytes))
    }

    /// From an environment variable, so that it stands in no file and no command line.
    ///
    /// # Errors
    /// [`DataError::Vault`] where the variable is not set or holds no key.
    pub fn from_env(variable: &str) -> Result<Self, DataError> {
        let hex = std::env::var(variable).map_err(|_| {
            DataError::Vault(format!("set {variable} to 64 hexadecimal digits (openssl rand -hex 32)"))
        })?;
        PiiKey::from_hex(&hex)
    }

    /// 64 hexadecimal digits, to be kept in a safe place.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// HMAC-SHA-256 of `parts` (each with its length, so that no two lists look alike) for one `purpose`.
    pub(crate) fn mac(&self, purpose: &str, parts: &[&str]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        for part in std::iter::once(&purpose).chain(parts) {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part.as_bytes());
        }
        mac.finalize().into_bytes().into()
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::new(), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_text_and_a_bad_one_is_refused() {
        let key = PiiKey::generate();
        assert_eq!(PiiKey::from_hex(&key.to_hex()).unwrap().0, key.0);
        assert_ne!(key.mac("a", &["bc"]), key.mac("a", &["b", "c"]));
        for bad in ["", "12", &"g".repeat(64), &"é".repeat(32)] {
            assert!(PiiKey::from_hex(bad).is_err(), "{bad}");
        }
        assert!(!format!("{key:?}").contains(&key.to_hex()[..4]));
    }

    #[test]
    fn the_code_is_hmac_sha256() {
        // python: hmac.new(b"\0"*32, (1).to_bytes(8,"little")+b"p"+(1).to_bytes(8,"little")+b"x", "sha256").hexdigest()
        let code = PiiKey([0; 32]).mac("p", &["x"]);
        assert_eq!(hex(&code[..8]), HMAC_GOLDEN);
    }
    const HMAC_GOLDEN: &str = "a153212b44b2e393";
}
