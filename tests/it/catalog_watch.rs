//! The changes of the catalogue: watched, polled, looked up, undone.

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

#[tokio::test]
async fn a_watch_sends_every_change_of_its_filter_once_and_a_batch_whole() {
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
async fn the_initial_state_and_what_follows_are_the_truth() {
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

async fn history(catalog: &Catalog, of: history_request::Of) -> Result<Vec<Change>, Refused> {
    let mut request = HistoryRequest { of: Some(of), page_size: 2, ..HistoryRequest::default() };
    let mut found = Vec::new();
    loop {
        let page: HistoryResponse = catalog.call("History", request.clone()).await?;
        found.extend(page.changes);
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

#[tokio::test]
async fn history_tells_of_a_name_or_a_digest_newest_first() {
    let served = Served::start().await;
    for (number, protocol) in BOTH.into_iter().enumerate() {
        let catalog = Catalog::of(&served, protocol).await;
        let name = format!("{protocol:?}");
        let digest = format!("sha256:{:064x}", number + 1);
        make(&catalog, "n", image(&name)).await;
        make(&catalog, "n", image(&format!("other-{number}"))).await;
        make(&catalog, "m", image(&name)).await;
        set(&catalog, &name, &digest).await;
        set(&catalog, &name, OTHER).await;
        delete(&catalog, &name).await;
        let of = history_request::Of::Name;
        let found = history(&catalog, of(name.clone())).await.unwrap();
        let kinds: Vec<_> = found.iter().map(|c| c.kind.enum_value().unwrap()).collect();
        use Kind::{KIND_CREATED, KIND_DELETED, KIND_UPDATED};
        let expected = [KIND_DELETED, KIND_UPDATED, KIND_UPDATED, KIND_CREATED, KIND_CREATED];
        assert_eq!(kinds, expected);
        assert!(found.iter().map(|change| change.seq).rev().is_sorted());
        let by_digest = history(&catalog, history_request::Of::Digest(digest)).await.unwrap();
        assert_eq!(by_digest.len(), 2, "it came and went");
        let request = HistoryRequest {
            of: Some(of(name.clone())),
            namespaces: vec!["m".into()],
            ..HistoryRequest::default()
        };
        let page: HistoryResponse = catalog.call("History", request.clone()).await.unwrap();
        assert_eq!(page.changes.len(), 1);
        let request = HistoryRequest {
            before: found[1].seq,
            since: found[3].time.clone(),
            namespaces: vec!["n".into()],
            ..request
        };
        let page: HistoryResponse = catalog.call("History", request.clone()).await.unwrap();
        assert!(page.changes.iter().all(|c| c.seq < found[1].seq && c.seq >= found[4].seq));
        assert!(!page.changes.is_empty());
        let foreign = HistoryRequest { page_token: "x".into(), ..request };
        let refused = catalog.call::<HistoryResponse>("History", foreign).await.unwrap_err();
        assert!(refused.is(Code::InvalidArgument, "PAGE_TOKEN"));
        let refused = history(&catalog, history_request::Of::Digest("x".into())).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument);
        assert_eq!(history(&catalog, of("nothing".into())).await.unwrap(), []);
    }
}

async fn get(catalog: &Catalog, name: &str) -> Option<Image> {
    let filters = vec![format!("name=={name}")];
    let found: ListResponse =
        catalog.call("List", ListRequest { filters, ..Default::default() }).await.unwrap();
    found.images.into_iter().next().and_then(|listed| listed.image.into_option())
}

async fn undo(catalog: &Catalog, request: UndoRequest) -> Result<Option<Change>, Refused> {
    catalog.call::<UndoResponse>("Undo", request).await.map(|r| r.change.into_option())
}

fn undo_of(what: undo_request::What) -> UndoRequest {
    UndoRequest { what: Some(what), ..UndoRequest::default() }
}

#[tokio::test]
async fn undo_brings_back_what_a_change_took_unless_it_was_changed_since() {
    use undo_request::{To, What};
    let served = Served::start().await;
    for protocol in BOTH {
        let catalog = Catalog::of(&served, protocol).await;
        let name = format!("{protocol:?}");
        let mut first = image(&name);
        first.labels.insert("k".into(), "v".into());
        make(&catalog, "n", first).await;
        let before = get(&catalog, &name).await.unwrap();
        let moved = set(&catalog, &name, OTHER).await;
        delete(&catalog, &name).await;
        let deleted = head(&catalog).await.last;
        // Only said.
        let dry = UndoRequest { dry_run: true, ..undo_of(What::Seq(deleted)) };
        let said = undo(&catalog, dry).await.unwrap().unwrap();
        assert_eq!((said.seq, said.undoes), (0, deleted));
        assert!(get(&catalog, &name).await.is_none());
        // The delete.
        let done = undo(&catalog, undo_of(What::Seq(deleted))).await.unwrap().unwrap();
        assert_eq!((done.seq, done.undoes), (deleted + 1, deleted));
        assert_eq!(done.origin.enum_value().unwrap(), Origin::ORIGIN_UNDO);
        assert_eq!(done.kind.enum_value().unwrap(), Kind::KIND_CREATED);
        let back = get(&catalog, &name).await.unwrap();
        assert_eq!(back.target.digest, OTHER);
        assert_eq!(back.created_at, before.created_at);
        // The move, after which much happened.
        let refused = undo(&catalog, undo_of(What::Seq(moved))).await.unwrap_err();
        assert!(refused.is(Code::FailedPrecondition, "CHANGED_SINCE"), "{refused:?}");
        assert_eq!(refused.metadata["seq"], done.seq.to_string());
        let forced = UndoRequest { force: true, ..undo_of(What::Seq(moved)) };
        undo(&catalog, forced.clone()).await.unwrap().unwrap();
        let back = get(&catalog, &name).await.unwrap();
        assert_eq!((back.target.digest.as_str(), &back.labels), (DIGEST, &before.labels));
        // It has that state already.
        assert_eq!(undo(&catalog, forced).await.unwrap(), None);
        // The newest change of a name, which is that undo.
        undo(&catalog, undo_of(What::Name(name.clone()))).await.unwrap().unwrap();
        assert_eq!(get(&catalog, &name).await.unwrap().target.digest, OTHER);
        // As it was after a change of another name.
        set(&catalog, &format!("{name}/2"), OTHER).await;
        let between = head(&catalog).await.last;
        set(&catalog, &name, DIGEST).await;
        let to = |to| UndoRequest { to: Some(to), ..undo_of(What::Name(name.clone())) };
        undo(&catalog, to(To::ToSeq(between))).await.unwrap().unwrap();
        assert_eq!(get(&catalog, &name).await.unwrap().target.digest, OTHER);
        // As it was at a time: before it was.
        let long_ago =
            protobuf::well_known_types::timestamp::Timestamp { seconds: 1, ..Default::default() };
        let gone = undo(&catalog, to(To::ToTime(long_ago))).await.unwrap().unwrap();
        assert_eq!(gone.kind.enum_value().unwrap(), Kind::KIND_DELETED);
        assert!(get(&catalog, &name).await.is_none());
        for (request, code, reason) in [
            (undo_of(What::Seq(1 << 40)), Code::OutOfRange, "AHEAD"),
            (undo_of(What::Seq(0)), Code::OutOfRange, "COMPACTED"),
            (to(To::ToSeq(1 << 40)), Code::OutOfRange, "AHEAD"),
            (undo_of(What::Name("nothing".into())), Code::NotFound, ""),
            (UndoRequest::default(), Code::InvalidArgument, ""),
            (
                UndoRequest { to: Some(To::ToSeq(1)), ..undo_of(What::Seq(1)) },
                Code::InvalidArgument,
                "",
            ),
            (
                UndoRequest {
                    epoch: "00000000-0000-4000-8000-000000000000".into(),
                    ..undo_of(What::Seq(1))
                },
                Code::FailedPrecondition,
                "EPOCH_CHANGED",
            ),
        ] {
            let refused = undo(&catalog, request).await.unwrap_err();
            assert!(refused.is(code, reason), "{refused:?}");
        }
    }
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
    assert_eq!(watches.len(), 1024);
    assert!(refused.is(Code::ResourceExhausted, ""), "{refused:?}");
    assert!(refused.message.contains("this client has 1024 watches"), "{}", refused.message);
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

/// A daemon that keeps few changes.
async fn forgetful() -> (tempfile::TempDir, Daemon, Catalog) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), Limits::default());
    config.log_keep = Retention { bytes: 64 << 10, age: None };
    let daemon = Daemon::start(&config).await.unwrap();
    let catalog = Catalog::grpc(daemon.grpc()).await;
    (dir, daemon, catalog)
}

/// Changes an image until old changes go; gives the first that is kept then.
async fn until_compacted(catalog: &Catalog) -> u64 {
    let before = head(catalog).await.first;
    loop {
        let items = (0..50).map(|n| put(image(&format!("i{n}")), None)).collect();
        catalog.call::<ApplyResponse>("Apply", batch(items)).await.unwrap();
        let first = head(catalog).await.first;
        if first > before {
            return first;
        }
    }
}

#[tokio::test]
async fn a_watch_of_another_namespace_that_is_idle_over_compactions_resumes() {
    let (_dir, _daemon, catalog) = forgetful().await;
    let epoch = head(&catalog).await.epoch;
    let (mut next, mut compactions) = (1, 0);
    while compactions < 10 {
        let request = WatchRequest { namespaces: vec!["other".into()], ..from(&epoch, next) };
        let mut watch = catalog.watch(request).await.unwrap();
        assert!(matches!(watch.is().await, Is::Started(_)));
        let first = until_compacted(&catalog).await;
        compactions += 1;
        while next < first {
            match watch.is().await {
                Is::Progress(progress) => next = progress.seq + 1,
                other => panic!("{other:?}"),
            }
        }
    }
    make(&catalog, "other", image("mine")).await;
    let request = WatchRequest { namespaces: vec!["other".into()], ..from(&epoch, next) };
    let mut watch = catalog.watch(request).await.unwrap();
    assert_eq!(watch.changes(1).await[0].name, "mine");
}

#[tokio::test]
async fn what_is_no_longer_kept_is_refused_with_where_to_begin() {
    let (_dir, daemon, catalog) = forgetful().await;
    let epoch = head(&catalog).await.epoch;
    set(&catalog, "a", DIGEST).await;
    let first = until_compacted(&catalog).await;
    let refused = catalog.watch(from(&epoch, 1)).await.map(drop).take_err();
    assert!(refused.is(Code::OutOfRange, "COMPACTED"), "{refused:?}");
    assert!(refused.metadata["first"].parse::<u64>().unwrap() >= first);
    assert_eq!(refused.metadata["epoch"], epoch);
    let ttrpc = Catalog(Client::ttrpc(daemon.ttrpc()).await);
    let polled = ChangesRequest { epoch: epoch.clone(), from: 1, ..ChangesRequest::default() };
    let refused = ttrpc.call::<ChangesResponse>("Changes", polled).await.unwrap_err();
    assert!(refused.is(Code::OutOfRange, "COMPACTED"), "{refused:?}");
    let refused = undo(&catalog, undo_of(undo_request::What::Seq(1))).await.unwrap_err();
    assert!(refused.is(Code::OutOfRange, "COMPACTED"), "{refused:?}");
    // A running watch whose client is too slow ends the same way.
    let client = Catalog::grpc(daemon.grpc()).await;
    let mut slow = client.watch(from(&epoch, head(&catalog).await.first)).await.unwrap();
    assert!(matches!(slow.is().await, Is::Started(_)));
    for _ in 0..40 {
        until_compacted(&catalog).await;
    }
    let ended = loop {
        match slow.next().await.unwrap() {
            Ok(_) => {}
            Err(refused) => break refused,
        }
    };
    assert!(ended.is(Code::OutOfRange, "COMPACTED"), "{ended:?}");
}

#[tokio::test]
async fn without_a_log_there_are_pages_and_no_changes() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), Limits::default());
    config.log_keep = Retention { bytes: 0, age: None };
    let daemon = Daemon::start(&config).await.unwrap();
    let catalog = Catalog::grpc(daemon.grpc()).await;
    let made = set(&catalog, "a", DIGEST).await;
    assert_eq!(made, 0);
    let now = head(&catalog).await;
    assert_eq!((now.epoch.as_str(), now.first, now.last), ("", 0, 0));
    let page: ListResponse = catalog.call("List", ListRequest::new()).await.unwrap();
    assert_eq!((page.images.len(), page.seq), (1, 0));
    let refused = catalog.watch(WatchRequest::new()).await.map(drop).take_err();
    assert!(refused.is(Code::FailedPrecondition, "LOG_OFF"), "{refused:?}");
    let refused = undo(&catalog, undo_of(undo_request::What::Seq(1))).await.unwrap_err();
    assert!(refused.is(Code::FailedPrecondition, "LOG_OFF"), "{refused:?}");
}

/// How often, or how many, in a long run (`scripts/soak/catalogue`), or `short`.
fn long(variable: &str, short: usize) -> usize {
    std::env::var(variable).map_or(short, |count| count.parse().unwrap())
}

/// Pages are read while images change; watching from the first page's seq leads to the truth.
#[tokio::test(flavor = "multi_thread")]
async fn pages_during_writes_and_a_watch_from_the_first_page_are_the_truth() {
    let images = long("LMDB_IMAGES_PAGED_IMAGES", 3000);
    let served = Served::start().await;
    let catalog = Catalog::of(&served, Protocol::Grpc).await;
    for first in (0..images).step_by(1000) {
        let items =
            (first..images.min(first + 1000)).map(|n| put(image(&format!("n{n:07}")), None));
        catalog.call::<ApplyResponse>("Apply", batch(items.collect())).await.unwrap();
    }
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let writer = {
        let catalog = catalog.clone();
        tokio::spawn(async move {
            let mut random = Rng::with_seed(3);
            let mut made = 0;
            while made < 200
                || stopped.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty)
            {
                let name = format!("n{:07}", random.usize(..images + images / 10));
                match random.usize(..3) {
                    0 => {
                        let request = DeleteImageRequest { name, ..Default::default() };
                        let _ = catalog.0.call::<Empty>("Delete", "n", &request).await;
                    }
                    _ => drop(set(&catalog, &name, OTHER).await),
                }
                made += 1;
            }
        })
    };
    let mut state = BTreeMap::new();
    let mut request = ListRequest { page_size: 100, ..ListRequest::default() };
    let (epoch, seq) = loop {
        let page: ListResponse = catalog.call("List", request.clone()).await.unwrap();
        for listed in page.images {
            state.insert(listed.image.name.clone(), listed.image.target.digest.clone());
        }
        if page.next_page_token.is_empty() {
            break (page.epoch, page.seq);
        }
        request.page_token = page.next_page_token;
    };
    drop(stop);
    writer.await.unwrap();
    let last = head(&catalog).await.last;
    let mut watch = catalog.watch(from(&epoch, seq + 1)).await.unwrap();
    for change in watch.changes((last - seq) as usize).await {
        match change.after.as_ref() {
            Some(after) => state.insert(change.name.clone(), after.target.digest.clone()),
            None => state.remove(&change.name),
        };
    }
    let mut truth = BTreeMap::new();
    let mut stream = catalog
        .stream::<ListResponse>("StreamList", ListRequest { page_size: 1000, ..Default::default() })
        .await
        .unwrap();
    while let Some(page) = stream.next().await {
        for listed in page.unwrap().images {
            truth.insert(listed.image.name.clone(), listed.image.target.digest.clone());
        }
    }
    assert_eq!(state, truth);
}
