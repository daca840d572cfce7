//! Batches of changes.

use super::*;

#[tokio::test]
async fn a_batch_is_applied_whole_or_not_at_all() {
    let served = Served::start().await;
    for protocol in BOTH {
        let catalog = Catalog::of(&served, protocol).await;
        let name = |name: &str| format!("{protocol:?}/{name}");
        let apply = async |items| catalog.call::<ApplyResponse>("Apply", batch(items)).await;
        let absent = || Some(precondition::Is::Absent(true));
        let made = apply(vec![
            put(image(&name("a")), absent()),
            put(image(&name("b")), absent()),
            put(labelled(&name("c"), "k", "v"), None),
        ])
        .await
        .unwrap();
        assert_eq!(made.results.len(), 3);
        assert!(made.results.iter().all(|r| r.status.is_none() && r.seq > 0 && !r.etag.is_empty()));
        let prefix = format!("name~=^{protocol:?}/");
        assert_eq!(count(&catalog, &[&prefix], &[]).await, 3);
        // One item that fails, and nothing is changed.
        for (failing, code, said) in [
            (put(image(&name("a")), absent()), Code::AlreadyExists, "already exists"),
            (remove(&name("none"), None), Code::NotFound, "not found"),
            (
                put(moved(&name("a"), OTHER), Some(precondition::Is::Digest(OTHER.into()))),
                Code::FailedPrecondition,
                "has target sha256:aaaa",
            ),
            (
                put(moved(&name("a"), OTHER), Some(precondition::Is::Etag("x".into()))),
                Code::FailedPrecondition,
                "was changed: its etag is",
            ),
            (
                put(image(&name("none")), Some(precondition::Is::Etag("x".into()))),
                Code::NotFound,
                "not found",
            ),
        ] {
            let items = vec![put(image(&name("d")), None), remove(&name("b"), None), failing];
            let refused = apply(items).await.unwrap_err();
            assert!(refused.is(code, "ITEM"), "{refused:?}");
            assert_eq!(refused.metadata["item"], "3");
            assert!(refused.message.starts_with("item 3: "), "{}", refused.message);
            assert!(refused.message.contains(said), "{}", refused.message);
            assert_eq!(count(&catalog, &[&prefix], &[]).await, 3);
        }
        // Each by itself, if that is wanted.
        let partial = ApplyRequest {
            allow_partial: true,
            ..batch(vec![
                put(image(&name("d")), absent()),
                put(image(&name("a")), absent()),
                remove(&name("b"), Some(precondition::Is::Etag(made.results[1].etag.clone()))),
            ])
        };
        let found: ApplyResponse = catalog.call("Apply", partial).await.unwrap();
        let codes: Vec<_> = found.results.iter().map(|r| r.status.code).collect();
        assert_eq!(codes, [0, Code::AlreadyExists as i32, 0]);
        assert_eq!(count(&catalog, &[&prefix], &[]).await, 3);
        // A mask changes a label and nothing else, without a target.
        let mut relabelled = labelled(&name("c"), "k", "w");
        relabelled.target = MessageField::none();
        let mask = FieldMask { paths: vec!["labels.k".into()], ..FieldMask::default() };
        let masked = Put {
            image: Some(relabelled).into(),
            update_mask: Some(mask).into(),
            ..Put::default()
        };
        apply(vec![item(apply_item::Change::Put(masked), None)]).await.unwrap();
        assert_eq!(count(&catalog, &["labels.k==w"], &[]).await, 1);
        let removed: Result<Empty, _> = catalog
            .0
            .call(
                "Delete",
                "n",
                &lmdb_images::api::images::DeleteImageRequest {
                    name: name("c"),
                    ..Default::default()
                },
            )
            .await;
        removed.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_batch_is_refused_with_the_item_that_is_wrong() {
    let served = Served::start().await;
    let catalog = Catalog::of(&served, Protocol::Grpc).await;
    let unset = |item: ApplyItem| ApplyItem { change: None, ..item };
    let many = |count: usize| (0..count).map(|n| put(image(&format!("{n}")), None)).collect();
    let invalid = |digest: &str| put(moved("a", digest), None);
    let large = (0..3).map(|n| put(labelled(&format!("{n}"), "k", &"v".repeat(4000)), None));
    let mut huge: Vec<_> = large.collect();
    for (number, item) in huge.iter_mut().enumerate() {
        if let Some(apply_item::Change::Put(put)) = &mut item.change {
            put.image.mut_or_insert_default().name = format!("{number}{}", "x".repeat(1 << 20));
        }
    }
    let tries: Vec<(Vec<ApplyItem>, Code, &str)> = vec![
        (vec![], Code::InvalidArgument, "has 0 items; 1 to 1000"),
        (many(1001), Code::InvalidArgument, "has 1001 items; 1 to 1000"),
        (many(10_000), Code::ResourceExhausted, "has more than 65536 fields"),
        (
            vec![put(image("a"), None), put(image("b"), None), remove("a", None)],
            Code::InvalidArgument,
            "item 3 has the name of item 1, \"a\"",
        ),
        (
            vec![unset(put(image("a"), None))],
            Code::InvalidArgument,
            "item 1: put or remove must be",
        ),
        (vec![remove("", None)], Code::InvalidArgument, "item 1: Remove.name must be set"),
        (vec![put(image(""), None)], Code::InvalidArgument, "item 1: Image.Name required"),
        (vec![invalid("sha256:x")], Code::InvalidArgument, "item 1: target.Digest"),
        (
            vec![put(image("a"), Some(precondition::Is::Absent(false)))],
            Code::InvalidArgument,
            "item 1: precondition says nothing",
        ),
        (
            vec![put(image("a"), Some(precondition::Is::Digest("x".into())))],
            Code::InvalidArgument,
            "item 1: precondition.digest \"x\"",
        ),
        (
            vec![put(image("a"), Some(precondition::Is::Etag(String::new())))],
            Code::InvalidArgument,
            "item 1: precondition.etag is empty",
        ),
        (huge, Code::ResourceExhausted, "more than 2097152 bytes"),
    ];
    for (items, code, said) in tries {
        let refused = catalog.call::<ApplyResponse>("Apply", batch(items)).await.unwrap_err();
        assert_eq!(refused.code, code, "{refused:?}");
        assert!(refused.message.contains(said), "{} lacks {said}", refused.message);
    }
    // What is large but within the bounds is taken: a name of 32 KiB, a thousand items.
    let long = "x".repeat(32 << 10);
    let items = vec![put(image(&long), None)];
    catalog.call::<ApplyResponse>("Apply", batch(items)).await.unwrap();
    catalog.call::<ApplyResponse>("Apply", batch(many(1000))).await.unwrap();
    let found = list(&catalog, ListRequest { page_size: 5000, ..ListRequest::default() }).await;
    assert_eq!(found.unwrap().images.len(), 1000);
    assert_eq!(count(&catalog, &[], &[]).await, 1001);
    let filters = vec!["name==".to_owned()];
    let refused = list(&catalog, ListRequest { without: filters, ..Default::default() }).await;
    assert!(refused.unwrap_err().message.starts_with("without: "));
}

/// 32 clients want to move one name from the digest that they have seen: in each round, one does.
#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_client_wins_each_round_of_compare_and_set() {
    const CLIENTS: usize = 32;
    let rounds = std::env::var("LMDB_IMAGES_SET_ROUNDS").map_or(10, |n| n.parse().unwrap());
    let served = Served::start().await;
    let catalog = Catalog::of(&served, Protocol::Grpc).await;
    make(&catalog, moved("latest", &format!("sha256:{:064x}", 0))).await;
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        clients.push(Catalog::of(&served, BOTH[number % 2]).await);
    }
    let mut digest = format!("sha256:{:064x}", 0);
    for round in 0..rounds {
        let tries: Vec<_> = clients
            .iter()
            .enumerate()
            .map(|(number, client)| {
                let new = format!("sha256:{:064x}", 1 + round * CLIENTS + number);
                let (client, known) = (client.clone(), digest.clone());
                tokio::spawn(async move {
                    let unchanged = Some(precondition::Is::Digest(known));
                    let item = put(moved("latest", &new), unchanged);
                    let made = client.call::<ApplyResponse>("Apply", batch(vec![item])).await;
                    made.map(|_| new)
                })
            })
            .collect();
        let mut won = Vec::new();
        for outcome in tries {
            match outcome.await.unwrap() {
                Ok(new) => won.push(new),
                Err(lost) => assert!(lost.is(Code::FailedPrecondition, "ITEM"), "{lost:?}"),
            }
        }
        assert_eq!(won.len(), 1, "round {round}");
        digest = won.remove(0);
    }
    let found = list(&catalog, ListRequest::default()).await.unwrap();
    assert_eq!(found.images[0].image.target.digest, digest);
}
