//! The catalogue over both protocols: pages, counts, batches, and what is refused.

use std::collections::BTreeSet;

use lmdb_images::api::catalog::{
    ApplyItem, ApplyRequest, ApplyResponse, CountRequest, CountResponse, HeadRequest, HeadResponse,
    ListRequest, ListResponse, Precondition, Put, Remove, apply_item, precondition,
};
use lmdb_images::api::images::{CreateImageResponse, Image};
use lmdb_images::transport::Limits;
use protobuf::MessageField;
use protobuf::well_known_types::empty::Empty;
use protobuf::well_known_types::field_mask::FieldMask;
use tonic::Code;

use crate::support::catalog::{Catalog, Refused};
use crate::support::{BOTH, DIGEST, Protocol, Served, config, create, image};

const OTHER: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

async fn make(catalog: &Catalog, image: Image) {
    catalog.0.call::<CreateImageResponse>("Create", "n", &create(image)).await.unwrap();
}

fn labelled(name: &str, key: &str, value: &str) -> Image {
    Image { labels: [(key.to_owned(), value.to_owned())].into(), ..image(name) }
}

pub fn put(image: Image, is: Option<precondition::Is>) -> ApplyItem {
    let put = Put { image: Some(image).into(), ..Put::default() };
    item(apply_item::Change::Put(put), is)
}

fn remove(name: &str, is: Option<precondition::Is>) -> ApplyItem {
    item(apply_item::Change::Remove(Remove { name: name.into(), ..Remove::default() }), is)
}

fn item(change: apply_item::Change, is: Option<precondition::Is>) -> ApplyItem {
    let precondition = is.map(|is| Precondition { is: Some(is), ..Precondition::default() }).into();
    ApplyItem { precondition, change: Some(change), ..ApplyItem::default() }
}

pub fn batch(items: Vec<ApplyItem>) -> ApplyRequest {
    ApplyRequest { items, ..ApplyRequest::default() }
}

fn moved(name: &str, digest: &str) -> Image {
    let mut image = image(name);
    image.target.mut_or_insert_default().digest = digest.into();
    image
}

async fn list(catalog: &Catalog, request: ListRequest) -> Result<ListResponse, Refused> {
    catalog.call("List", request).await
}

/// All names, page by page, and how many pages there were.
async fn names(catalog: &Catalog, mut request: ListRequest) -> (Vec<String>, usize) {
    let (mut names, mut pages) = (Vec::new(), 0);
    loop {
        let page = list(catalog, request.clone()).await.unwrap();
        assert!(page.images.len() <= request.page_size as usize);
        names.extend(page.images.into_iter().map(|listed| listed.image.name.clone()));
        pages += 1;
        if page.next_page_token.is_empty() {
            return (names, pages);
        }
        request.page_token = page.next_page_token;
    }
}

async fn count(catalog: &Catalog, filters: &[&str], without: &[&str]) -> u64 {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    let request = CountRequest {
        filters: owned(filters),
        without: owned(without),
        ..CountRequest::default()
    };
    catalog.call::<CountResponse>("Count", request).await.unwrap().count
}

#[tokio::test]
async fn pages_together_are_the_list_with_long_names_and_filters_too() {
    let served = Served::start().await;
    let catalog = Catalog::of(&served, Protocol::Grpc).await;
    let head = "h".repeat(384);
    let long = (0..7).map(|n| format!("{head}{n}{}", "x".repeat(n * 10_000)));
    let short = (0..30).map(|n| format!("a/{n:02}")).chain(["b".into(), head.clone()]);
    let all: BTreeSet<String> = long.chain(short).collect();
    for (number, name) in all.iter().enumerate() {
        let team = if number % 3 == 0 { "red" } else { "blue" };
        make(&catalog, labelled(name, "team", team)).await;
    }
    for protocol in BOTH {
        let catalog = Catalog::of(&served, protocol).await;
        for page_size in [1, 4, 7, 100] {
            let request = ListRequest { page_size, ..ListRequest::default() };
            let (found, pages) = names(&catalog, request).await;
            assert!(pages >= all.len().div_ceil(page_size as usize), "{pages}");
            assert_eq!(found.len(), all.len());
            assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), all);
            for (filter, expected) in [
                ("name~=^a/", 30),
                ("labels.team==red", all.len().div_ceil(3)),
                ("labels.team~=^r", all.len().div_ceil(3)),
                ("target.digest~=^sha256:ab", 0),
            ] {
                let request = ListRequest {
                    page_size,
                    filters: vec![filter.into()],
                    ..ListRequest::default()
                };
                let (found, _) = names(&catalog, request).await;
                assert_eq!(found.len(), expected, "{filter}");
                // Long names come in the order of a hash.
                let short: Vec<_> = found.iter().filter(|name| name.len() <= 384).collect();
                assert!(short.is_sorted(), "{filter}");
                assert_eq!(count(&catalog, &[filter], &[]).await, expected as u64, "{filter}");
                let rest = count(&catalog, &[], &[filter]).await;
                assert_eq!(rest, (all.len() - expected) as u64, "without {filter}");
            }
            let request = ListRequest {
                page_size,
                filters: vec!["name~=^a/".into()],
                without: vec!["labels.team==red".into(), "name==a/01".into()],
                ..ListRequest::default()
            };
            let (found, _) = names(&catalog, request).await;
            assert_eq!(found.len() as u64, {
                let filters = ["name~=^a/"];
                count(&catalog, &filters, &["labels.team==red", "name==a/01"]).await
            });
            assert!(found.iter().all(|name| name.starts_with("a/") && name != "a/01"));
        }
    }
}

#[tokio::test]
async fn a_stream_has_all_pages_and_a_mask_leaves_only_what_is_asked_for() {
    let served = Served::start().await;
    let catalog = Catalog::of(&served, Protocol::Grpc).await;
    for number in 0..25 {
        make(&catalog, labelled(&format!("{number:02}"), "k", "v")).await;
    }
    let mask = FieldMask { paths: vec!["target.digest".into()], ..FieldMask::default() };
    let request =
        ListRequest { page_size: 10, read_mask: Some(mask).into(), ..ListRequest::default() };
    let mut stream = catalog.stream::<ListResponse>("StreamList", request.clone()).await.unwrap();
    let mut sizes = Vec::new();
    while let Some(page) = stream.next().await {
        let page = page.unwrap();
        for listed in &page.images {
            assert_eq!(listed.image.target.digest, DIGEST);
            assert!(listed.image.labels.is_empty() && listed.image.created_at.is_none());
            assert!(!listed.etag.is_empty());
        }
        sizes.push(page.images.len());
    }
    assert_eq!(sizes, [10, 10, 5]);
    // It goes on from a token, too.
    let page = list(&catalog, request.clone()).await.unwrap();
    let rest = ListRequest { page_token: page.next_page_token, ..request.clone() };
    let mut stream = catalog.stream::<ListResponse>("StreamList", rest).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap().images.len(), 10);
    let mask = FieldMask { paths: vec!["digest".into()], ..FieldMask::default() };
    let wrong = ListRequest { read_mask: Some(mask).into(), ..request };
    let refused = list(&catalog, wrong).await.unwrap_err();
    assert_eq!(refused.code, Code::InvalidArgument);
    assert!(refused.message.contains("read_mask: \"digest\" is no field"), "{}", refused.message);
}

#[tokio::test]
async fn a_page_token_of_another_store_request_or_making_is_refused() {
    let (served, other) = (Served::start().await, Served::start().await);
    for protocol in BOTH {
        let catalog = Catalog::of(&served, protocol).await;
        let elsewhere = Catalog::of(&other, protocol).await;
        for catalog in [&catalog, &elsewhere] {
            for name in ["a", "b", "c"] {
                let name = format!("{protocol:?}/{name}");
                make(catalog, image(&name)).await;
            }
        }
        let request = ListRequest { page_size: 1, ..ListRequest::default() };
        let token = list(&catalog, request.clone()).await.unwrap().next_page_token;
        let with = |token: &str| ListRequest { page_token: token.into(), ..request.clone() };
        list(&catalog, with(&token)).await.unwrap();
        // Only the size and the mask may differ.
        list(&catalog, ListRequest { page_size: 2, ..with(&token) }).await.unwrap();
        let mut changed = token.clone().into_bytes();
        changed[20] ^= 1;
        let changed = String::from_utf8(changed).unwrap();
        let filtered = ListRequest { filters: vec!["name==a".into()], ..with(&token) };
        let without = ListRequest { without: vec!["name==a".into()], ..with(&token) };
        let tries = [
            (&catalog, with("nonsense"), "is no page token"),
            (&catalog, with(&"A".repeat(5000)), "is no page token"),
            (&catalog, with(&changed), "was changed on its way"),
            (&elsewhere, with(&token), "another store made it"),
            (&catalog, filtered, "belongs to another request"),
            (&catalog, without, "belongs to another request"),
        ];
        for (catalog, request, said) in tries {
            let refused = list(catalog, request).await.unwrap_err();
            assert!(refused.is(Code::InvalidArgument, "PAGE_TOKEN"), "{refused:?}");
            assert!(refused.message.contains(said), "{}", refused.message);
        }
        let refused = catalog.call_in::<ListResponse>("other", "List", with(&token)).await;
        assert!(refused.unwrap_err().is(Code::InvalidArgument, "PAGE_TOKEN"));
        let negative = ListRequest { page_size: -1, ..ListRequest::default() };
        let refused = list(&catalog, negative).await.unwrap_err();
        assert!(refused.message.contains("page_size -1 is negative"), "{}", refused.message);
    }
}

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
async fn of_all_who_compare_and_set_one_name_exactly_one_wins_each_round() {
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
                    let is = Some(precondition::Is::Digest(known));
                    let item = put(moved("latest", &new), is);
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

#[tokio::test]
async fn who_may_only_read_can_read_the_catalogue_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path(), Limits::default());
    config.readonly = true;
    let daemon = lmdb_images::daemon::Daemon::start(&config).await.unwrap();
    let (all, reader) =
        (Catalog::grpc(daemon.grpc()).await, Catalog::grpc(daemon.readonly().unwrap()).await);
    make(&all, image("a")).await;
    let head: HeadResponse = reader.call("Head", HeadRequest::new()).await.unwrap();
    assert_eq!((head.first, head.last), (1, 1));
    assert_eq!(list(&reader, ListRequest::default()).await.unwrap().images.len(), 1);
    assert_eq!(count(&reader, &[], &[]).await, 1);
    reader.stream::<ListResponse>("StreamList", ListRequest::default()).await.unwrap();
    let apply = batch(vec![remove("a", None)]);
    let refused = reader.call::<ApplyResponse>("Apply", apply).await.unwrap_err();
    assert_eq!(refused.code, Code::PermissionDenied);
    let refused = reader.call::<Empty>("Undo", Empty::new()).await.unwrap_err();
    assert_eq!(refused.code, Code::PermissionDenied);
    let refused = all.call::<Empty>("Nothing", Empty::new()).await.unwrap_err();
    assert_eq!(refused.code, Code::Unimplemented);
}
