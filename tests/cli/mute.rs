//! A server that accepts and says nothing holds up no command, nor does it keep one from the next server.

use std::net::TcpListener;

use super::{args, run};

#[test]
fn a_mute_postgresql_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::scope(|scope| {
        for (command, options) in [
            ("fleet nodes --from", "?sslmode=disable"),
            ("fleet nodes --from", ""),
            ("fleet schema --to", "?sslmode=disable"),
        ] {
            let line = format!("{command} postgres://n@127.0.0.1:{port}/d{options}");
            let dir = dir.path();
            scope.spawn(move || {
                run(dir, &args(dir, &line)).failed(1, "did not answer within 15s");
            });
        }
        let dir = dir.path();
        scope.spawn(move || {
            let line = format!("fleet nodes --from postgres://n@127.0.0.1:{port},127.0.0.1:1/d");
            let ended = run(dir, &args(dir, &line));
            ended.failed(1, "did not answer within 15s");
            ended.failed(1, "; connecting to PostgreSQL at 127.0.0.1");
        });
    });
}
