//! The changes of the catalogue: watched, polled, looked up, undone.

mod history;
mod pages;
mod retention;

use std::collections::BTreeMap;
use std::time::Duration;

use lmdb_images::api::catalog::watch_response::Is;
use lmdb_images::api::catalog::{
    ApplyResponse, Change, ChangesRequest, ChangesResponse, HeadRequest, HeadResponse,
    HistoryRequest, HistoryResponse, Kind, ListRequest, ListResponse, Origin, UndoRequest,
    UndoResponse, WatchRequest, history_request, undo_request,
};
use lmdb_images::api::images::{CreateImageResponse, DeleteImageRequest, Image};
use lmdb_images::daemon::Daemon;
use lmdb_images::store::Retention;
use lmdb_images::transport::Limits;
use protobuf::well_known_types::empty::Empty;
use tonic::Code;

use super::catalog::{batch, put};
use crate::support::catalog::{Catalog, Refused};
use crate::support::daemon_process::DaemonProcess;
use crate::support::random::Rng;
use crate::support::{BOTH, Client, DIGEST, Protocol, Served, config, create, image};

const OTHER: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

async fn make(catalog: &Catalog, namespace: &str, image: Image) {
    catalog.0.call::<CreateImageResponse>("Create", namespace, &create(image)).await.unwrap();
}

async fn delete(catalog: &Catalog, name: &str) {
    let request = DeleteImageRequest { name: name.into(), ..Default::default() };
    catalog.0.call::<Empty>("Delete", "n", &request).await.unwrap();
}

async fn set(catalog: &Catalog, name: &str, digest: &str) -> u64 {
    let mut image = image(name);
    image.target.mut_or_insert_default().digest = digest.into();
    let made: ApplyResponse = catalog.call("Apply", batch(vec![put(image, None)])).await.unwrap();
    made.results[0].seq
}

async fn head(catalog: &Catalog) -> HeadResponse {
    catalog.call("Head", HeadRequest::new()).await.unwrap()
}

fn from(epoch: &str, from: u64) -> WatchRequest {
    WatchRequest { epoch: epoch.into(), from, ..WatchRequest::default() }
}

async fn undo(catalog: &Catalog, request: UndoRequest) -> Result<Option<Change>, Refused> {
    catalog.call::<UndoResponse>("Undo", request).await.map(|r| r.change.into_option())
}

fn undo_of(what: undo_request::What) -> UndoRequest {
    UndoRequest { what: Some(what), ..UndoRequest::default() }
}

/// How often, or how many, in a long run (`scripts/soak/catalogue`), or `short`.
fn long(variable: &str, short: usize) -> usize {
    std::env::var(variable).map_or(short, |count| count.parse().unwrap())
}

#[tokio::test]
async fn a_watch_sends_every_matching_change_once_and_never_splits_a_batch() {
    let served = Served::start().await;
    let catalog = Catalog::of(&served, Protocol::Grpc).await;
    make(&catalog, "n", image("before")).await;
    let epoch = head(&catalog).await.epoch;
    let mut now = catalog.watch(WatchRequest::new()).await.unwrap();
    let Is::Started(started) = now.is().await else { panic!("no Started") };
    assert_eq!((started.epoch.as_str(), started.next, started.last), (epoch.as_str(), 2, 1));
    let mut all = catalog.watch(from(&epoch, 1)).await.unwrap();
    let mut of_m = catalog
        .watch(WatchRequest { namespaces: vec!["m".into()], ..from(&epoch, 1) })
        .await
        .unwrap();
    let filters = vec![format!("target.digest=={OTHER}")];
    let mut of_digest = catalog.watch(WatchRequest { filters, ..from(&epoch, 1) }).await.unwrap();
    let filters = vec!["name~=^x[0-9]+$".to_owned()];
    let mut of_regexp = catalog.watch(WatchRequest { filters, ..from(&epoch, 1) }).await.unwrap();

    make(&catalog, "m", image("m1")).await;
    set(&catalog, "before", OTHER).await;
    set(&catalog, "before", DIGEST).await;
    let items = (0..200).map(|n| put(image(&format!("x{n}")), None)).collect();
    catalog.call::<ApplyResponse>("Apply", batch(items)).await.unwrap();
    delete(&catalog, "x7").await;

    let found = all.changes(205).await;
    assert!(found.iter().map(|change| change.seq).eq(1..=205));
    let kinds: Vec<_> = found.iter().map(|c| c.kind.enum_value().unwrap()).collect();
    assert_eq!(kinds[2..4], [Kind::KIND_UPDATED; 2]);
    assert_eq!(kinds[204], Kind::KIND_DELETED);
    let actor = &found[0].actor;
    assert_eq!(actor.pid, std::process::id() as i32);
    assert_eq!(found[2].origin.enum_value().unwrap(), Origin::ORIGIN_BATCH);
    assert_eq!(found[2].before.target.digest, DIGEST);
    assert_eq!(found[2].after.target.digest, OTHER);
    assert!(found[4..204].iter().all(|change| change.commit_last == 204));
    assert!(now.changes(204).await.iter().map(|change| change.seq).eq(2..=205));
    assert_eq!(of_m.changes(1).await[0].name, "m1");
    // It came, and it went.
    assert!(of_digest.changes(2).await.iter().map(|change| change.seq).eq([3, 4]));
    // The batch is more than a watch reads at a time, and is in one message all the same.
    let mut found = Vec::new();
    while found.len() < 201 {
        if let Is::Changes(changes) = of_regexp.is().await {
            assert!(!found.is_empty() || changes.changes.len() >= 200);
            found.extend(changes.changes);
        }
    }
    assert!(found.iter().map(|change| change.seq).eq(5..=205));
}

#[tokio::test]
async fn the_initial_state_and_later_changes_give_the_state() {
    let served = Served::start().await;
    let catalog = Catalog::of(&served, Protocol::Grpc).await;
    for number in 0..300 {
        make(&catalog, "n", image(&format!("n{number:03}"))).await;
    }
    make(&catalog, "m", image("m")).await;
    let request = WatchRequest { initial_state: true, ..WatchRequest::default() };
    let mut watch = catalog.watch(request.clone()).await.unwrap();
    assert!(matches!(watch.is().await, Is::Started(_)));
    // While the state is read, it changes.
    delete(&catalog, "n299").await;
    set(&catalog, "n000", OTHER).await;
    let mut state = BTreeMap::new();
    let end = loop {
        match watch.is().await {
            Is::Changes(changes) => {
                for change in changes.changes {
                    assert_eq!(change.kind.enum_value(), Ok(Kind::KIND_PRESENT));
                    assert_eq!(change.seq, 0);
                    let digest = change.after.target.digest.clone();
                    state.insert((change.namespace, change.name), digest);
                }
            }
            Is::InitialEnd(end) => break end.seq,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(end, 301);
    for change in watch.changes(2).await {
        let key = (change.namespace.clone(), change.name.clone());
        match change.after.as_ref() {
            Some(after) => state.insert(key, after.target.digest.clone()),
            None => state.remove(&key),
        };
    }
    assert_eq!(state.len(), 300);
    assert_eq!(state[&("n".to_owned(), "n000".to_owned())], OTHER);
    let wrong = WatchRequest { epoch: head(&catalog).await.epoch, from: 1, ..request.clone() };
    let mut stream = catalog.watch(wrong).await.map(drop);
    assert!(stream.take_err().message.contains("from must be 0 with initial_state"));
    let filters = vec!["name~=^n00[0-4]$".to_owned()];
    let mut watch = catalog
        .watch(WatchRequest { filters, namespaces: vec!["n".into()], ..request })
        .await
        .unwrap();
    assert_eq!(watch.changes(5).await.len(), 5);
    assert!(matches!(watch.is().await, Is::InitialEnd(_)));
}

/// Shorter than `unwrap_err` on a result whose value has no `Debug`.
trait TakeErr<E> {
    fn take_err(&mut self) -> E;
}

impl<T, E: Clone> TakeErr<E> for Result<T, E> {
    fn take_err(&mut self) -> E {
        self.as_ref().err().expect("no error").clone()
    }
}

#[tokio::test]
async fn a_position_that_is_not_in_the_log_is_refused() {
    let served = Served::start().await;
    let catalog = Catalog::of(&served, Protocol::Grpc).await;
    make(&catalog, "n", image("a")).await;
    let epoch = head(&catalog).await.epoch;
    let other = "00000000-0000-4000-8000-000000000000";
    let tries = [
        (from(&epoch, 3), Code::OutOfRange, "AHEAD", "the newest is 1"),
        (from(&epoch, u64::MAX), Code::OutOfRange, "AHEAD", "the newest is 1"),
        (from(other, 1), Code::FailedPrecondition, "EPOCH_CHANGED", "the log began anew"),
        (from(other, 0), Code::FailedPrecondition, "EPOCH_CHANGED", "the log began anew"),
        (from("", 1), Code::InvalidArgument, "", "epoch must be set"),
        (from("nonsense", 1), Code::InvalidArgument, "", "epoch \"nonsense\" is none"),
    ];
    for (request, code, reason, said) in tries {
        let polled = ChangesRequest {
            epoch: request.epoch.clone(),
            from: request.from,
            ..ChangesRequest::default()
        };
        let is_now = request.from == 0;
        let refused = catalog.watch(request).await.map(drop).take_err();
        assert!(refused.is(code, reason), "{refused:?}");
        assert!(refused.message.contains(said), "{}", refused.message);
        if reason == "AHEAD" || reason == "EPOCH_CHANGED" {
            assert_eq!(refused.metadata["epoch"], epoch);
            assert_eq!((&*refused.metadata["first"], &*refused.metadata["last"]), ("1", "1"));
        }
        if is_now {
            continue;
        }
        for protocol in BOTH {
            let catalog = Catalog::of(&served, protocol).await;
            let again = catalog.call::<ChangesResponse>("Changes", polled.clone()).await;
            assert_eq!(again.unwrap_err(), refused);
        }
    }
    let filters = vec!["name==".to_owned()];
    let wrong = WatchRequest { filters, ..WatchRequest::default() };
    assert_eq!(catalog.watch(wrong).await.map(drop).take_err().code, Code::InvalidArgument);
    let filters = vec!["x".repeat(20_000)];
    let wrong = WatchRequest { filters, ..WatchRequest::default() };
    assert_eq!(catalog.watch(wrong).await.map(drop).take_err().code, Code::ResourceExhausted);
    let namespaces = vec!["a/b".to_owned()];
    let wrong = WatchRequest { namespaces, ..WatchRequest::default() };
    assert_eq!(catalog.watch(wrong).await.map(drop).take_err().code, Code::InvalidArgument);
}

#[tokio::test]
async fn changes_waits_for_a_change_that_matches() {
    let served = Served::start().await;
    for protocol in BOTH {
        let catalog = Catalog::of(&served, protocol).await;
        let now = head(&catalog).await;
        let request = ChangesRequest {
            epoch: now.epoch.clone(),
            from: now.last + 1,
            filters: vec!["name~=^wanted".into()],
            ..ChangesRequest::default()
        };
        let wait = |seconds| {
            let wait =
                protobuf::well_known_types::duration::Duration { seconds, ..Default::default() };
            ChangesRequest { wait: Some(wait).into(), ..request.clone() }
        };
        let none: ChangesResponse = catalog.call("Changes", request.clone()).await.unwrap();
        assert_eq!((none.changes.len(), none.next), (0, now.last + 1));
        let waiting = {
            let (catalog, request) = (catalog.clone(), wait(60));
            tokio::spawn(async move { catalog.call::<ChangesResponse>("Changes", request).await })
        };
        make(&catalog, "n", image(&format!("{protocol:?}"))).await;
        make(&catalog, "n", image(&format!("wanted-{protocol:?}"))).await;
        let found = waiting.await.unwrap().unwrap();
        assert_eq!(found.changes[0].name, format!("wanted-{protocol:?}"));
        assert_eq!(found.next, found.changes[0].seq + 1);
        let refused = catalog.call::<ChangesResponse>("Changes", wait(-1)).await.unwrap_err();
        assert!(refused.message.contains("wait is negative"));
        let zero = ChangesRequest { from: 0, ..request.clone() };
        let refused = catalog.call::<ChangesResponse>("Changes", zero).await.unwrap_err();
        assert!(refused.message.contains("from must be at least 1"));
    }
}

/// A watcher is killed at random moments, and resumes behind the last change that it has handled.
#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_is_killed_and_resumes_sees_each_change_once() {
    let kills = long("LMDB_IMAGES_WATCH_KILLS", 60);
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), Limits::default());
    // A watcher that is killed all the time may be slow.
    config.log_keep = Retention { bytes: 1 << 30, age: None };
    let daemon = Daemon::start(&config).await.unwrap();
    let catalog = Catalog::grpc(daemon.grpc()).await;
    let epoch = head(&catalog).await.epoch;
    let writer = {
        let catalog = catalog.clone();
        tokio::spawn(async move {
            let mut random = Rng::with_seed(7);
            let mut made = 0;
            for round in 0..kills * 7 {
                let items = (0..=random.usize(..7)).map(|n| {
                    made += 1;
                    put(image(&format!("{round}-{n}")), None)
                });
                let items = items.collect();
                catalog.call::<ApplyResponse>("Apply", batch(items)).await.unwrap();
            }
            made
        })
    };
    let mut random = Rng::with_seed(11);
    let (mut seen, mut next): (Vec<Change>, u64) = (Vec::new(), 1);
    for _ in 0..kills {
        let client = Catalog::grpc(daemon.grpc()).await;
        let mut watch = client.watch(from(&epoch, next)).await.unwrap();
        for _ in 0..1 + random.usize(..5) {
            let Ok(message) = tokio::time::timeout(Duration::from_secs(1), watch.is()).await else {
                break;
            };
            match message {
                Is::Changes(changes) => {
                    let last = changes.changes.last().unwrap();
                    assert_eq!(last.seq, last.commit_last, "an Apply is split");
                    next = last.seq + 1;
                    seen.extend(changes.changes);
                }
                Is::Progress(progress) => next = progress.seq + 1,
                _ => {}
            }
        }
        if writer.is_finished() && next > head(&catalog).await.last {
            break;
        }
    }
    let made = writer.await.unwrap();
    let mut watch = catalog.watch(from(&epoch, next)).await.unwrap();
    if next <= made {
        seen.extend(watch.changes((made + 1 - next) as usize).await);
    }
    assert!(seen.iter().map(|change| change.seq).eq(1..=made));
}

/// Watchers that never read hold no entry, no snapshot, and one message each; writers do not wait for them.
#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_never_read_are_bounded() {
    const WATCHERS: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let daemon = DaemonProcess::start(dir.path());
    let socket = dir.path().join("state/images.sock");
    let catalog = Catalog::grpc(&socket).await;
    let epoch = head(&catalog).await.epoch;
    let before = daemon.peak_mib();
    let mut watches = Vec::new();
    for _ in 0..WATCHERS {
        // A connection of its own each: one that is not read stalls all its streams.
        let client = Catalog::grpc(&socket).await;
        watches.push((client.watch(from(&epoch, 1)).await.unwrap(), client));
    }
    // More than all windows and buffers of all of them hold.
    for round in 0..150 {
        // Some are large messages, most are not.
        let items = (0..if round % 10 == 0 { 100 } else { 15 }).map(|n| {
            let mut image = image(&format!("{round}-{n}"));
            image.labels.insert("k".into(), "v".repeat(1000));
            put(image, None)
        });
        catalog.call::<ApplyResponse>("Apply", batch(items.collect())).await.unwrap();
    }
    let taken = daemon.peak_mib() - before;
    // 4 MiB of changes: 800 MiB if each watcher had them.
    assert!(taken < 100, "{taken} MiB");
    let (mut watch, _client) = watches.pop().unwrap();
    let all = head(&catalog).await.last;
    let seen = watch.changes(all as usize).await;
    assert!(seen.iter().map(|change| change.seq).eq(1..=all));
    drop(watches);
    daemon.stop();
}

#[tokio::test]
async fn one_client_does_not_take_all_watches() {
    let served = Served::start().await;
    let catalog = Catalog::of(&served, Protocol::Grpc).await;
    let mut watches = Vec::new();
    let refused = loop {
        match catalog.watch(WatchRequest::new()).await {
            Ok(watch) => watches.push(watch),
            Err(refused) => break refused,
        }
    };
    assert_eq!(watches.len(), 1000);
    assert!(refused.is(Code::ResourceExhausted, ""), "{refused:?}");
    assert!(
        refused.message.contains("this client has 1000 subscriptions and watches"),
        "{}",
        refused.message
    );
    drop(watches);
    // Their places are free again, soon.
    for _ in 0..1000 {
        if catalog.watch(WatchRequest::new()).await.is_ok() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("no place became free");
}
