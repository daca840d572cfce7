//! The catalogue over both protocols: pages, counts, batches, and refused requests.

mod apply;

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

pub fn put(image: Image, condition: Option<precondition::Is>) -> ApplyItem {
    let put = Put { image: Some(image).into(), ..Put::default() };
    item(apply_item::Change::Put(put), condition)
}

fn remove(name: &str, condition: Option<precondition::Is>) -> ApplyItem {
    item(apply_item::Change::Remove(Remove { name: name.into(), ..Remove::default() }), condition)
}

fn item(change: apply_item::Change, condition: Option<precondition::Is>) -> ApplyItem {
    let precondition =
        condition.map(|is| Precondition { is: Some(is), ..Precondition::default() }).into();
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
async fn the_pages_of_a_list_have_each_image_once() {
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
async fn a_page_token_of_another_store_or_request_or_a_forged_one_is_refused() {
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
async fn a_client_of_readonly_sock_can_read_the_catalogue_and_change_nothing() {
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
