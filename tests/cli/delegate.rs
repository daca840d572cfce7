//! The commands of `lmdb-images-fleet`, called as commands of `lmdb-images`.

use std::process::Command;

use tempfile::TempDir;

use super::{PROGRAM, run};

#[test]
fn its_commands_and_their_help_are_those_of_one_program() {
    let dir = tempfile::tempdir().unwrap();
    let help = run(dir.path(), &["--help"]).worked();
    for (name, about) in [("ship", "Report this node's images"), ("fleet", "Ask which nodes")] {
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
    run(dir.path(), &["fleet", "nodes"]).failed(1, "which PostgreSQL? Give --from");
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

#[test]
fn without_the_other_program_the_error_names_it() {
    let dir = alone();
    for line in [&["fleet", "nodes"][..], &["ship"], &["help", "fleet"]] {
        let found = Command::new(dir.path().join("lmdb-images")).args(line).output().unwrap();
        let said = String::from_utf8(found.stderr).unwrap();
        let path = dir.path().join("lmdb-images-fleet");
        assert_eq!(found.status.code(), Some(1), "{said}");
        assert!(said.contains(&format!("needs the program {}", path.display())), "{said}");
        assert!(said.ends_with(": install lmdb-images-fleet\n"), "{said}");
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
