//! A store on a read-only file system, in a mount namespace of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Ended, args, program, run, store};

/// Runs the program where the folder `root` is read-only; nothing where no such place can be made.
fn readonly(dir: &Path, before: &str, line: &str) -> Option<Ended> {
    let mount = format!("mount --bind {0} {0} && mount -o remount,ro,bind {0}", "\"$0\"");
    let mut can = Command::new("unshare");
    can.args(["-m", "sh", "-c", &mount]).arg(dir.join("root"));
    if !can.output().is_ok_and(|tried| tried.status.success()) {
        return None;
    }
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", &format!("{mount} && exec {before} \"$@\"")]);
    command.arg(dir.join("root"));
    let inner = program(dir);
    command.env_clear().envs(inner.get_envs().filter_map(|(k, v)| Some((k, v?))));
    command.arg(inner.get_program()).args(inner.get_args()).args(args(dir, line));
    Some(Ended(command.output().unwrap()))
}

#[test]
fn reading_commands_work_on_a_read_only_file_system_and_others_say_why_not() {
    let dir = store(&["a"]);
    // Open to others: to close them is not possible there, and must not be said.
    for entry in fs::read_dir(dir.path().join("root")).unwrap() {
        let path = entry.unwrap().path();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    }
    for before in ["", "without-lock"] {
        if before == "without-lock" {
            fs::remove_file(dir.path().join("root/lock.mdb")).unwrap();
            fs::remove_file(dir.path().join("root/owner.lock")).unwrap();
        }
        for line in [
            "ls --root ROOT",
            "inspect --root ROOT a",
            "stat --root ROOT",
            "check --root ROOT",
            "explain --root ROOT name==a",
            "backup --root ROOT --force DIR/backup",
            &format!("recover --root ROOT --to DIR/saved{before}"),
        ] {
            let Some(ended) = readonly(dir.path(), "", line) else { return };
            ended.worked();
            assert!(!ended.err().contains("it has mode"), "{line}: {}", ended.err());
        }
        for line in [
            "recover --root ROOT",
            "compact --root ROOT",
            "restore --root ROOT --force DIR/backup",
            "serve --root ROOT --state DIR/state",
        ] {
            let Some(ended) = readonly(dir.path(), "", line) else { return };
            ended.failed(1, "lies on a read-only file system");
            assert!(!ended.err().contains("it has mode"), "{line}: {}", ended.err());
        }
    }
}

#[test]
fn a_damaged_store_is_saved_from_there_by_an_owner_other_than_root() {
    let dir = store(&["a", "b"]);
    let file = dir.path().join("root/data.mdb");
    let mut bytes = fs::read(&file).unwrap();
    let at = bytes.windows(12).rposition(|b| b == b"v1/default/i").unwrap();
    bytes[at + 40] ^= 1;
    fs::write(&file, bytes).unwrap();
    let chown = Command::new("chown").args(["-R", "65534:65534"]).arg(dir.path()).status();
    if !chown.unwrap().success() {
        return;
    }
    let as_user = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let Some(ended) = readonly(dir.path(), as_user, "recover --root ROOT --to DIR/saved") else {
        return;
    };
    assert!([0, 1].contains(&ended.status()), "{}", ended.err());
    assert!(ended.out().contains("saved "), "{}{}", ended.out(), ended.err());
    run(dir.path(), &args(dir.path(), "check --root DIR/saved")).worked();
}
