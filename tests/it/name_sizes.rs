//! Names at the edges of sizes: of a key's head, of LMDB's keys, of a page, of headers, of an entry of
//! the journal. Each is created, found, listed, updated, held by a lease, collected and deleted, over
//! both protocols.

use lmdb_images::api::images::{
    CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse, ListImagesRequest,
    ListImagesResponse, UpdateImageRequest, UpdateImageResponse,
};
use protobuf::MessageField;
use protobuf::well_known_types::empty::Empty;
use tonic::Code;

use crate::support::{self, BOTH, Client, Served};

const SIZES: [usize; 18] = [
    1,
    383,
    384,
    385,
    386,
    416,
    417,
    503,
    504,
    511,
    512,
    4_095,
    4_096,
    16_384,
    65_535,
    65_536,
    65_537,
    1 << 20,
];

/// Names of that size: two that differ in their last byte, and one that ends inside of what a cut of
/// the head would divide.
fn names(size: usize) -> Vec<String> {
    let mut names = vec!["x".repeat(size - 1) + "a", "x".repeat(size - 1) + "b"];
    if size > 1 {
        names.push("x".repeat(size - 2) + "é");
    }
    names
}

async fn listed(client: &Client, filter: &str) -> Vec<String> {
    let filters = vec![filter.to_owned()];
    let request = ListImagesRequest { filters, ..Default::default() };
    let reply: ListImagesResponse = client.call("List", "n", &request).await.unwrap();
    reply.images.into_iter().map(|image| image.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_any_size_are_names() {
    let served = Served::start().await;
    for protocol in BOTH {
        let client = served.client(protocol).await;
        for size in SIZES {
            for name in names(size) {
                let mut image = support::image(&name);
                let made = support::create(image.clone());
                client.call::<CreateImageResponse>("Create", "n", &made).await.unwrap();
                let again = client.call::<CreateImageResponse>("Create", "n", &made).await;
                assert!(again.unwrap_err().is(Code::AlreadyExists), "{size}");
                let get = GetImageRequest { name: name.clone(), ..Default::default() };
                let got: GetImageResponse = client.call("Get", "n", &get).await.unwrap();
                assert_eq!(got.image.name, name);
                image.labels.insert("size".into(), size.to_string());
                let image = MessageField::some(image);
                let update = UpdateImageRequest { image, ..Default::default() };
                client.call::<UpdateImageResponse>("Update", "n", &update).await.unwrap();
            }
            let mut expected = names(size);
            expected.sort();
            assert_eq!(listed(&client, &format!("labels.size=={size}")).await, expected, "{size}");
            let quoted = format!("name==\"{}\"", expected[0]);
            assert_eq!(listed(&client, &quoted).await, expected[..1], "{size}");
        }
        let mut all: Vec<_> = SIZES.into_iter().flat_map(names).collect();
        all.sort();
        assert_eq!(listed(&client, "labels.size").await, all);
        for name in all {
            let delete = DeleteImageRequest { name, sync: true, ..Default::default() };
            client.call::<Empty>("Delete", "n", &delete).await.unwrap();
            let again = client.call::<Empty>("Delete", "n", &delete).await;
            assert!(again.unwrap_err().is(Code::NotFound));
        }
        assert_eq!(listed(&client, "name").await, [""; 0]);
    }
}
