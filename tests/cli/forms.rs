//! The forms of `ls`, the lint of names, `count` and `top`.

use std::io::{Read, Write};
use std::net::TcpListener;

use lmdb_images::store::Store;

use super::{args, fill, run, store};

fn listed(dir: &std::path::Path, line: &str) -> String {
    run(dir, &args(dir, &format!("ls --root ROOT {line}"))).worked()
}

#[test]
fn each_form_of_ls_has_two_names() {
    let dir = store(&["docker.io/library/a:1", "docker.io/library/b:1"]);
    let dir = dir.path();
    let names = "docker.io/library/a:1\ndocker.io/library/b:1\n";
    assert_eq!((listed(dir, "-q").as_str(), listed(dir, "-o name").as_str()), (names, names));
    assert_eq!(listed(dir, "-o json"), listed(dir, "--json"));
    assert_eq!(listed(dir, "-o wide"), listed(dir, "--no-trunc"));
    assert_eq!(listed(dir, "-o table"), listed(dir, ""));
    assert_eq!(
        listed(dir, "--format {namespace}:{name}={size}").lines().next().unwrap().split('=').next(),
        Some("default:docker.io/library/a:1")
    );
}

#[test]
fn two_forms_at_once_and_an_unknown_field_are_refused() {
    let dir = store(&[]);
    let dir = dir.path();
    for line in ["-q --json", "-o name --format x", "-o wide --json"] {
        run(dir, &args(dir, &format!("ls --root ROOT {line}"))).failed(2, "cannot be used with");
    }
    run(dir, &args(dir, "ls --root ROOT --format {nmae}")).failed(2, "no field \"nmae\"");
    run(dir, &args(dir, "ls --root ROOT -o yaml")).failed(2, "table, wide, name, json");
}

#[test]
fn check_names_lists_what_docker_and_cri_cannot_show() {
    let dir = store(&["docker.io/library/a:1", "nginx:1", "two words"]);
    let dir = dir.path();
    let found = run(dir, &args(dir, "check --root ROOT --names"));
    found.failed(1, "");
    assert_eq!(
        found.out(),
        "default\tnginx:1\tdocker and CRI look for it as docker.io/library/nginx:1\n\
         default\ttwo words\tno reference of docker's form: its path has other characters than a-z, 0-9 and \
         separators between them\n"
    );
    let json = run(dir, &args(dir, "check --root ROOT --names --json")).out();
    assert!(
        json.starts_with(r#"{"fault":"docker and CRI look"#)
            || json.contains(r#""name":"nginx:1""#),
        "{json}"
    );
    let whole = store(&["docker.io/library/a:1"]);
    assert_eq!(run(whole.path(), &args(whole.path(), "check --root ROOT --names")).worked(), "");
    run(dir, &args(dir, "check --root DIR/none --names")).failed(2, "");
}

#[test]
fn count_takes_the_labels_of_ls() {
    let dir = store(&["docker.io/library/a:1"]);
    let mut labelled = crate::support::image("docker.io/library/b:1");
    labelled.labels.insert("team".into(), "a".into());
    fill(&Store::open(&dir.path().join("root")).unwrap(), "default", vec![labelled]);
    for (line, count) in [
        ("", "2\n"),
        ("--label team", "1\n"),
        ("--label team=a name~=b", "1\n"),
        ("--label team=b", "0\n"),
        ("--label team name~=y.a", "0\n"),
    ] {
        let line = format!("count --root ROOT {line}");
        assert_eq!(run(dir.path(), &args(dir.path(), line.trim_end())).worked(), count, "{line}");
    }
    run(dir.path(), &args(dir.path(), "count --root ROOT --label =a"))
        .failed(1, "--label \"=a\" has no key");
}

#[test]
fn top_shows_the_difference_of_two_scrapes() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let daemon = std::thread::spawn(move || {
        for calls in [10, 110] {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 256];
            let length = stream.read(&mut asked).unwrap();
            assert!(asked[..length].starts_with(b"GET /metrics "));
            let body = format!(
                "lmdb_images_calls_total{{service=\"containerd.services.images.v1.Images\",method=\"Get\",\
                 transport=\"grpc\",code=\"OK\"}} {calls}\n\
                 lmdb_images_calls_in_flight{{service=\"lmdbimages.v1.Catalog\",method=\"Watch\",\
                 transport=\"grpc\"}} 3\n\
                 lmdb_images_client_calls_total{{client=\"ctr\",service=\"containerd.services.images.v1.Images\",\
                 method=\"Get\"}} {calls}\n# EOF\n"
            );
            write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}").unwrap();
        }
    });
    let dir = store(&[]);
    let line = format!("top --once --interval 1 --metrics-address {address}");
    let said = run(dir.path(), &args(dir.path(), &line)).worked();
    daemon.join().unwrap();
    let row = |first: &str| -> Vec<&str> {
        let line = said.lines().find(|line| line.starts_with(first));
        line.unwrap_or_else(|| panic!("no {first} in {said}")).split_whitespace().collect()
    };
    assert_eq!(row("Images/Get")[..2], ["Images/Get", "grpc"]);
    assert_eq!(row("Catalog/Watch")[..5], ["Catalog/Watch", "grpc", "0.0", "0.0", "3"]);
    assert_eq!(row("ctr")[..2], ["ctr", "Images/Get"]);
    assert!(said.contains("3 calls under way, of them 3 watches and 0 subscriptions"), "{said}");
    // A second has passed, or somewhat more.
    for rate in [row("Images/Get")[2], row("ctr")[2]] {
        let rate: f64 = rate.parse().unwrap();
        assert!((10.0..=100.5).contains(&rate), "{said}");
    }
    run(dir.path(), &args(dir.path(), "top --once --metrics-address DIR/none"))
        .failed(1, "is metrics_address set in its settings?");
}
