//! Large records of containerd's database: they are read by themselves, and as containerd reads them.

use lmdb_images::api::images::{
    DeleteImageRequest, GetImageRequest, Image, ListImagesRequest, UpdateImageRequest,
};
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;

use super::front::Front;
use crate::support::containerd::Containerd;
use crate::support::{Client, create, image};

/// Of a few pages; more than the thread of a connection reads; more than a List reads beside others; and
/// nearly the largest record that fits into a message.
const SIZES: [usize; 4] = [5_000, 200_000, 2 << 20, 15 << 20];

fn sized(name: &str, bytes: usize) -> Image {
    let mut image = image(name);
    image.target.mut_or_insert_default().media_type = "m".repeat(bytes);
    image
}

fn get(name: &str) -> Vec<u8> {
    GetImageRequest { name: name.into(), ..Default::default() }.write_to_bytes().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn a_large_image_is_read_as_containerd_reads_it() {
    let front = Front::start(&Containerd::bin()).await;
    let direct = Client::Grpc(front.direct.clone());
    let list = ListImagesRequest::default().write_to_bytes().unwrap();
    for (number, size) in SIZES.into_iter().enumerate() {
        // A reply has no room for two of the largest.
        let namespace = format!("n{number}");
        let namespace = namespace.as_str();
        // Behind our back, so that each List compares and refreshes.
        let _: Empty =
            direct.call("Create", namespace, &create(sized("large", size))).await.unwrap();
        let _: Empty = direct.call("Create", namespace, &create(image("small"))).await.unwrap();
        front.same("images.v1.Images/List", Some(namespace), list.clone()).await;
        let before = front.answered_from_files();
        for name in ["large", "small", "none"] {
            front.same("images.v1.Images/Get", Some(namespace), get(name)).await;
        }
        assert!(front.answered_from_files() >= before + 3, "{size}: not read from the files");
        let changed = Some(sized("large", size / 2)).into();
        let update = UpdateImageRequest { image: changed, ..Default::default() };
        let _: Empty = direct.call("Update", namespace, &update).await.unwrap();
        front.same("images.v1.Images/Get", Some(namespace), get("large")).await;
        front.same("images.v1.Images/List", Some(namespace), list.clone()).await;
        let delete = DeleteImageRequest { name: "large".into(), ..Default::default() };
        let _: Empty = direct.call("Delete", namespace, &delete).await.unwrap();
        front.same("images.v1.Images/List", Some(namespace), list.clone()).await;
        front.same("images.v1.Images/Get", Some(namespace), get("large")).await;
    }
    front.daemon.stop().await;
}
