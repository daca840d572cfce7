//! Looking at records: long ones, damaged ones, and a containerd that goes away over one of them.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use super::{args, run, store};
use crate::support;

#[test]
fn a_long_name_is_shortened_in_the_table_alone() {
    let long = format!("begin{}end", "x".repeat(32_000));
    let dir = store(&[&long, "short"]);
    let output = |line: &str| run(dir.path(), &args(dir.path(), line)).worked();
    let table = output("ls --root ROOT");
    assert!(table.lines().all(|line| line.len() < 400), "{table}");
    assert!(table.contains("beginxxx") && table.contains("xend "), "{table}");
    for line in ["ls --root ROOT --no-trunc", "ls --root ROOT -q", "ls --root ROOT --json"] {
        assert!(output(line).contains(&long), "{line}");
    }
    let missing = run(
        dir.path(),
        &["inspect", "--root", dir.path().join("root").to_str().unwrap(), &"y".repeat(32_000)],
    );
    missing.failed(1, "y…[");
    assert!(missing.err().len() < 1000, "{}", missing.err());
}

#[test]
fn a_digest_and_labels_select() {
    let dir = store(&[]);
    let opened = lmdb_images::store::Store::open(&dir.path().join("root")).unwrap();
    let mut images = Vec::new();
    for (name, digit, label) in [("a", "1", "x"), ("b", "1", "y"), ("c", "2", "x")] {
        let mut image = support::image(name);
        image.target.mut_or_insert_default().digest = format!("sha256:{}", digit.repeat(64));
        image.labels.insert("example.org/k".into(), label.into());
        images.push(image);
    }
    super::fill(&opened, "other", images);
    drop(opened);
    let output = |line: &str| {
        run(dir.path(), &args(dir.path(), &format!("ls --root ROOT -q {line}"))).worked()
    };
    let whole = format!("-A --digest sha256:{}", "1".repeat(64));
    assert_eq!(output(&whole), "other\ta\nother\tb\n");
    assert_eq!(output("-n other --digest sha256:2"), "c\n");
    assert_eq!(output("-n other --label example.org/k=x"), "a\nc\n");
    assert_eq!(output("-n other --label example.org/k --digest sha256:1 name==b name==c"), "b\n");
    run(dir.path(), &args(dir.path(), "ls --digest 12"))
        .failed(1, "--digest \"12\" is not a digest");
}

#[test]
fn damaged_records_that_are_left_out_show_in_the_status() {
    let dir = store(&["name-of-one", "name-of-two"]);
    let name = b"name-of-two";
    // LMDB's file and the journal: wherever the record is.
    for file in ["data.mdb", "journal"] {
        let path = dir.path().join("root").join(file);
        let Ok(mut bytes) = std::fs::read(&path) else { continue };
        let places: Vec<_> = (0..bytes.len().saturating_sub(60))
            .filter(|at| {
                bytes[*at..].starts_with(name)
                    && bytes[at + 11..at + 120].windows(15).any(|w| w == b"application/vnd")
            })
            .collect();
        for at in places {
            let digest = bytes[at..].windows(7).position(|w| w == b"sha256:").unwrap();
            bytes[at + digest + 20] = b'b';
        }
        std::fs::write(&path, bytes).unwrap();
    }
    let ended = run(dir.path(), &args(dir.path(), "ls --root ROOT -q"));
    ended.failed(1, "1 damaged records are left out");
    assert_eq!(ended.out(), "name-of-one\n");
}

/// Passes bytes on to `upstream`, but ends a connection in which `word` comes by.
fn cutting_proxy(at: &Path, upstream: &Path, word: &'static [u8]) {
    let listener = UnixListener::bind(at).unwrap();
    let upstream = upstream.to_owned();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = UnixStream::connect(&upstream).unwrap();
            let (from, to) = (server.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || pass(from, to, None));
            std::thread::spawn(move || pass(client, server, Some(word)));
        }
    });
}

fn pass(mut from: UnixStream, mut to: UnixStream, word: Option<&[u8]>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count) = from.read(&mut buffer)
        && count > 0
    {
        let bytes = &buffer[..count];
        let cut = word.is_some_and(|word| bytes.windows(word.len()).any(|part| part == word));
        if cut || to.write_all(bytes).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(std::net::Shutdown::Both);
    }
}

#[test]
fn one_record_that_ends_the_connection_does_not_stop_an_export_or_a_diff() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let served = runtime.block_on(support::Served::start());
    let long = format!("m-CUT-{}", "x".repeat(16_000));
    let dir = store(&["a", &long, "z"]);
    let proxy = dir.path().join("proxy.sock");
    cutting_proxy(&proxy, served.daemon.grpc(), b"m-CUT-");
    {
        let line = "export --root ROOT --containerd DIR/proxy.sock";
        let ended = run(dir.path(), &args(dir.path(), line));
        assert_eq!(ended.status(), 1, "{}", ended.err());
        let out = ended.out();
        let lines: Vec<_> = out.lines().collect();
        assert_eq!(lines.len(), 4, "{out}");
        assert!(
            lines[0].starts_with("default\ta\tleft: ")
                && lines[2].starts_with("default\tz\tleft: ")
        );
        assert!(lines[1].starts_with("default\tm-CUT-xxx") && lines[1].len() < 1000, "{out}");
        assert!(lines[3].starts_with("exported 3 images"), "{out}");
        let line = "diff --root ROOT --containerd DIR/proxy.sock";
        let ended = run(dir.path(), &args(dir.path(), line));
        assert!(ended.out().contains("\tnot compared: "), "{}{}", ended.out(), ended.err());
        assert_eq!(ended.out().lines().count(), 3);
    }
}

/// Without a proxy: the sentence about a long name comes in a header, and is read.
#[test]
fn a_sentence_as_long_as_the_longest_name_is_read() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let served = runtime.block_on(support::Served::start());
    let long = "é".repeat(16_000);
    let dir = store(&["a", &long, "z"]);
    let socket = served.daemon.grpc().to_str().unwrap().to_owned();
    {
        let line = format!("diff --root ROOT --json --containerd {socket}");
        let out = run(dir.path(), &args(dir.path(), &line)).out();
        assert_eq!(out.matches("only-in-lmdb").count(), 3, "{out}");
    }
}

#[test]
fn a_mute_daemon_is_waited_for_no_longer_than_asked() {
    let dir = tempfile::tempdir().unwrap();
    let _mute = UnixListener::bind(dir.path().join("mute")).unwrap();
    let begun = Instant::now();
    let ended = run(dir.path(), &args(dir.path(), "health --wait 1 --address DIR/mute"));
    ended.failed(3, "no answer within");
    let took = begun.elapsed();
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(8), "{took:?}");
}

#[test]
fn an_error_names_the_file_or_the_socket_that_was_asked() {
    let dir = store(&["a"]);
    std::fs::write(dir.path().join("no.db"), "x".repeat(9000)).unwrap();
    for (line, status, named) in [
        ("ls --bolt DIR/no.db", 1, "no.db: "),
        // The files of a store do not answer for a daemon that was named.
        ("history a --root ROOT --address DIR/none.sock", 2, "none.sock"),
    ] {
        run(dir.path(), &args(dir.path(), line)).failed(status, named);
    }
    let unnamed = run(dir.path(), &args(dir.path(), "history a --root ROOT --state DIR/none"));
    assert!(unnamed.worked().contains("sha256:"), "the files answer where no daemon was named");
}

/// 1 is a result of these commands, such as a difference.
#[test]
fn a_command_that_finds_or_does_not_find_fails_with_2() {
    let dir = store(&["a"]);
    for (line, error) in [
        ("diff --root ROOT --containerd DIR/none.sock", "none.sock"),
        ("check --root DIR/none", "there is no store"),
        ("check --names --root DIR/none", "there is no store"),
        ("history a --root DIR/none --state DIR/none", "there is no store"),
        ("history a --root ROOT -n a/b", "a/b"),
    ] {
        run(dir.path(), &args(dir.path(), line)).failed(2, error);
    }
    let none = run(dir.path(), &args(dir.path(), "history b --root ROOT --state DIR/none"));
    none.failed(1, "no change of image \"b\"\n");
}

#[test]
fn a_history_without_a_fitting_change_names_the_flags() {
    let dir = store(&["a"]);
    for (flags, names) in [
        ("--since 2099-01-01T00:00:00Z", "--since"),
        ("--before 1", "--before"),
        ("-n other --before 1", "--before and --namespace"),
        ("--before 1 -n other --since 2h", "--since, --before and --namespace"),
    ] {
        let line = format!("history a --root ROOT --state DIR/none {flags}");
        let error = format!("the log has no change of image \"a\" that fits {names}\n");
        run(dir.path(), &args(dir.path(), &line)).failed(1, &error);
    }
}

#[test]
fn a_faulty_regular_expression_is_reported_once() {
    let dir = store(&["a"]);
    for flags in ["", " --limit 1", " -A"] {
        let ended = run(dir.path(), &args(dir.path(), &format!("ls --root ROOT name~=({flags}")));
        ended.worked();
        let error = "error compiling regexp \"(\": missing closing )";
        assert_eq!(ended.err().matches(error).count(), 1, "{flags}: {}", ended.err());
    }
}

/// The numbers of changes begin with 1. The service takes 0 for "not given".
#[test]
fn a_change_of_number_0_is_refused() {
    let dir = store(&["a"]);
    for line in ["watch --from 0", "history a --root ROOT --before 0"] {
        run(dir.path(), &args(dir.path(), line)).failed(2, "0 is not in 1..");
    }
}
