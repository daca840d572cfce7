//! The commands of `lmdb-images-fleet`, called as commands of `lmdb-images`.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::{Ended, PROGRAM, program, run};

#[test]
fn its_commands_and_their_help_are_those_of_one_program() {
    let dir = tempfile::tempdir().unwrap();
    let help = run(dir.path(), &["--help"]).worked();
    for (name, about) in
        [("ship", "Report this node's images"), ("fleet", "Query the images of all nodes")]
    {
        assert!(help.contains(&format!("\n  {name}  ")), "{help}");
        let own = run(dir.path(), &[name, "--help"]).worked();
        assert!(
            own.starts_with(about) && own.contains(&format!("Usage: lmdb-images {name}")),
            "{own}"
        );
        assert_eq!(run(dir.path(), &["help", name]).worked(), own);
    }
    let version = run(dir.path(), &["fleet", "--version"]).worked();
    assert_eq!(version, concat!("lmdb-images-fleet ", env!("CARGO_PKG_VERSION"), "\n"));
    run(dir.path(), &["fleet", "nowhere"]).failed(2, "unrecognized subcommand 'nowhere'");
    run(dir.path(), &["fleet", "nodes"]).failed(1, "no PostgreSQL server is named: give --from");
}

/// A folder with `lmdb-images` alone, as a node's package installs it.
fn alone() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    // By another process: a program that is open for writing here, and so in each process that another test starts
    // meanwhile, cannot be executed.
    let copied = Command::new("cp").arg(PROGRAM).arg(dir.path().join("lmdb-images")).status();
    assert!(copied.unwrap().success());
    dir
}

/// Runs `lmdb-images LINE` in the folder. It must fail, and say this.
fn refused(dir: &Path, line: &[&str], says: &str) {
    let mut command = Command::new("timeout");
    command.args(["10".as_ref(), dir.join("lmdb-images").as_os_str()]).args(line);
    let found = command.output().unwrap();
    let said = String::from_utf8(found.stderr).unwrap();
    assert_eq!(found.status.code(), Some(1), "{said}");
    assert!(said.contains(says), "{said}");
}

#[test]
fn without_the_other_program_the_error_names_it() {
    let dir = alone();
    let path = dir.path().join("lmdb-images-fleet");
    for line in [&["fleet", "nodes"][..], &["ship"], &["help", "fleet"]] {
        refused(
            dir.path(),
            line,
            &format!("{} is not there: install lmdb-images-fleet\n", path.display()),
        );
    }
}

#[test]
fn another_file_in_its_place_is_not_run() {
    let dir = alone();
    let path = dir.path().join("lmdb-images-fleet");
    // A shell would run the empty file, and report success.
    fs::write(&path, "").unwrap();
    refused(dir.path(), &["ship"], "cannot be started: Permission denied");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    refused(
        dir.path(),
        &["ship"],
        "cannot be started: Exec format error: install lmdb-images-fleet again",
    );
    fs::remove_file(&path).unwrap();
    symlink("lmdb-images", &path).unwrap();
    refused(dir.path(), &["ship"], "lmdb-images-fleet is lmdb-images: install");
}

#[test]
fn a_variable_that_asks_for_no_completion_does_not_matter() {
    let dir = tempfile::tempdir().unwrap();
    for value in ["", "0"] {
        let mut command = program(dir.path());
        command.env("LMDB_IMAGES_COMPLETE", value).args(["fleet", "nodes"]);
        Ended(command.output().unwrap()).failed(1, "no PostgreSQL server is named: give --from");
    }
}

#[test]
fn a_line_that_is_being_written_is_completed_with_and_without_the_other_program() {
    let offered = |program: &std::path::Path| {
        let mut command = Command::new(program);
        command.env("LMDB_IMAGES_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "2");
        let found = command.args(["--", "lmdb-images", "fleet", "w"]).output().unwrap();
        (found.status.success(), [found.stdout, found.stderr].concat())
    };
    assert_eq!(offered(PROGRAM.as_ref()), (true, b"where".to_vec()));
    assert_eq!(offered(&alone().path().join("lmdb-images")), (true, Vec::new()));
}
