//! Stories with an end of their own, each run alone.

use crate::Arguments;

/// Runs one by its name.
pub(crate) async fn run(name: &str, _arguments: &Arguments) -> anyhow::Result<bool> {
    anyhow::bail!("there is no scenario `{name}`")
}
