//! Which part may use which: dependencies point one way, and each I/O library lives where the design says.

use std::{fs, path::Path};

/// Module → the modules of this crate it may name.
const MAY_USE: &[(&str, &[&str])] = &[
    ("domain", &[]),
    ("settings", &["domain", "providers"]),
    ("providers", &["domain"]),
    ("broker", &["domain", "settings"]),
    ("store", &["domain", "providers"]),
    ("intake", &["broker", "domain", "settings", "store"]),
    ("dispatch", &["broker", "domain", "providers", "settings", "store"]),
    ("campaigns", &["broker", "domain", "settings", "store"]),
    ("callbacks", &["broker", "domain", "providers", "settings", "store"]),
    ("checklist", &["domain", "providers", "settings", "store"]),
    ("registry", &["domain", "providers", "settings", "store"]),
    ("upkeep", &["broker", "domain", "providers", "settings", "store"]),
    (
        "http",
        &[
            "broker",
            "campaigns",
            "checklist",
            "domain",
            "intake",
            "providers",
            "registry",
            "settings",
            "store",
            "upkeep",
        ],
    ),
    ("simulator", &["domain", "providers", "registry", "settings"]),
    (
        "app",
        &[
            "broker",
            "callbacks",
            "campaigns",
            "dispatch",
            "domain",
            "http",
            "intake",
            "providers",
            "settings",
            "store",
            "upkeep",
        ],
    ),
    (
        "cli",
        &[
            "app",
            "broker",
            "campaigns",
            "checklist",
            "domain",
            "http",
            "intake",
            "providers",
            "registry",
            "settings",
            "simulator",
            "store",
            "upkeep",
        ],
    ),
];

/// Library → the paths that may name it.
const LIVES_IN: &[(&str, &[&str])] = &[
    ("sqlx", &["store"]),
    ("lapin", &["broker"]),
    ("reqwest", &["providers", "cli/client.rs", "upkeep/notify.rs", "simulator"]),
    ("lettre", &["providers", "upkeep/notify.rs"]),
    ("axum", &["http", "callbacks", "simulator", "app"]),
    ("governor", &["dispatch", "providers/http.rs", "http"]),
    ("backoff", &["domain/retry.rs"]),
    ("cron", &["domain/schedule/"]),
];

fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let name = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
                found.push((name.to_string_lossy().into_owned(), fs::read_to_string(&path).unwrap()));
            }
        }
    }
    let mut found = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

/// The first words after every `needle`, comments left out, braces opened: `crate::{a, b::c}` names a and b.
fn named(text: &str, needle: &str) -> Vec<String> {
    let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut names = Vec::new();
    for (at, _) in code.match_indices(needle) {
        let rest = &code[at + needle.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            let (mut depth, mut word, mut fresh) = (0, String::new(), true);
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => fresh = true,
                    c if depth == 0 && fresh && (c.is_alphanumeric() || c == '_') => word.push(c),
                    _ => fresh = fresh && word.is_empty(),
                }
                if !word.is_empty() && !c.is_alphanumeric() && c != '_' {
                    names.push(std::mem::take(&mut word));
                    fresh = c == ',';
                }
            }
            names.extend((!word.is_empty()).then_some(word));
        } else {
            names.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    names
}

#[test]
fn dependencies_point_one_way() {
    let modules: Vec<&str> = MAY_USE.iter().map(|(module, _)| *module).collect();
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let Some((module, allowed)) = MAY_USE.iter().find(|(m, _)| file.starts_with(&format!("{m}/"))) else {
            continue;
        };
        for name in named(&text, "crate::") {
            if modules.contains(&name.as_str()) && name != *module && !allowed.contains(&name.as_str()) {
                wrong.push(format!("src/{file} uses crate::{name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_library_lives_in_its_place() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        for (library, places) in LIVES_IN {
            let code: String =
                text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
            let uses = code.contains(&format!(" {library}::"))
                || code.contains(&format!("({library}::"))
                || code.contains(&format!("<{library}::"));
            if uses && !places.iter().any(|place| file.starts_with(place)) {
                wrong.push(format!("src/{file} uses {library}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_file_is_longer_than_400_lines() {
    let long: Vec<_> = sources()
        .into_iter()
        .filter(|(file, _)| !file.ends_with("tests.rs"))
        .map(|(file, text)| (file, text.lines().take_while(|l| !l.starts_with("#[cfg(test)]")).count()))
        .filter(|(_, lines)| *lines > 400)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

#[test]
fn the_reader_of_names_sees_nested_lists() {
    let text = "use crate::{domain::{self, x}, store::{a::b, c}, broker};\ncrate::intake::f(); // crate::no";
    assert_eq!(named(text, "crate::")[..4], ["domain", "store", "broker", "intake"]);
}
