//! No character that a terminal obeys or no reader sees gets out, from wherever it came.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use lmdb_images::model::printable::is_visible;

use super::{Ended, PROGRAM, fill, store};
use crate::support;

/// ESC, OSC, CR, C1, bidi, separators, invisible ones, and a line that pretends to be another.
const HOSTILE: &str = "x\u{1b}[31m\u{1b}]0;t\u{7}\r\u{7f}\u{9b}1m\u{202e}\u{2066}\u{61c}\u{200b}\u{2028}\u{3164}\u{e0001}\nforged\ta";

/// The program where no default leads to a store or a folder of sockets of the machine.
fn program(home: &Path) -> std::process::Command {
    let mut command = super::program(home);
    command.env("LMDB_IMAGES_ROOT", home.join("none"));
    // A file: so no daemon starts, whatever else it is given.
    command.env("LMDB_IMAGES_STATE", home.join("empty.toml"));
    command
}

fn run<A: AsRef<OsStr>>(home: &Path, args: &[A]) -> Ended {
    Ended(program(home).args(args).output().unwrap())
}

fn check(ended: &Ended, what: &str) {
    assert!(ended.status() != super::HUNG, "{what} hangs");
    for text in [&ended.0.stdout, &ended.0.stderr] {
        let text = std::str::from_utf8(text).unwrap();
        let odd = text.chars().find(|c| !matches!(c, '\n' | '\t') && !is_visible(*c));
        assert_eq!(odd, None, "{what}: {text:?}");
        assert!(!text.lines().any(|line| line.starts_with("forged")), "{what}: {text}");
        assert!(!text.contains("panicked"), "{what}: {text}");
    }
}

/// A store whose every text is hostile.
fn hostile_store() -> tempfile::TempDir {
    let dir = store(&[HOSTILE, "plain"]);
    let opened = lmdb_images::store::Store::open(&dir.path().join("root")).unwrap();
    let mut image = support::image("texts");
    image.labels.insert(HOSTILE.into(), HOSTILE.into());
    let target = image.target.mut_or_insert_default();
    target.media_type = HOSTILE.into();
    target.annotations.insert(HOSTILE.into(), HOSTILE.into());
    fill(&opened, "default", vec![image]);
    dir
}

#[test]
fn names_and_labels_are_escaped_wherever_they_are_printed() {
    let dir = hostile_store();
    let root = dir.path().join("root").to_str().unwrap().to_owned();
    for line in [
        vec!["ls"],
        vec!["ls", "-q"],
        vec!["ls", "-A", "-q"],
        vec!["ls", "--json"],
        vec!["ls", "--no-trunc"],
        vec!["inspect", "texts"],
        vec!["inspect", HOSTILE],
        vec!["stat"],
        vec!["check"],
        vec!["explain", HOSTILE],
    ] {
        let mut args = line.clone();
        args.extend(["--root", &root]);
        check(&run(dir.path(), &args), line[0]);
    }
    let json = run(dir.path(), &["inspect", HOSTILE, "--root", &root]).worked();
    let record: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(record["name"], HOSTILE);
    let lines = run(dir.path(), &["ls", "-q", "--root", &root]).worked();
    assert_eq!(lines.lines().count(), 3);
}

#[test]
fn arguments_paths_and_variables_are_escaped_in_every_error() {
    let dir = store(&["plain"]);
    let path = dir.path().join(HOSTILE);
    std::fs::create_dir(&path).unwrap();
    let hostile = path.to_str().unwrap().to_owned();
    for command in [
        "serve", "import", "export", "diff", "ls", "count", "history", "undo", "tag", "apply",
        "explain", "inspect", "stat", "check", "backup", "restore", "compact", "recover", "config",
        "health", "help",
    ] {
        for args in [
            vec![HOSTILE],
            vec!["--", HOSTILE],
            // clap repeats it in a tip.
            vec!["--\nforged line"],
            vec!["--root", &hostile],
            vec!["--root", &hostile, "x"],
            vec!["--config", &hostile],
            vec!["--config", HOSTILE, HOSTILE],
            vec!["-n", HOSTILE],
            vec!["--containerd", &hostile],
            vec!["--bolt", &hostile],
            vec!["--to", &hostile],
            vec!["--address", &hostile],
            vec!["--state", &hostile, "--root", "/dev/zero/x"],
            vec!["--gid", HOSTILE],
            vec!["--metrics-address", HOSTILE],
            vec!["--log", HOSTILE],
            vec!["--digest", HOSTILE],
            vec!["--label", HOSTILE, "--root", &hostile],
            vec![&hostile, "--root", &hostile],
            vec![HOSTILE, HOSTILE],
            vec!["check", "--config", &hostile],
            vec!["show", "--root", HOSTILE],
            vec!["--help"],
        ] {
            let mut all = vec![command];
            all.extend(args);
            check(&run(dir.path(), &all), &format!("{all:?}"));
        }
    }
    for variable in [
        "LMDB_IMAGES_ROOT",
        "LMDB_IMAGES_CONFIG",
        "LMDB_IMAGES_GID",
        "LMDB_IMAGES_METRICS_ADDRESS",
        "RUST_LOG",
        "CONTAINERD_NAMESPACE",
        "LMDB_IMAGES_ADDRESS",
        "HOME",
        "LMDB_IMAGES_STATE",
    ] {
        for line in [
            "ls",
            "serve --max-calls 0",
            "serve --help",
            "config show",
            "config show --json",
            "health",
        ] {
            let mut command = program(dir.path());
            let ended = command.args(line.split(' ')).env(variable, HOSTILE).output().unwrap();
            check(&Ended(ended), &format!("{variable} {line}"));
        }
    }
}

#[test]
fn a_long_value_is_shortened_in_every_error() {
    let dir = store(&["plain"]);
    let long = "x".repeat(5000);
    let short = |ended: &Ended, what: &str| {
        check(ended, what);
        assert_ne!(ended.status(), 0, "{what}");
        let longest = ended.err().lines().map(str::len).max().unwrap_or_default();
        assert!((1..1200).contains(&longest), "{what}: {}", ended.err());
    };
    for (command, options) in [
        (
            "serve",
            "--log --log-format --gid --metrics-address --max-calls --containerd --root --state",
        ),
        ("ls", "--config -o -n --digest --label --format --nonsense"),
        ("history", "--since --limit"),
        ("ship", "--log --to"),
        ("backup", "--root"),
    ] {
        for option in options.split(' ') {
            short(&run(dir.path(), &[command, option, &long]), &format!("{command} {option}"));
        }
    }
    short(&run(dir.path(), &[&long]), "a command");
    for variable in ["RUST_LOG", "LMDB_IMAGES_GID", "LMDB_IMAGES_STATE"] {
        let ended = program(dir.path()).arg("serve").env(variable, &long).output().unwrap();
        short(&Ended(ended), variable);
    }
    let file = dir.path().join("long.toml");
    for key in ["log", "log_format", "gid", "nonsense"] {
        std::fs::write(&file, format!("{key} = \"{long}\"\n")).unwrap();
        let ended = run(dir.path(), &["serve", "--config", file.to_str().unwrap()]);
        short(&ended, &format!("{key} in the file"));
    }
}

#[test]
fn the_log_is_escaped_in_both_formats() {
    for format in ["text", "json"] {
        let dir = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new(PROGRAM);
        command.arg("serve").arg("--log-format").arg(format).stderr(Stdio::piped());
        command
            .arg("--root")
            .arg(dir.path().join(HOSTILE))
            .arg("--state")
            .arg(dir.path().join("s"));
        command.env("LMDB_IMAGES_CONFIG", super::empty_config(dir.path())).env_remove("RUST_LOG");
        let mut daemon = command.spawn().unwrap();
        let mut line = Vec::new();
        BufReader::new(daemon.stderr.take().unwrap()).read_until(b'\n', &mut line).unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        let line = String::from_utf8(line).unwrap();
        assert!(line.contains("serving ") && line.contains("\\u202e"), "{line}");
        assert!(line.trim_end_matches('\n').chars().all(is_visible), "{line:?}");
    }
}
