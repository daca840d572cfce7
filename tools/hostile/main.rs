//! Attacks a daemon: one attack after the other, each from many connections, while another client makes its calls.
//! `scripts/soak/hostile` runs it. It prints a line for each attack.
//!
//! ```text
//! hostile siege GRPC_SOCK TTRPC_SOCK METRICS_SOCK FOLDER PID OTHER_TTRPC_SOCK SECONDS [PART OF A NAME]
//! ```
//!
//! The siege measures the daemon, not the scheduler. So the attackers are a process of their own with the
//! policy SCHED_IDLE: at the lowest nice value, a hundred threads still weigh more than the daemon. And a
//! client makes Gets of a second daemon, which is not attacked: if these Gets become slower, the machine is the cause.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod attackers;
mod attacks;
#[path = "../../tests/support/client.rs"]
mod client;
mod frames;
mod load;
mod probe;
mod report;
mod requests;

use std::ffi::OsString;
use std::io::{self, Read};
use std::path::Path;
use std::time::Duration;

use attackers::{attacked, watch_for};
use attacks::Siege;
use load::Sockets;
use probe::{Watched, fill};
use report::Report;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["siege", grpc, ttrpc, metrics, folder, pid, other, seconds, part @ ..] => {
            let metrics_socket = Path::new(metrics).exists().then(|| metrics.into());
            let watched = Watched {
                ttrpc: ttrpc.into(),
                metrics: metrics_socket,
                pid: pid.parse().expect("PID"),
                folder: folder.into(),
                other: other.into(),
            };
            let time = Duration::from_secs(seconds.parse().expect("SECONDS"));
            let sockets = [*grpc, *ttrpc, *metrics];
            let is_chosen = |name: &str| part.is_empty() || part.iter().any(|p| name.contains(p));
            std::process::exit(i32::from(!siege(&watched, sockets, time, is_chosen)));
        }
        ["attack", name, grpc, ttrpc, metrics] => {
            let attack = attacks::all().find(|attack| attack.name == *name).expect("an attack");
            let sockets =
                Sockets { grpc: grpc.into(), ttrpc: ttrpc.into(), metrics: metrics.into() };
            // The siege closes its end.
            let wait = || drop(io::stdin().read(&mut [0]));
            println!("{}", Siege::new(&sockets).lay(attack, wait));
        }
        _ => {
            eprintln!(
                "usage: hostile siege GRPC_SOCK TTRPC_SOCK METRICS_SOCK FOLDER PID OTHER_TTRPC_SOCK SECONDS [PART OF A NAME]..."
            );
            std::process::exit(2);
        }
    }
}

/// Attacks whose names are chosen; whether the daemon serves at the end.
fn siege(
    watched: &Watched,
    sockets: [&str; 3],
    time: Duration,
    is_chosen: impl Fn(&str) -> bool,
) -> bool {
    fill(&watched.ttrpc);
    fill(&watched.other);
    let mut report = Report::begin();
    for attack in attacks::all().filter(|attack| is_chosen(attack.name)) {
        let quiet = watch_for(watched, time / 3);
        let args = [attack.name].into_iter().chain(sockets).map(OsString::from);
        let (seen, blows) = attacked(watched, &["chrt", "--idle", "0"], args, time);
        let serves = watched.serves();
        report.add(attack, &blows, &quiet, &seen, serves);
        if !serves {
            return false;
        }
    }
    report.end();
    true
}
