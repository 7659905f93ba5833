//! The rules for Prometheus and the dashboard name only what `/metrics` shows.

use std::{collections::BTreeSet, fs, path::Path};

use campaign_dispatch::domain::alarm::AlarmKind;
use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

/// What `PromQL` itself calls something.
const WORDS: &[&str] = &["sum", "max", "rate", "increase", "absent"];

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// Every metric that the program counts, by the macros that count it.
fn counted() -> BTreeSet<String> {
    fn walk(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
                continue;
            }
            let text = fs::read_to_string(&path).unwrap();
            for kind in ["counter!(\"", "gauge!(\"", "histogram!(\""] {
                let names = text.split(kind).skip(1).filter_map(|rest| rest.split('"').next());
                found.extend(names.map(str::to_owned));
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut found);
    found
}

/// The metrics an expression names: what is left without labels (in braces, or after `by`), durations (in brackets),
/// `PromQL`'s own words and numbers.
fn named(expression: &str) -> Vec<String> {
    let mut plain = expression.to_owned();
    for (open, close) in [("{", '}'), ("[", ']'), ("by (", ')')] {
        while let Some(start) = plain.find(open) {
            let end = start + plain[start..].find(close).unwrap();
            plain.replace_range(start..=end, " ");
        }
    }
    let words = plain.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty());
    let names = words.filter(|word| !WORDS.contains(word) && !word.starts_with(|c: char| c.is_ascii_digit()));
    names.map(str::to_owned).collect()
}

fn expressions_of_rules() -> Vec<String> {
    let documents = YamlLoader::load_from_str(&file("deploy/alerts.yml")).unwrap();
    let groups = documents[0]["groups"].as_vec().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_vec().unwrap());
    let read = |rule: &Yaml| {
        assert!(rule["alert"].as_str().is_some_and(|name| name.starts_with("CampaignDispatch")), "{rule:?}");
        let annotations = &rule["annotations"];
        assert!(annotations["summary"].as_str().is_some(), "{rule:?}");
        assert!(annotations["next"].as_str().is_some_and(|next| next.starts_with("campaign-dispatch ")), "{rule:?}");
        assert!(matches!(rule["labels"]["severity"].as_str(), Some("warning" | "critical")), "{rule:?}");
        rule["expr"].as_str().unwrap().to_owned()
    };
    rules.map(read).collect()
}

fn expressions_of_panels() -> Vec<String> {
    let dashboard: Value = serde_json::from_str(&file("deploy/grafana.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().unwrap());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_reader_of_expressions_finds_the_metrics() {
    assert_eq!(named("max by (kind) (alarms_open{kind=\"x\"}) > 0"), ["alarms_open"]);
    assert_eq!(named("sum by (a, b) (rate(x_total[5m])) / y"), ["x_total", "y"]);
    assert_eq!(named("absent(z)"), ["z"]);
}

#[test]
fn every_alarm_has_a_rule_and_every_metric_exists() {
    let counted = counted();
    let (rules, panels) = (expressions_of_rules(), expressions_of_panels());
    assert!(counted.len() > 30 && rules.len() > 9 && panels.len() > 20, "{counted:?}");
    for expression in rules.iter().chain(&panels) {
        let named = named(expression);
        assert!(!named.is_empty(), "{expression}");
        for name in named {
            assert!(counted.contains(&name), "{expression}: nothing counts {name}");
        }
    }
    for kind in AlarmKind::ALL {
        let rule = format!("max(alarms_open{{kind=\"{kind}\"}}) > 0");
        assert!(rules.contains(&rule), "no rule for {kind}");
    }
}
