//! Credentials at rest: JSON under XChaCha20-Poly1305 with `secrets.key`.

use std::collections::BTreeMap;

use chacha20poly1305::{
    KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, Payload},
};
use hmac::{Hmac, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

use crate::providers::Credentials;

/// Binds a sealed text to its use, so that one cannot be put in another's place.
const CONTEXT: &[u8] = b"campaign-dispatch credentials v1";
const NONCE: usize = 24;

/// Seals and opens credentials with the installation's key.
#[derive(Clone)]
pub struct Vault {
    key: [u8; 32],
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vault")
    }
}

/// Why credentials could not be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Another key sealed them, or they were changed.
    #[error("the credentials were sealed with another secrets.key, or were changed")]
    WrongKey,
    /// They are not what `seal` writes.
    #[error("the credentials are not readable")]
    Malformed,
}

impl Vault {
    /// A vault with this key.
    pub const fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    /// Seals secrets by name.
    pub fn seal(&self, credentials: &Credentials) -> Result<Vec<u8>, VaultError> {
        let plain: BTreeMap<&str, &str> =
            credentials.0.iter().map(|(name, secret)| (name.as_str(), secret.expose_secret())).collect();
        let plain = serde_json::to_vec(&plain).map_err(|_| VaultError::Malformed)?;
        let nonce: [u8; NONCE] = rand::random();
        let sealed = self
            .cipher()
            .encrypt(XNonce::from_slice(&nonce), Payload { msg: &plain, aad: CONTEXT })
            .map_err(|_| VaultError::Malformed)?;
        Ok([nonce.as_slice(), &sealed].concat())
    }

    /// Opens what [`Vault::seal`] wrote.
    pub fn open(&self, sealed: &[u8]) -> Result<Credentials, VaultError> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE).ok_or(VaultError::Malformed)?;
        let plain = self
            .cipher()
            .decrypt(XNonce::from_slice(nonce), Payload { msg: sealed, aad: CONTEXT })
            .map_err(|_| VaultError::WrongKey)?;
        let plain: BTreeMap<String, String> = serde_json::from_slice(&plain).map_err(|_| VaultError::Malformed)?;
        Ok(Credentials(plain.into_iter().map(|(name, secret)| (name, SecretString::from(secret))).collect()))
    }

    /// A digest that is equal for equal secrets and says nothing about them without the key.
    pub fn digest(&self, secret: &SecretString) -> Vec<u8> {
        let Ok(mut mac) = <Hmac<Sha256> as hmac::Mac>::new_from_slice(&self.key) else {
            return Vec::new();
        };
        mac.update(secret.expose_secret().as_bytes());
        mac.finalize().into_bytes().to_vec()
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new((&self.key).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_with_the_same_key_only() {
        let credentials = Credentials(BTreeMap::from([("access_token".to_owned(), SecretString::from("s3cret"))]));
        let sealed = Vault::new([1; 32]).seal(&credentials).unwrap();
        assert!(!sealed.windows(6).any(|w| w == b"s3cret"));
        let opened = Vault::new([1; 32]).open(&sealed).unwrap();
        assert_eq!(opened.get("access_token").map(|s| s.expose_secret().to_owned()), Some("s3cret".to_owned()));
        assert_eq!(Vault::new([2; 32]).open(&sealed).unwrap_err(), VaultError::WrongKey);
    }
}
