//! The process of the attackers, and the daemon watched meanwhile.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::load::READY;
use super::probe::{Seen, Watched};

/// Watches for a while.
pub fn watch_for(watched: &Watched, time: Duration) -> Seen {
    watch_during(watched, || std::thread::sleep(time)).0
}

/// Runs this program once more, as `attack` with `args`, under the command `lowered`, which lowers its priority.
/// Watches the daemon for `time` from the beginning of the attack. Returns the observations, and the last output of the
/// attackers.
pub fn attacked(
    watched: &Watched,
    lowered: &[&str],
    args: impl IntoIterator<Item = OsString>,
    time: Duration,
) -> (Seen, String) {
    let mut command = lowered.iter();
    let mut attackers = Command::new(command.next().unwrap())
        .args(command)
        .arg(std::env::current_exe().unwrap())
        .arg("attack")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(attackers.stdout.take().unwrap());
    let (seen, ()) = watch_during(watched, || {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), READY, "what attackers say first");
        std::thread::sleep(time);
    });
    // They attack until their input ends.
    drop(attackers.stdin.take());
    let mut end = String::new();
    said.read_to_string(&mut end).unwrap();
    attackers.wait().unwrap();
    (seen, end.trim().to_owned())
}

fn watch_during<T>(watched: &Watched, act: impl FnOnce() -> T) -> (Seen, T) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let seen = scope.spawn(|| watched.watch(&over));
        let acted = act();
        over.store(true, Ordering::Relaxed);
        (seen.join().unwrap(), acted)
    })
}
