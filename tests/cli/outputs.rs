//! Standard output on a full device, open for reading only, or whose reader has closed it; the same of standard error.

use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use super::{Ended, args, program, run, store};
use crate::support;

const FULL: i32 = 4;
const NO_READER: i32 = 141;

/// The commands that need no other process, and what those that change something say of it when they
/// cannot print it.
const COMMANDS: &[(&str, Option<&str>)] = &[
    ("--help", None),
    ("--version", None),
    ("help", None),
    ("ls --help", None),
    ("ls -h", None),
    ("ls --root ROOT", None),
    ("ls --root ROOT -q", None),
    ("ls --root ROOT --json", None),
    ("inspect --root ROOT a", None),
    ("explain --root ROOT name==a", None),
    ("stat --root ROOT", None),
    ("stat --root ROOT --json", None),
    ("check --root ROOT", None),
    ("check --root ROOT --json", None),
    ("config default", None),
    ("config check", None),
    ("config show", None),
    ("config show --json", None),
    ("health --address DIR/none", None),
    ("health --address DIR/none --json", None),
    ("backup --root ROOT --force DIR/backup", Some("the backup is complete: wrote ")),
    ("compact --root ROOT", Some("the store is compact: ")),
    ("restore --root ROOT --force DIR/kept", Some("the backup is the store: restored ")),
    ("recover --root ROOT", Some("nothing is damaged: the store was left as it is")),
    ("recover --root ROOT --to DIR/fresh/OUTPUT", Some("saved 2 records")),
];

fn with(dir: &Path, line: &str, out: Stdio, err: Stdio) -> Ended {
    let child = program(dir).args(args(dir, line)).stdout(out).stderr(err).spawn().unwrap();
    Ended(child.wait_with_output().unwrap())
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A pipe whose reader has closed it.
fn without_reader() -> Stdio {
    std::io::pipe().unwrap().1.into()
}

fn prepared() -> tempfile::TempDir {
    let dir = store(&["a"]);
    run(dir.path(), &args(dir.path(), "backup --root ROOT DIR/kept")).worked();
    std::fs::create_dir(dir.path().join("fresh")).unwrap();
    dir
}

#[test]
fn a_full_output_is_an_error_that_says_what_was_done() {
    let dir = prepared();
    for (line, done) in COMMANDS {
        let ended = with(dir.path(), &line.replace("OUTPUT", "full"), full(), Stdio::piped());
        ended.failed(FULL, "lmdb-images: writing to standard output: No space left on device");
        assert!(done.is_none_or(|done| ended.err().contains(done)), "{line}: {}", ended.err());
    }
    run(dir.path(), &args(dir.path(), "check --root DIR/fresh/full")).worked();
}

#[test]
fn an_output_that_is_open_for_reading_only_is_an_error() {
    let dir = prepared();
    for (line, done) in COMMANDS {
        let out = || File::open("/dev/null").unwrap().into();
        let ended = with(dir.path(), &line.replace("OUTPUT", "read"), out(), Stdio::piped());
        ended.failed(FULL, "lmdb-images: writing to standard output: Bad file descriptor");
        assert!(done.is_none_or(|done| ended.err().contains(done)), "{line}: {}", ended.err());
    }
}

#[test]
fn an_output_without_a_reader_ends_a_command_quietly() {
    let dir = prepared();
    for (line, done) in COMMANDS {
        let ended =
            with(dir.path(), &line.replace("OUTPUT", "pipe"), without_reader(), Stdio::piped());
        let err = ended.err();
        assert_eq!(ended.status(), NO_READER, "{line}: {err}");
        assert!(!err.contains("panicked") && !err.contains("writing to"), "{line}: {err}");
        assert!(done.is_none_or(|done| err.contains(done)), "{line}: {err}");
    }
    run(dir.path(), &args(dir.path(), "check --root DIR/fresh/pipe")).worked();
}

#[test]
fn a_standard_error_that_fails_changes_nothing() {
    let dir = prepared();
    for (number, err) in [full, without_reader].into_iter().enumerate() {
        for (line, _) in COMMANDS {
            let line = line.replace("OUTPUT", &number.to_string());
            let status = with(dir.path(), &line, Stdio::piped(), err()).status();
            let expected = if line.starts_with("health") { 3 } else { 0 };
            assert_eq!(status, expected, "{line}");
        }
        assert_eq!(with(dir.path(), "ls --root DIR/no", Stdio::piped(), err()).status(), 1);
        assert_eq!(with(dir.path(), "ls --nonsense", Stdio::piped(), err()).status(), 2);
        assert_eq!(with(dir.path(), "backup --root ROOT DIR/x", full(), err()).status(), FULL);
        std::fs::remove_file(dir.path().join("x")).unwrap();
    }
}

/// Against a daemon of ours, which has no content: every image is left, with a line.
#[test]
fn an_export_and_an_import_go_on_without_their_output() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let served = runtime.block_on(support::Served::start());
    let client = runtime.block_on(served.client(support::Protocol::Grpc));
    let request = support::create(support::image("theirs"));
    let made = client.call("Create", "default", &request);
    let _: lmdb_images::api::images::CreateImageResponse = runtime.block_on(made).unwrap();
    let dir = store(&["a", "b"]);
    let socket = served.daemon.grpc().to_str().unwrap().to_owned();
    {
        let export = format!("export --root ROOT --containerd {socket}");
        let import = format!("import --root DIR/import --containerd {socket}");
        let diff = format!("diff --root ROOT --containerd {socket}");
        let exported =
            "exported 2 images in 1 namespaces: 0 created, 0 overwritten, 0 unchanged, 2 left";
        for (line, done) in [(&export, exported), (&import, "imported 1 images"), (&diff, "")] {
            with(dir.path(), line, full(), Stdio::piped()).failed(FULL, "No space left on device");
            let ended = with(dir.path(), line, without_reader(), Stdio::piped());
            assert_eq!(ended.status(), NO_READER, "{line}: {}", ended.err());
            assert!(ended.err().contains(done), "{line}: {}", ended.err());
        }
        with(dir.path(), &export, full(), Stdio::piped()).failed(FULL, exported);
        run(dir.path(), &args(dir.path(), "inspect --root DIR/import theirs")).worked();
    }
}

#[test]
fn a_change_that_cannot_be_printed_is_reported_on_standard_error() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let served = runtime.block_on(support::Served::start());
    let client = runtime.block_on(served.client(support::Protocol::Grpc));
    let request = support::create(support::image("a"));
    let made = client.call("Create", "default", &request);
    let _: lmdb_images::api::images::CreateImageResponse = runtime.block_on(made).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = served.daemon.grpc().to_str().unwrap().to_owned();
    std::fs::write(dir.path().join("batch"), "{\"remove\": \"none\"}\n{\"remove\": \"b\"}\n")
        .unwrap();
    for (line, done) in [
        ("tag --address SOCKET a b", "b points to sha256:"),
        ("apply --address SOCKET --allow-partial DIR/batch", "1 of 2 changes were made"),
        ("undo --address SOCKET b", "the undo is made, as change 4"),
        ("undo --address SOCKET b --dry-run --force", "nothing was changed"),
    ] {
        let line = line.replace("SOCKET", &socket);
        with(dir.path(), &line, full(), Stdio::piped()).failed(FULL, done);
    }
}
