use clap::{CommandFactory as _, error::ErrorKind};

use super::*;

const ID: &str = "01900000-0000-7000-8000-000000000001";

/// What needs no id, or one of its own.
const PLAIN: &[&str] = &[
    "serve --roles http,upkeep",
    "migrate",
    "simulate --registry r.toml",
    "check",
    "status",
    "contracts --write d",
    "topology",
    "jobs rejected --limit 5",
    "send job.json --forecast",
    "batches list --job-id a",
    "campaigns apply c.json --dry-run",
    "campaigns list --all",
    "campaigns show spring",
    "campaigns next spring --count 3",
    "campaigns forecast spring",
    "campaigns run spring --name n",
    "campaigns test spring --to +819012345678",
    "campaigns pause spring",
    "campaigns resume spring",
    "campaigns archive spring",
    "campaigns cancel spring",
    "messages list failed --state failed",
    "messages list sent --category marketing --channel whatsapp --since 2026-01-31T09:00:00Z --until 2026-02-01T09:00:00+09:00",
    "messages list --ref crm-1 --code 131026 --template t --campaign c --producer p --account a --job-id j",
    "messages export sent --to sent.xlsx --campaign spring",
    "batches export --to - --format csv --template t",
    "received export --to received.csv --account main",
    "reports --by day --zone Asia/Tokyo --since 2026-01-31T09:00:00Z",
    "failures --lang ja",
    "failures --all --batch 01900000-0000-7000-8000-000000000001",
    "failures list --number +81312345678",
    "failures acknowledge --code 131026 --note seen",
    "resend --code 131026 --batch 01900000-0000-7000-8000-000000000001 --reason r --cap 10",
    "resend --message 01900000-0000-7000-8000-000000000001.1 --dry-run --against-advice --acknowledged",
    "why 01900000-0000-7000-8000-000000000001.1",
    "audit list --act resend --subject failures",
    "uncertain list --number +81312345678",
    "uncertain resolve --batch 01900000-0000-7000-8000-000000000001 --as sent --reason r --evidence e --dry-run",
    "uncertain resolve --ids-file - --as resend --reason r",
    "recover --since 2026-01-31T09:00:00Z --dry-run",
    "holds list --all",
    "holds show 7",
    "holds open everything --reason r",
    "holds close 7 --reason r",
    "accounts list",
    "accounts apply r.toml",
    "numbers list",
    "numbers apply r.toml",
    "numbers show +81312345678",
    "accounts show main",
    "templates list",
    "templates apply r.toml",
    "templates show spring_offer",
    "imports list",
    "tokens create --name n --scope read,pii",
    "tokens list",
    "audiences create vip --channel whatsapp --time-zone Asia/Tokyo --country JP",
    "audiences list --limit 5",
    "audiences show vip",
    "audiences add vip --to +819012345678 --ref r --param name=x",
    "audiences fill vip f.csv --country JP",
    "audiences numbers vip - --country JP",
    "audiences remove vip +819012345678",
    "audiences empty vip",
    "audiences delete vip",
    "audiences export vip f.csv",
    "suppressions add --to +819012345678,+819012345679 --account main --reason r",
    "suppressions import f.csv --scope tenant --country JP --reason r",
    "suppressions list --recipient +819012345678 --scope marketing --source keyword --all",
    "suppressions lift 7 --reason r",
    "received list --number +81312345678 --since 2026-01-31T09:00:00Z --until 2026-02-01T09:00:00+09:00",
];

/// A line for every command: what it needs and no more.
fn lines() -> Vec<Vec<&'static str>> {
    let import = ["--business-number", "+81312345678", "--template", "t", "--language", "ja"];
    let mut lines: Vec<Vec<&str>> = PLAIN.iter().map(|line| line.split(' ').collect()).collect();
    lines.push([&["imports", "create", "f.csv"][..], &import].concat());
    lines.push([&["imports", "form"][..], &import].concat());
    lines.push([&["send", "--to", "+819012345678", "--producer", "shop"][..], &import].concat());
    for command in ["batches show", "batches watch", "batches rejected", "tokens revoke"] {
        lines.push(command.split(' ').chain([ID]).collect());
    }
    for command in ["imports show", "imports rejected", "imports changed", "imports report"] {
        lines.push(command.split(' ').chain([ID]).collect());
    }
    for command in ["batches pause", "batches resume", "batches cancel"] {
        lines.push(command.split(' ').chain([ID, "--reason", "r"]).collect());
    }
    lines.push(vec!["messages", "show", "01900000-0000-7000-8000-000000000001.1"]);
    lines.push(vec!["messages", "cancel", "01900000-0000-7000-8000-000000000001.1", "--reason", "r"]);
    lines
}

/// Every command without commands below it, by its words.
fn leaves(command: &clap::Command, words: &str, found: &mut Vec<String>) {
    let mut below = command.get_subcommands().filter(|c| c.get_name() != "help").peekable();
    if below.peek().is_none() {
        found.push(words.trim().to_owned());
    }
    for command in below {
        leaves(command, &format!("{words} {}", command.get_name()), found);
    }
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_is_understood() {
    let lines = lines();
    for line in &lines {
        let words = ["campaign-dispatch"].iter().chain(line).copied();
        let global = ["--token", "t", "--url", "http://h", "--settings", "s.toml", "--json"];
        if let Err(error) = Cli::try_parse_from(words.chain(global)) {
            panic!("{line:?}: {error}");
        }
    }
    let mut commands = Vec::new();
    leaves(&Cli::command(), "", &mut commands);
    for command in commands {
        let words: Vec<&str> = command.split(' ').collect();
        assert!(lines.iter().any(|line| line.starts_with(&words)), "no line tries `{command}`");
    }
}

#[test]
fn what_is_no_id_is_answered_with_where_they_are() {
    for (line, list) in [
        ("batches show 123", "batches list"),
        ("imports show 123", "imports list"),
        ("messages show 123", "messages list"),
        ("messages list --batch 123", "batches list"),
        ("uncertain resolve 123 --as sent --reason r", "messages list"),
        ("tokens revoke 123", "tokens list"),
    ] {
        let words = ["campaign-dispatch"].into_iter().chain(line.split(' '));
        let error = Cli::try_parse_from(words).unwrap_err().to_string();
        assert!(error.contains("is not the id of") && error.contains(list), "{line}: {error}");
    }
}

#[test]
fn send_asks_for_no_global_option() {
    let line = ["campaign-dispatch", "send", "--url", "http://h", "--token", "t"];
    let error = Cli::try_parse_from(line).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingRequiredArgument);
    assert!(!error.to_string().contains("--url"), "{error}");
}

#[test]
fn simulate_tells_all_it_does() {
    let mut command = Cli::command();
    let help = command.find_subcommand_mut("simulate").unwrap().render_long_help().to_string();
    for (suffix, _) in crate::simulator::SUFFIXES {
        assert!(help.contains(suffix), "{suffix}");
    }
    for path in
        ["ledger/messages", "ledger/arrivals", "callbacks", "webhooks", "faults", "settings", "numbers", "reset"]
    {
        assert!(help.contains(&format!("/_sim/{path}")), "{path}");
    }
}
