//! What `config check` calls right, a daemon starts with.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;

use super::{HUNG, args, program, run};

#[test]
fn config_check_and_serve_refuse_the_same_settings_with_the_same_message() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().to_str().unwrap().to_owned();
    fs::write(dir.path().join("file"), "").unwrap();
    fs::create_dir(dir.path().join("taken")).unwrap();
    fs::write(dir.path().join("taken/images.sock"), "").unwrap();
    std::os::unix::fs::symlink("nowhere", dir.path().join("dangling")).unwrap();
    let long = format!("state = \"{at}/{}\"", "x".repeat(95 - at.len()));
    let own = format!("state = \"{at}/s\"\nmetrics_address = \"{at}/s/images.sock.ttrpc\"");
    for (text, error) in [
        ("log = \"loud\"", "\"loud\" is neither a level nor a part of this program"),
        ("log = \"info,loud\"", "\"loud\" is neither"),
        ("root = \"\"", "line 1: the path is empty"),
        ("\nstate = \"\"", "line 2: the path is empty"),
        ("containerd = \"\"", "line 1: the path is empty"),
        ("root = \"a\\u0000b\"", r#"the path "a\x00b" has a zero byte in it"#),
        ("containerd = \"a\\u0000b\"", "has a zero byte in it"),
        ("containerd = \"unix:///run/c.sock\"", "is an address with a scheme: give the path"),
        ("root = \"file:///var/lib/x\"", "is an address with a scheme: give the path"),
        (&format!("containerd = \"{at}/file\""), "file is not a socket: name containerd's"),
        ("log = \"lmdb_images::prox=debug\"", "\"lmdb_images::prox\" is neither"),
        ("metrics_address = \"/a\\u0000b\"", "has a zero byte in it"),
        ("gid = 4294967295", "4294967295 is not in 0..=4294967294"),
        ("readonly_gid = 4294967295", "4294967295 is not in 0..=4294967294"),
        (&long, "the system allows 107: choose a shorter folder"),
        (&format!("containerd = \"/{}\"", "x".repeat(107)), "has 108 bytes"),
        (&format!("metrics_address = \"/{}\"", "x".repeat(107)), "has 108 bytes"),
        (&own, "is the path of one of the daemon's own sockets"),
        (&format!("root = \"{at}/file\""), "file exists and is not a folder"),
        (&format!("state = \"{at}/file/below\""), "file exists and is not a folder"),
        (&format!("state = \"{at}/taken\""), "images.sock exists and is not a socket"),
        (&format!("metrics_address = \"{at}/file\""), "file exists and is not a socket"),
        (&format!("metrics_address = \"{at}/file/x\""), "file exists and is not a folder"),
        (&format!("root = \"{at}/dangling\""), "dangling is a link that leads to no folder"),
        (&format!("root = \"{at}/r\"\nstate = \"{at}/r\""), "is the folder of the store, too"),
        (&format!("state = \"{at}\"\ncontainerd = \"{at}/c\""), "the folder of our own sockets"),
    ] {
        let mut text = text.to_owned();
        // If a daemon should start, then not in the folders of the machine.
        for key in ["root", "state"] {
            if !text.contains(&format!("{key} = ")) {
                text += &format!("\n{key} = \"{at}/{key}\"");
            }
        }
        fs::write(dir.path().join("config"), text).unwrap();
        let checked = run(dir.path(), &args(dir.path(), "config check --config DIR/config"));
        checked.failed(1, error);
        let served = run(dir.path(), &args(dir.path(), "serve --config DIR/config"));
        served.failed(1, error);
        assert_eq!(served.err(), checked.err());
    }
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("config");
    fs::write(&path, "").unwrap();
    for (mode, refused) in [(0o600, false), (0o644, false), (0o664, true), (0o646, true)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let ended = run(dir.path(), &args(dir.path(), "config check --config DIR/config"));
        match refused {
            false => assert!(ended.worked().ends_with("config is right\n")),
            true => ended.failed(1, &format!("(mode {mode:o})")),
        }
    }
}

#[test]
fn a_wrong_variable_is_called_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let long = "x".repeat(200);
    for (variable, value, line, error) in [
        ("LMDB_IMAGES_MAX_CALLS", "many", "serve", "'environment variable LMDB_IMAGES_MAX_CALLS'"),
        ("LMDB_IMAGES_GID", "4294967295", "serve", "'environment variable LMDB_IMAGES_GID'"),
        ("LMDB_IMAGES_ROOT", "", "ls", "'environment variable LMDB_IMAGES_ROOT'"),
        ("RUST_LOG", "loud", "serve", "'environment variable RUST_LOG'"),
        ("RUST_LOG", "loud", "ls", "RUST_LOG: \"loud\" is neither a level"),
        ("LMDB_IMAGES_STATE", &long, "serve --root x", "LMDB_IMAGES_STATE: the socket path"),
        ("LMDB_IMAGES_CONFIG", "/nothing/here", "ls", "LMDB_IMAGES_CONFIG: there is no file"),
        ("CONTAINERD_NAMESPACE", "a b", "ls", "CONTAINERD_NAMESPACE: "),
    ] {
        let command = &mut program(dir.path());
        let ended =
            super::Ended(command.args(line.split(' ')).env(variable, value).output().unwrap());
        assert_ne!(ended.status(), HUNG);
        assert!([1, 2].contains(&ended.status()), "{variable}: {}", ended.err());
        assert!(ended.err().contains(error), "{variable}: {}", ended.err());
    }
    let bytes = std::ffi::OsStr::from_bytes(b"a\xff");
    for variable in ["RUST_LOG", "LMDB_IMAGES_GID", "LMDB_IMAGES_METRICS_ADDRESS"] {
        let ended = program(dir.path()).arg("serve").env(variable, bytes).output().unwrap();
        let error = format!("environment variable {variable}: \"a\\xff\" is not UTF-8");
        super::Ended(ended).failed(2, &error);
    }
    // A variable of a command of a command.
    let ended =
        program(dir.path()).args(["fleet", "nodes"]).env("LMDB_IMAGES_FLEET", bytes).output();
    let error = "environment variable LMDB_IMAGES_FLEET: \"a\\xff\" is not UTF-8";
    super::Ended(ended.unwrap()).failed(2, error);
    let given = [std::ffi::OsStr::new("serve"), std::ffi::OsStr::new("--log"), bytes];
    run(dir.path(), &given).failed(2, "the argument \"a\\xff\" is not UTF-8");
    run(dir.path(), &["serve", "--max-calls", "many"]).failed(2, "'--max-calls <N>'");
    run(dir.path(), &["serve", "--state", &long]).failed(1, "--state: the socket path");
}

/// A faulty file must not hinder a command that needs no setting of it.
#[test]
fn a_file_that_the_flag_names_must_exist_also_if_no_setting_is_needed() {
    let dir = super::store(&["a"]);
    fs::write(dir.path().join("faulty"), "nonsense").unwrap();
    for line in ["ls --root ROOT", "history a --root ROOT --state DIR/none"] {
        let none = format!("{line} --config DIR/none.toml");
        let status = if line.starts_with("ls") { 1 } else { 2 };
        run(dir.path(), &args(dir.path(), &none)).failed(status, "--config: there is no file");
        run(dir.path(), &args(dir.path(), &format!("{line} --config DIR/faulty"))).worked();
        let mut command = program(dir.path());
        command.args(args(dir.path(), line)).env("LMDB_IMAGES_CONFIG", "/nothing/here");
        super::Ended(command.output().unwrap()).worked();
    }
    for line in ["health --address DIR/none.sock", "top --once --metrics-address DIR/none.sock"] {
        let none = format!("{line} --config DIR/none.toml");
        run(dir.path(), &args(dir.path(), &none)).failed(1, "--config: there is no file");
    }
}
