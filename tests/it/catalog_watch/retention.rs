//! What the log no longer has, and a log that is off.

use std::time::Instant;

use super::*;

const WATCH_TIMEOUT: Duration = Duration::from_secs(20);

/// After this time a watch that has nothing to send says how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

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
    for _ in 0..1000 {
        let items = (0..50).map(|n| put(image(&format!("i{n}")), None)).collect();
        catalog.call::<ApplyResponse>("Apply", batch(items)).await.unwrap();
        let first = head(catalog).await.first;
        if first > before {
            return first;
        }
    }
    panic!("old changes do not go");
}

#[tokio::test]
async fn a_watch_of_another_namespace_that_is_idle_over_compactions_resumes() {
    let (_dir, _daemon, catalog) = forgetful().await;
    let epoch = head(&catalog).await.epoch;
    let (mut next, mut fastest) = (1, Duration::MAX);
    for round in 0..10 {
        let request = WatchRequest { namespaces: vec!["other".into()], ..from(&epoch, next) };
        let begun = Instant::now();
        let mut watch = catalog.watch(request).await.unwrap();
        assert!(matches!(watch.is().await, Is::Started(_)));
        // Until the log has dropped the changes that the watch began with.
        let mut first = next;
        while first <= next {
            first = until_compacted(&catalog).await;
        }
        while next < first {
            match watch.is().await {
                Is::Progress(progress) => next = progress.seq + 1,
                other => panic!("{other:?}"),
            }
        }
        fastest = fastest.min(begun.elapsed());
        // A later checkpoint may drop more changes, and then the watch would learn of it again. The newest
        // change stays.
        make(&catalog, "other", image(&round.to_string())).await;
        next = watch.changes(1).await[0].seq + 1;
    }
    // After that time the watch gets a message even if no change was dropped.
    assert!(fastest < PROGRESS_INTERVAL, "it learns of no compaction: {fastest:?}");
    make(&catalog, "other", image("mine")).await;
    let request = WatchRequest { namespaces: vec!["other".into()], ..from(&epoch, next) };
    let mut watch = catalog.watch(request).await.unwrap();
    assert_eq!(watch.changes(1).await[0].name, "mine");
}

/// The file would grow if a watcher held a snapshot, and old changes would stay if it held its place.
#[tokio::test]
async fn watchers_that_never_read_keep_no_change_and_do_not_grow_the_file() {
    const WATCHERS: usize = 20;
    /// LMDB's file grows in steps while its free pages settle.
    const MAX_GROWN_BYTES: u64 = 256 << 10;
    let (dir, daemon, catalog) = forgetful().await;
    let length = || std::fs::metadata(dir.path().join("root/data.mdb")).unwrap().len();
    set(&catalog, "a", DIGEST).await;
    let begin = head(&catalog).await;
    let mut watches = Vec::new();
    for _ in 0..WATCHERS {
        // A connection of its own each: one that is not read stalls all its streams.
        let client = Catalog::grpc(daemon.grpc()).await;
        watches.push((client.watch(from(&begin.epoch, begin.first)).await.unwrap(), client));
    }
    for _ in 0..10 {
        until_compacted(&catalog).await;
    }
    let settled = length();
    for _ in 0..40 {
        until_compacted(&catalog).await;
    }
    let grown = length().saturating_sub(settled);
    assert!(grown <= MAX_GROWN_BYTES, "the file has grown by {grown} bytes");
    assert!(head(&catalog).await.first > begin.last);
    drop(watches);
}

#[tokio::test]
async fn a_position_that_is_no_longer_in_the_log_is_refused_with_the_first_one() {
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
    // The newest change stays; the oldest may go at any checkpoint.
    let mut slow = client.watch(from(&epoch, head(&catalog).await.last)).await.unwrap();
    assert!(matches!(slow.is().await, Is::Started(_)));
    // More than the 2 MiB of its window and the buffers of the daemon hold.
    for round in 0..80 {
        let items = (0..50).map(|n| {
            let mut image = image(&format!("{round}-{n}"));
            image.labels.insert("k".into(), "v".repeat(1000));
            put(image, None)
        });
        catalog.call::<ApplyResponse>("Apply", batch(items.collect())).await.unwrap();
    }
    until_compacted(&catalog).await;
    let ended = async {
        loop {
            match slow.next().await.unwrap() {
                Ok(_) => {}
                Err(refused) => break refused,
            }
        }
    };
    let ended = tokio::time::timeout(WATCH_TIMEOUT, ended).await.expect("it goes on over the gap");
    assert!(ended.is(Code::OutOfRange, "COMPACTED"), "{ended:?}");
}

#[tokio::test]
async fn pages_work_without_a_log_and_changes_do_not() {
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
