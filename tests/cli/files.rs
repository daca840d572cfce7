//! Only regular files are read and replaced, and nothing hangs.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::path::Path;
use std::process::Command;

use super::{args, run, store};

/// Makes files that are not regular ones. Returns the name of each, and its kind as errors call it.
fn odd_files(dir: &Path) -> Vec<(&'static str, &'static str)> {
    let make = |program: &str, args: &[&str]| {
        Command::new(program).args(args).current_dir(dir).status().unwrap().success()
    };
    assert!(make("mkfifo", &["fifo"]));
    fs::create_dir(dir.join("folder")).unwrap();
    let mut odd = vec![("fifo", "a pipe"), ("folder", "a folder")];
    // The numbers of /dev/null, in a folder of the test; only root may.
    if make("sh", &["-c", "mknod null c 1 3 2>/dev/null"]) {
        odd.push(("null", "a device"));
    }
    odd
}

#[test]
fn only_regular_files_are_read() {
    let dir = store(&["a"]);
    for (name, called) in odd_files(dir.path()) {
        let link = format!("link-{name}");
        symlink(name, dir.path().join(&link)).unwrap();
        for name in [name, &link] {
            for (command, status) in [
                ("restore --root ROOT --force DIR/", 1),
                ("import --root DIR/other --bolt DIR/", 1),
                ("config check --config DIR/", 1),
                ("config show --config DIR/", 1),
                ("ls --config DIR/", 1),
                ("check --config DIR/", 2),
                ("health --config DIR/", 1),
                ("apply --state DIR/state DIR/", 1),
                ("fleet nodes --from postgres://n@127.0.0.1:1/d --ca DIR/", 1),
                ("serve --root ROOT --state DIR/state --config DIR/", 1),
            ] {
                let ended = run(dir.path(), &args(dir.path(), &format!("{command}{name}")));
                ended.failed(status, &format!("{name} is {called}"));
            }
        }
    }
    assert!(!dir.path().join("other").exists());
    run(dir.path(), &args(dir.path(), "check --root ROOT")).worked();
}

#[test]
fn only_regular_files_are_replaced() {
    let dir = store(&["a"]);
    let mut odd = odd_files(dir.path());
    symlink("folder", dir.path().join("link")).unwrap();
    odd.push(("link", "a symbolic link"));
    for (name, called) in odd {
        let path = dir.path().join(name);
        let before = fs::symlink_metadata(&path).unwrap();
        for force in ["--force ", ""] {
            let line = format!("backup --root ROOT {force}DIR/{name}");
            run(dir.path(), &args(dir.path(), &line)).failed(1, &format!("{name} is {called}"));
        }
        let after = fs::symlink_metadata(&path).unwrap();
        assert_eq!((after.ino(), after.rdev()), (before.ino(), before.rdev()), "{name}");
        assert!(!after.file_type().is_file());
    }
    assert!(fs::symlink_metadata(dir.path().join("fifo")).unwrap().file_type().is_fifo());
    run(dir.path(), &args(dir.path(), "backup --root ROOT DIR/b")).worked();
    run(dir.path(), &args(dir.path(), "backup --root ROOT DIR/b")).failed(1, "exists already");
    run(dir.path(), &args(dir.path(), "backup --root ROOT --force DIR/b")).worked();
    let metadata = |name: &str| fs::metadata(dir.path().join(name)).unwrap();
    assert_eq!(metadata("b").mode() & 0o777, 0o600);
    run(dir.path(), &args(dir.path(), "restore --root DIR/again DIR/b")).worked();
    // Nothing is left beside it.
    let names = fs::read_dir(dir.path()).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!names.any(|name| name.starts_with('.')));
}

#[test]
fn no_backup_replaces_a_file_of_a_store() {
    let dir = store(&["a"]);
    for file in ["data.mdb", "journal", "lock.mdb", "owner.lock", "store-id"] {
        for force in ["--force ", ""] {
            let line = format!("backup --root ROOT {force}ROOT/{file}");
            run(dir.path(), &args(dir.path(), &line)).failed(1, "is a file of the store in that");
        }
    }
    run(dir.path(), &args(dir.path(), "backup --root ROOT ROOT/b.mdb")).worked();
    run(dir.path(), &args(dir.path(), "check --root ROOT")).worked();
    run(dir.path(), &args(dir.path(), "backup --root ROOT DIR/none/b"))
        .failed(1, "none does not exist: create it, or name another");
    fs::write(dir.path().join("file"), "").unwrap();
    run(dir.path(), &args(dir.path(), "ls --root DIR/file"))
        .failed(1, "file is not a folder: name the folder of a store");
}

/// A file may be longer than any disk.
#[test]
fn a_restore_copies_no_more_than_is_in_use() {
    let dir = store(&["a"]);
    run(dir.path(), &args(dir.path(), "backup --root ROOT DIR/b")).worked();
    for (name, length) in [("b", 1_u64 << 42), ("zeros", 1 << 42)] {
        let file = fs::File::options().append(true).create(true).open(dir.path().join(name));
        file.unwrap().set_len(length).unwrap();
    }
    run(dir.path(), &args(dir.path(), "restore --root DIR/other DIR/zeros"))
        .failed(1, "zeros is damaged: meta page 0");
    run(dir.path(), &args(dir.path(), "restore --root DIR/other DIR/b")).worked();
    run(dir.path(), &args(dir.path(), "inspect --root DIR/other a")).worked();
}

/// The advice about it must not lead in a circle.
#[test]
fn recover_says_that_nothing_can_be_saved_without_data_and_changes() {
    let dir = store(&["a"]);
    run(dir.path(), &args(dir.path(), "ls --root ROOT")).worked();
    fs::write(dir.path().join("root/data.mdb"), "").unwrap();
    fs::write(dir.path().join("root/journal"), vec![0; 1 << 18]).unwrap();
    for line in ["recover --root ROOT", "recover --root ROOT --to DIR/other"] {
        run(dir.path(), &args(dir.path(), line)).failed(1, "can be saved: its data.mdb is missing");
    }
}

#[test]
fn a_bolt_file_that_is_empty_or_cut_is_called_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("empty"), "").unwrap();
    run(dir.path(), &args(dir.path(), "import --root ROOT --bolt DIR/empty"))
        .failed(1, "empty is empty: it has no bolt database in it");
    run(dir.path(), &args(dir.path(), "import --root ROOT --bolt DIR/gone"))
        .failed(1, "gone does not exist: name another file");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let whole = fs::read_dir(data).unwrap().map(|entry| entry.unwrap().path());
    let mut tried = 0;
    for path in whole.filter(|path| path.to_string_lossy().ends_with(".meta.db.gz")) {
        let mut bytes = Vec::new();
        let file = fs::File::open(path).unwrap();
        std::io::copy(&mut flate2::read::GzDecoder::new(file), &mut bytes).unwrap();
        fs::write(dir.path().join("cut"), &bytes[..8192]).unwrap();
        run(dir.path(), &args(dir.path(), "import --root ROOT --bolt DIR/cut"))
            .failed(1, "cut is cut off: it has 8192 bytes, and its last state needs");
        tried += 1;
    }
    assert!(tried > 0, "there is no bolt file to cut");
    assert!(!dir.path().join("root").exists());
}

#[test]
fn a_lock_file_that_is_a_pipe_hangs_no_reader() {
    let dir = store(&["a"]);
    let lock = dir.path().join("root/owner.lock");
    fs::remove_file(&lock).unwrap();
    assert!(Command::new("mkfifo").arg(&lock).status().unwrap().success());
    for line in ["stat --root ROOT", "ls --root ROOT", "check --root ROOT"] {
        run(dir.path(), &args(dir.path(), line)).worked();
    }
}
