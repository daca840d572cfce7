//! History and Undo.

use super::*;

async fn history(catalog: &Catalog, subject: history_request::Of) -> Result<Vec<Change>, Refused> {
    let mut request =
        HistoryRequest { of: Some(subject), page_size: 2, ..HistoryRequest::default() };
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
async fn history_lists_the_changes_of_a_name_or_digest_newest_first() {
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
        let by_name = history_request::Of::Name;
        let found = history(&catalog, by_name(name.clone())).await.unwrap();
        let kinds: Vec<_> = found.iter().map(|c| c.kind.enum_value().unwrap()).collect();
        use Kind::{KIND_CREATED, KIND_DELETED, KIND_UPDATED};
        let expected = [KIND_DELETED, KIND_UPDATED, KIND_UPDATED, KIND_CREATED, KIND_CREATED];
        assert_eq!(kinds, expected);
        assert!(found.iter().map(|change| change.seq).rev().is_sorted());
        let by_digest = history(&catalog, history_request::Of::Digest(digest)).await.unwrap();
        assert_eq!(by_digest.len(), 2, "it came and went");
        let request = HistoryRequest {
            of: Some(by_name(name.clone())),
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
        assert_eq!(history(&catalog, by_name("nothing".into())).await.unwrap(), []);
    }
}

async fn get(catalog: &Catalog, name: &str) -> Option<Image> {
    let filters = vec![format!("name=={name}")];
    let found: ListResponse =
        catalog.call("List", ListRequest { filters, ..Default::default() }).await.unwrap();
    found.images.into_iter().next().and_then(|listed| listed.image.into_option())
}

#[tokio::test]
async fn undo_restores_the_state_before_a_change_unless_a_later_one_exists() {
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
            (undo_of(What::Seq(0)), Code::InvalidArgument, ""),
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
