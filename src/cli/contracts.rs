//! `contracts`: writes what upstream services build against, or compares it with what is committed.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::{cli::output, contracts};

/// Where the contracts are.
#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
pub(super) struct ContractsArgs {
    /// Write them here
    #[arg(long, value_name = "DIR")]
    write: Option<PathBuf>,
    /// Fail when what is here differs
    #[arg(long, value_name = "DIR")]
    check: Option<PathBuf>,
}

pub(super) fn run(args: &ContractsArgs) -> anyhow::Result<()> {
    let files = contracts::all()?;
    if let Some(folder) = &args.write {
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        for (name, text) in &files {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
        }
        return output::line(&format!("wrote {} contracts to {}", files.len(), folder.display()));
    }
    let folder = args.check.clone().unwrap_or_default();
    let differ: Vec<_> = files
        .iter()
        .filter(|(name, text)| std::fs::read_to_string(folder.join(name)).ok().as_ref() != Some(text))
        .map(|(name, _)| *name)
        .collect();
    if differ.is_empty() {
        return output::line("the contracts are as committed");
    }
    bail!("{} differ from this version: `campaign-dispatch contracts --write {}`", differ.join(", "), folder.display())
}
