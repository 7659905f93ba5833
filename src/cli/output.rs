//! Standard output: tables that line up, JSON, plain lines.

use std::io::{self, Write as _};

use anyhow::Context as _;
use serde_json::Value;
use unicode_width::UnicodeWidthStr as _;

/// Writes a line.
pub(super) fn line(text: &str) -> anyhow::Result<()> {
    written(writeln!(io::stdout().lock(), "{text}"))
}

/// Writes bytes as they are.
pub(super) fn bytes(bytes: &[u8]) -> anyhow::Result<()> {
    written(io::stdout().lock().write_all(bytes))
}

/// Writes JSON for machines.
pub(super) fn json(value: &Value) -> anyhow::Result<()> {
    line(&serde_json::to_string_pretty(value)?)
}

/// A reader that has seen enough (`| head`) is no failure.
fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.context("could not write to standard output"),
    }
}

/// Writes rows under their heads. A Japanese character is two columns wide.
pub(super) fn table(heads: &[&str], rows: &[Vec<String>]) -> anyhow::Result<()> {
    written(io::stdout().lock().write_all(aligned(heads, rows).as_bytes()))
}

fn aligned(heads: &[&str], rows: &[Vec<String>]) -> String {
    let heads: Vec<String> = heads.iter().map(|head| (*head).to_owned()).collect();
    let all = || std::iter::once(&heads).chain(rows);
    let width =
        |column: usize| all().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..heads.len()).map(width).collect();
    let mut text = String::new();
    for row in all() {
        let mut cells = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            cells.push_str(cell);
            cells.push_str(&" ".repeat(width.saturating_sub(cell.width()) + 2));
        }
        text.push_str(cells.trim_end());
        text.push('\n');
    }
    text
}

/// Names and values below each other.
pub(super) fn fields(pairs: &[(&str, String)]) -> anyhow::Result<()> {
    let widest = pairs.iter().map(|(name, _)| name.width()).max().unwrap_or_default();
    for (name, value) in pairs.iter().filter(|(_, value)| !value.is_empty()) {
        line(&format!("{name}{}  {value}", " ".repeat(widest - name.width())))?;
    }
    Ok(())
}

/// A value that may be missing.
pub(super) fn maybe<T: ToString>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// What is wrong, as every answer of the API says it.
pub(super) fn problem(error: &Value) -> String {
    let text = |key: &str| error[key].as_str().unwrap_or_default();
    let at = match text("pointer") {
        "" => String::new(),
        pointer => format!("{pointer}: "),
    };
    let meant: Vec<&str> = error["did_you_mean"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let meant = if meant.is_empty() { String::new() } else { format!("; did you mean {}?", meant.join(", ")) };
    format!("{at}{} ({}){meant}", text("reason"), text("code"))
}

/// An instant to the second.
pub(super) fn time(at: chrono::DateTime<chrono::Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// Says where the list goes on.
pub(super) fn more(next: Option<&str>) -> anyhow::Result<()> {
    match next {
        Some(next) => line(&format!("more: add --after {next}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_says_where_only_when_it_is_somewhere() {
        let whole = serde_json::json!({"pointer": "", "code": "malformed_json", "reason": "is not JSON"});
        assert_eq!(problem(&whole), "is not JSON (malformed_json)");
        let near = serde_json::json!({"pointer": "/a", "code": "c", "reason": "r", "did_you_mean": ["x", "y"]});
        assert_eq!(problem(&near), "/a: r (c); did you mean x, y?");
    }

    #[test]
    fn wide_characters_count_twice() {
        let rows = [vec!["渋谷".to_owned(), "1".to_owned()], vec!["ab".to_owned(), "2".to_owned()]];
        assert_eq!(aligned(&["name", "n"], &rows), "name  n\n渋谷  1\nab    2\n");
    }
}
