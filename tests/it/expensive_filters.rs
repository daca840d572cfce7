//! Requests whose filters take long: they are ended, and others are answered meanwhile.

use std::time::Duration;

use lmdb_images::api::images::{
    CreateImageResponse, GetImageRequest, GetImageResponse, ListImagesRequest, ListImagesResponse,
};
use lmdb_images::api::introspection::{PluginsRequest, PluginsResponse};
use lmdb_images::api::leases::{CreateRequest, ListRequest};
use protobuf::Message;
use tokio::task::JoinSet;
use tonic::Code;

use crate::support::{
    BOTH, Client, Failed, INTROSPECTION, LEASES, Protocol, Served, channel, create, grpc, image,
};

/// Longer than a request may take, and much shorter than the requested Lists would take without a timeout.
const TEST_TIMEOUT: Duration = Duration::from_secs(40);

/// Finds nothing in `busy`, and keeps some 500 states of the pattern alive for each of its bytes.
const EXPENSIVE: &str = "a[ab]{999}[c-z]";

/// Letters in an order on which no automaton comes to rest.
fn busy(length: u64) -> String {
    let bit = |n: u64| n.wrapping_mul(n).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63;
    (0..length).map(|n| if bit(n) == 0 { 'a' } else { 'b' }).collect()
}

fn list(filters: &[String]) -> ListImagesRequest {
    ListImagesRequest { filters: filters.to_vec(), ..Default::default() }
}

async fn make(client: &Client, name: &str) {
    client.call::<CreateImageResponse>("Create", "n", &create(image(name))).await.unwrap();
}

async fn names(client: &Client, filters: &[String]) -> Result<Vec<String>, Failed> {
    let listed = client.call::<ListImagesResponse>("List", "n", &list(filters)).await?;
    Ok(listed.images.into_iter().map(|image| image.name).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn expensive_lists_end_and_delay_no_other_list() {
    let served = Served::start().await;
    let client = served.client(Protocol::Grpc).await;
    make(&client, "small").await;
    make(&client, &busy(1 << 20)).await;
    let mut expensive = JoinSet::new();
    for _ in 0..8 {
        let client = served.client(Protocol::Grpc).await;
        expensive.spawn(async move { names(&client, &[format!("name~=/{EXPENSIVE}/")]).await });
    }
    let first = expensive.join_next();
    tokio::pin!(first);
    let (mut rounds, begun) = (0, std::time::Instant::now());
    let ended = loop {
        for protocol in BOTH {
            let other = served.client(protocol).await;
            let cheap = ["name~=/^sm/".to_owned()];
            let found = tokio::time::timeout(TEST_TIMEOUT, names(&other, &cheap)).await.unwrap();
            assert_eq!(found.unwrap(), ["small"]);
            let get = GetImageRequest { name: "small".into(), ..Default::default() };
            other.call::<GetImageResponse>("Get", "n", &get).await.unwrap();
        }
        rounds += 1;
        assert!(begun.elapsed() < TEST_TIMEOUT, "no list is ended");
        if let Ok(ended) = tokio::time::timeout(Duration::ZERO, first.as_mut()).await {
            break ended;
        }
    };
    let ended = ended.unwrap().unwrap().unwrap_err();
    assert!(ended.is(Code::DeadlineExceeded), "{ended:?}");
    assert!(rounds > 5, "{rounds} rounds of other calls meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_with_filters_ends_when_they_take_too_long() {
    let served = Served::start().await;
    let channel = channel(served.daemon.grpc()).await.unwrap();
    let call = async |service: &str, method: &str, message: Vec<u8>| {
        let call = grpc(&channel, service, method, Some("n"), message);
        tokio::time::timeout(TEST_TIMEOUT, call).await.expect("it ends")
    };
    for n in 0..200 {
        let labels = [("l".to_owned(), busy(4000))].into();
        let lease = CreateRequest { id: n.to_string(), labels, ..Default::default() };
        call(LEASES, "Create", lease.write_to_bytes().unwrap()).await.unwrap();
    }
    let filters: Vec<_> = (0..100).map(|n| format!("labels.l~=/a[ab]{{500}}[c-z]{n}/")).collect();
    let request = ListRequest { filters, ..Default::default() };
    let ended = call(LEASES, "List", request.write_to_bytes().unwrap()).await.unwrap_err();
    assert!(ended.is(Code::DeadlineExceeded), "{ended:?}");

    // Short values: whatever the filters, they are over soon.
    let filters: Vec<_> = (0..1000).map(|n| format!("id~=/a[ab]{{500}}[c-z]{n}/")).collect();
    let request = PluginsRequest { filters, ..Default::default() };
    let found = call(INTROSPECTION, "Plugins", request.write_to_bytes().unwrap()).await;
    let plugins = PluginsResponse::parse_from_bytes(&found.unwrap()).unwrap().plugins;
    assert_eq!(plugins.len(), 0);
}
