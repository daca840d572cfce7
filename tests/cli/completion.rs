//! What a shell offers for a line that is being written.

use std::path::Path;
use std::process::Command;

use lmdb_images::store::Store;
use tempfile::TempDir;

use super::{Ended, PROGRAM, args, fill, program, run, store};

/// The completions that bash's script gets for these words. The user is writing the last one.
fn completed(dir: &Path, words: &[&str]) -> Vec<String> {
    let mut command = program(dir);
    command.env("LMDB_IMAGES_COMPLETE", "bash").env("LMDB_IMAGES_ROOT", dir.join("root"));
    command.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string()).env("_CLAP_IFS", "\n");
    let ended = Ended(command.arg("--").args(words).output().unwrap());
    ended.worked().lines().map(str::to_owned).collect()
}

#[test]
fn a_shell_is_offered_commands_namespaces_and_names_of_the_store() {
    let dir =
        store(&["docker.io/library/a:1", "docker.io/library/b:1", "quay.io/c:1", "docker.io/$(x)"]);
    let dir = dir.path();
    assert_eq!(completed(dir, &["lmdb-images", "takeo"]), ["takeover"]);
    let names = completed(dir, &["lmdb-images", "inspect", "docker.io/"]);
    assert_eq!(names, ["docker.io/library/a:1", "docker.io/library/b:1"]);
    assert_eq!(completed(dir, &["lmdb-images", "ls", "-n", "d"]), ["default"]);
    // Without a store nothing is offered, and nothing is printed on standard error.
    let none = tempfile::tempdir().unwrap();
    assert_eq!(completed(none.path(), &["lmdb-images", "inspect", "d"]), [""; 0]);
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            run(dir, &args(dir, &format!("completion {shell}")))
                .worked()
                .contains("LMDB_IMAGES_COMPLETE")
        );
    }
}

/// A store with names in two namespaces.
fn two_namespaces() -> TempDir {
    let dir = store(&["docker.io/library/a:1", "docker.io/library/a:2"]);
    let other = Store::open(&dir.path().join("root")).unwrap();
    fill(&other, "k8s.io", vec![crate::support::image("docker.io/library/k@sha256:12")]);
    dir
}

#[test]
fn the_namespace_and_the_store_of_the_line_count() {
    let dir = two_namespaces();
    let (at, root) = (dir.path(), dir.path().join("root"));
    let (default, other) =
        (["docker.io/library/a:1", "docker.io/library/a:2"], ["docker.io/library/k@sha256:12"]);
    for line in [
        "inspect -n k8s.io d",
        "inspect -nk8s.io d",
        "inspect --namespace=k8s.io d",
        "inspect --namespace k8s.io d",
        "tag -n k8s.io d",
        "undo -n k8s.io d",
        "history -n k8s.io d",
    ] {
        let words: Vec<_> = ["lmdb-images"].into_iter().chain(line.split(' ')).collect();
        assert_eq!(completed(at, &words), other, "{line}");
    }
    assert_eq!(completed(at, &["lmdb-images", "undo", "d"]), default);
    // The history is that of all namespaces.
    let all = completed(at, &["lmdb-images", "history", "d"]);
    assert_eq!(all, [&default[..], &other].concat());
    assert_eq!(completed(at, &["lmdb-images", "history", "-n", "k"]), ["k8s.io"]);

    let root = root.to_str().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let file = at.join("settings.toml");
    std::fs::write(&file, format!("root = {root:?}")).unwrap();
    let equal = format!("--root={root}");
    let words = ["lmdb-images", "inspect", &equal, "d"];
    assert_eq!(completed(elsewhere.path(), &words), default);
    let words = ["lmdb-images", "inspect", "--root", root, "d"];
    assert_eq!(completed(elsewhere.path(), &words), default);
    let mut command = program(elsewhere.path());
    command.env("LMDB_IMAGES_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "4");
    command.args(["--", "lmdb-images", "inspect", "--config"]).arg(&file).arg("d");
    assert_eq!(Ended(command.output().unwrap()).worked().lines().collect::<Vec<_>>(), default);
}

/// What bash offers for a line with the cursor at its end. Bash has split it into these words at blanks and at : = @,
/// and completes `current`.
fn offered_by_bash(dir: &Path, line: &str, split: &[&str], current: &str) -> String {
    let script = run(dir, &["completion", "bash"]).worked();
    let call = "COMP_LINE=$1 COMP_POINT=${#1} current=$2; shift 2; COMP_WORDS=(\"$@\") COMP_CWORD=$(($# - 1))
        function=$(complete -p lmdb-images | sed 's/.* -F \\([^ ]*\\) .*/\\1/')
        $function lmdb-images \"$current\" before && echo \"${COMPREPLY[*]}\"";
    let folder = Path::new(PROGRAM).parent().unwrap();
    let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command
        .env_clear()
        .env("HOME", dir)
        .env("PATH", path)
        .env("LMDB_IMAGES_ROOT", dir.join("root"));
    command.args(["--norc", "-c", &format!("{script}\n{call}"), "bash", line, current]).args(split);
    Ended(command.output().unwrap()).worked().trim_end().to_owned()
}

#[test]
fn bash_completes_names_that_it_splits() {
    let dir = two_namespaces();
    for (line, current, offered) in [
        ("inspect docker.io/l", "docker.io/l", "docker.io/library/a:1 docker.io/library/a:2"),
        ("inspect docker.io/library/a :", "", "1 2"),
        ("inspect docker.io/library/a : 2", "2", "2"),
        ("inspect -n k8s.io docker.io/library/k @ sha256 : 1", "1", "12"),
        ("inspect --namespace = k8s.io d", "d", "docker.io/library/k@sha256:12"),
        ("inspect --namespace = k", "k", "k8s.io"),
        ("tag docker.io/library/a : 1 docker.io/library/a : 2", "2", "2"),
        ("exp", "exp", "export explain"),
    ] {
        let written =
            line.replace(" : ", ":").replace(" :", ":").replace(" = ", "=").replace(" @ ", "@");
        let split: Vec<_> = ["lmdb-images"].into_iter().chain(line.split(' ')).collect();
        let found = offered_by_bash(dir.path(), &format!("lmdb-images {written}"), &split, current);
        assert_eq!(found, offered, "{written}");
    }
    // Bash itself writes a blank in a path with a backslash.
    std::os::unix::fs::symlink(dir.path(), dir.path().join("a folder")).unwrap();
    let root = format!("{}/a\\ folder/root", dir.path().display());
    let split = ["lmdb-images", "count", "--root", &root, "-n", "k"];
    let line = split.join(" ");
    let elsewhere = tempfile::tempdir().unwrap();
    assert_eq!(offered_by_bash(elsewhere.path(), &line, &split, "k"), "k8s.io");
    // Here a blank is between the separator and the next word.
    let split = ["lmdb-images", "tag", "a", ":", "docker.io/library/a", ":", "1"];
    let line = "lmdb-images tag a: docker.io/library/a:1";
    assert_eq!(offered_by_bash(dir.path(), line, &split, "1"), "1");
}
