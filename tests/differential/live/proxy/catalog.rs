//! The catalogue in front of a containerd: a page and a count show what containerd has just answered on its
//! own socket.

use lmdb_images::api::catalog::{CountRequest, CountResponse, ListRequest, ListResponse};
use lmdb_images::api::images::DeleteImageRequest;
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;

use super::front::Front;
use crate::support::containerd::Containerd;
use crate::support::{Client, create, grpc, image};

/// The number of changes. If the daemon waited for events alone, nearly all of them would be late.
const CHANGES: usize = 20;

async fn ask<R: Message>(front: &Front, method: &str, message: &impl Message) -> R {
    let bytes = message.write_to_bytes().unwrap();
    let reply = grpc(&front.through, "lmdbimages.v1.Catalog", method, Some("n"), bytes).await;
    R::parse_from_bytes(&reply.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn a_first_page_and_a_count_have_the_newest_answered_change() {
    let front = Front::start(&Containerd::bin()).await;
    let direct = Client::Grpc(front.direct.clone());
    for number in 1..=CHANGES {
        let name = format!("i{number:02}");
        let _: Empty = direct.call("Create", "n", &create(image(&name))).await.unwrap();
        let count: CountResponse = ask(&front, "Count", &CountRequest::new()).await;
        assert_eq!(count.count, number as u64);
        let page: ListResponse = ask(&front, "List", &ListRequest::new()).await;
        assert_eq!(page.images.last().map(|last| last.image.name.as_str()), Some(name.as_str()));
    }
    for number in 1..=CHANGES {
        let request = DeleteImageRequest { name: format!("i{number:02}"), ..Default::default() };
        let _: Empty = direct.call("Delete", "n", &request).await.unwrap();
        let page: ListResponse = ask(&front, "List", &ListRequest::new()).await;
        assert_eq!(page.images.len(), CHANGES - number);
    }
    front.daemon.stop().await;
}
