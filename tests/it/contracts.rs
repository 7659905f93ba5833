//! The committed contracts are those of this version.

use std::path::Path;

#[test]
fn the_contracts_are_as_committed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/contracts");
    for (name, text) in campaign_dispatch::contracts::all().unwrap() {
        let committed = std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert!(committed == text, "{name} differs: run `campaign-dispatch contracts --write deploy/contracts`");
    }
}
