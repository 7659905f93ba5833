//! Where the secrets of an account are found, and how they are fetched.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// Where a secret is found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum CredentialSource {
    /// In this environment variable.
    Env(String),
    /// In this file, relative to the registry file. One trailing line end is not part of the secret.
    File(PathBuf),
}

/// Why a secret could not be fetched. Never carries the secret.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The environment variable is missing or not text.
    #[error("the environment variable {name} cannot be used")]
    Env {
        /// The variable.
        name: String,
        /// Why.
        #[source]
        source: std::env::VarError,
    },
    /// The file cannot be read.
    #[error("could not read the secret in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing where the secret should be.
    #[error("the secret in {0} is empty")]
    Empty(String),
}

impl CredentialSource {
    /// Fetches the secret; a relative file path is taken from `base_dir`, the folder of the registry file.
    pub fn resolve(&self, base_dir: &Path) -> Result<SecretString, CredentialError> {
        let (secret, place) = match self {
            Self::Env(name) => {
                let value =
                    std::env::var(name).map_err(|source| CredentialError::Env { name: name.clone(), source })?;
                (value, name.clone())
            }
            Self::File(relative) => {
                let path = base_dir.join(relative);
                let text =
                    fs::read_to_string(&path).map_err(|source| CredentialError::File { path: path.clone(), source })?;
                let line = text.strip_suffix('\n').unwrap_or(&text);
                (line.strip_suffix('\r').unwrap_or(line).to_owned(), path.display().to_string())
            }
        };
        if secret.is_empty() { Err(CredentialError::Empty(place)) } else { Ok(SecretString::from(secret)) }
    }
}
