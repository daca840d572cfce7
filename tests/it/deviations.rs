//! Intended differences from containerd: one test for each row of
//! `docs/compatibility.md`, against our daemon only. `differential.rs` shows that all else is alike.

use lmdb_images::api::images::{
    CreateImageRequest, CreateImageResponse, DeleteImageRequest, GetImageRequest, GetImageResponse,
    Image, ListImagesRequest, ListImagesResponse, UpdateImageRequest,
};
use protobuf::well_known_types::field_mask::FieldMask;
use protobuf::{Message, MessageField};
use tonic::Code;

use crate::support::{BOTH, Client, Failed, IMAGES, Protocol, Served, create, image};

const SPACE: &str = "compatibility";

/// Refused with that code; says how.
fn refused<T: std::fmt::Debug>(answer: Result<T, Failed>, code: Code) -> String {
    let failed = answer.unwrap_err();
    assert!(failed.is(code), "{failed:?} is not {code:?}");
    failed.message
}

async fn list(client: &Client) -> Vec<String> {
    let request = ListImagesRequest::default();
    let reply: ListImagesResponse = client.call("List", SPACE, &request).await.unwrap();
    reply.images.into_iter().map(|image| image.name).collect()
}

async fn created(client: &Client, image: Image) -> Result<Image, Failed> {
    let reply: Result<CreateImageResponse, _> = client.call("Create", SPACE, &create(image)).await;
    reply.map(|reply| reply.image.unwrap())
}

async fn get(client: &Client, name: &str) -> Result<Image, Failed> {
    let request = GetImageRequest { name: name.into(), ..Default::default() };
    let reply: Result<GetImageResponse, _> = client.call("Get", SPACE, &request).await;
    reply.map(|reply| reply.image.unwrap())
}

async fn delete(client: &Client, name: &str, sync: bool) -> Result<Vec<u8>, Failed> {
    let request = DeleteImageRequest { name: name.into(), sync, ..Default::default() };
    client.raw("Delete", Some(SPACE), request.write_to_bytes().unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unset_image_or_target_is_refused() {
    for protocol in BOTH {
        let served = Served::start().await;
        let client = served.client(protocol).await;
        for method in ["Create", "Update"] {
            let answer = client.raw(method, Some(SPACE), Vec::new()).await;
            assert_eq!(
                refused(answer, Code::InvalidArgument),
                format!("{method}ImageRequest.image must be set: invalid argument")
            );
            let bare = MessageField::some(Image { name: "i".into(), ..Default::default() });
            let request = match method {
                "Create" => {
                    CreateImageRequest { image: bare, ..Default::default() }.write_to_bytes()
                }
                _ => UpdateImageRequest { image: bare, ..Default::default() }.write_to_bytes(),
            };
            let answer = client.raw(method, Some(SPACE), request.unwrap()).await;
            assert_eq!(
                refused(answer, Code::InvalidArgument),
                format!(
                    "{method}ImageRequest.image.target must be set, image \"i\": invalid argument"
                )
            );
        }
        assert!(list(&client).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_key_is_refused_and_its_map_named() {
    for protocol in BOTH {
        let served = Served::start().await;
        let client = served.client(protocol).await;
        let mut labelled = image("i");
        labelled.labels.insert(String::new(), "v".into());
        let mut annotated = image("i");
        annotated.target.as_mut().unwrap().annotations.insert(String::new(), "v".into());
        for (image, map) in [(labelled, "image.Labels"), (annotated, "target.Annotations")] {
            assert_eq!(
                refused(created(&client, image).await, Code::InvalidArgument),
                format!(
                    "{map}: the key of value \"v\" is empty; give it a name or leave it out: \
                     invalid argument"
                )
            );
        }
        assert!(list(&client).await.is_empty());
        // Without a value it is dropped, as any entry is.
        let mut unvalued = image("i");
        unvalued.labels.insert(String::new(), String::new());
        assert!(created(&client, unvalued).await.unwrap().labels.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_utf8_is_an_invalid_argument() {
    for protocol in BOTH {
        let served = Served::start().await;
        let client = served.client(protocol).await;
        let mut name = create(image("NAME")).write_to_bytes().unwrap();
        let at = name.windows(4).position(|window| window == b"NAME").unwrap();
        name[at] = 0xff;
        let wrong = [("Get", b"\x0a\x01\xff".to_vec()), ("List", b"\x0a\x01\xff".to_vec())];
        for (method, request) in wrong.into_iter().chain([("Create", name)]) {
            let message =
                refused(client.raw(method, Some(SPACE), request).await, Code::InvalidArgument);
            assert!(message.contains("Invalid UTF-8"), "{message}");
        }
        assert!(list(&client).await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_message_is_an_invalid_argument() {
    for protocol in BOTH {
        let served = Served::start().await;
        let client = served.client(protocol).await;
        for request in [&b"\x0a\x05a"[..], b"\x00\x00", b"\x0b"] {
            // Before the namespace is looked at, as in containerd.
            let message =
                refused(client.raw("Get", None, request.into()).await, Code::InvalidArgument);
            assert!(message.starts_with("the request is no GetImageRequest: "), "{message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_no_reply_could_carry_is_not_stored() {
    for (protocol, limit) in [(Protocol::Grpc, 16 << 20), (Protocol::Ttrpc, 4 << 20)] {
        let served = Served::start().await;
        let client = served.client(protocol).await;
        let annotated = |key: &str, size| {
            let mut image = image("i");
            let annotations = &mut image.target.as_mut().unwrap().annotations;
            annotations.insert(key.into(), "v".repeat(size));
            image
        };
        created(&client, annotated("a", limit - (1 << 20))).await.unwrap();
        // Each request fits, but the image that they make together does not.
        let request = UpdateImageRequest {
            image: MessageField::some(annotated("b", 2 << 20)),
            update_mask: MessageField::some(FieldMask {
                paths: vec!["annotations.b".into()],
                ..Default::default()
            }),
            ..Default::default()
        };
        let answer = client.raw("Update", Some(SPACE), request.write_to_bytes().unwrap()).await;
        let message = refused(answer, Code::ResourceExhausted);
        assert!(message.starts_with("grpc: trying to send message larger than max ("), "{message}");
        let kept = get(&client, "i").await.unwrap();
        assert_eq!(kept.target.annotations.keys().collect::<Vec<_>>(), ["a"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_over_ttrpc_is_bounded_by_its_frame() {
    let served = Served::start().await;
    let client = served.client(Protocol::Ttrpc).await;
    for name in ["a", "b", "c", "d", "e"] {
        let mut large = image(name);
        let annotations = &mut large.target.as_mut().unwrap().annotations;
        annotations.insert("k".into(), "v".repeat(1 << 20));
        created(&client, large).await.unwrap();
    }
    let all = client.raw("List", Some(SPACE), Vec::new()).await;
    let message = refused(all, Code::ResourceExhausted);
    assert!(message.starts_with("grpc: trying to send message larger than max (52"), "{message}");
    // The connection lives, and gRPC carries it.
    assert!(get(&client, "a").await.is_ok());
    assert_eq!(list(&served.client(Protocol::Grpc).await).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_annotations_have_no_bound() {
    for protocol in BOTH {
        let served = Served::start().await;
        let client = served.client(protocol).await;
        let mut long = image("i");
        let key = "k".repeat(32_769);
        long.target.as_mut().unwrap().annotations.insert(key.clone(), "v".into());
        created(&client, long).await.unwrap();
        assert_eq!(get(&client, "i").await.unwrap().target.annotations[&key], "v");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_names_the_first_of_several_long_labels() {
    for protocol in BOTH {
        let served = Served::start().await;
        let client = served.client(protocol).await;
        let mut long = image("i");
        for key in ["d", "b", "a", "c", "e"] {
            long.labels.insert(key.into(), "v".repeat(4096));
        }
        for _ in 0..8 {
            let message = refused(created(&client, long.clone()).await, Code::InvalidArgument);
            assert!(message.ends_with(", key: a: invalid argument"), "{message}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_empty_name_is_never_found() {
    for protocol in BOTH {
        let served = Served::start().await;
        let client = served.client(protocol).await;
        let not_found = "image \"\": not found";
        assert_eq!(refused(delete(&client, "", false).await, Code::NotFound), not_found);
        created(&client, image("i")).await.unwrap();
        delete(&client, "i", false).await.unwrap();
        assert_eq!(refused(delete(&client, "", false).await, Code::NotFound), not_found);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_method_is_unimplemented() {
    let served = Served::start().await;
    let answer = served.client(Protocol::Grpc).await.raw("Nope", Some(SPACE), Vec::new()).await;
    let message = refused(answer, Code::Unimplemented);
    assert!(
        message.starts_with(&format!("unknown method Nope of service {IMAGES}: ")),
        "{message}"
    );
    let answer = served.client(Protocol::Ttrpc).await.raw("Nope", Some(SPACE), Vec::new()).await;
    refused(answer, Code::Unimplemented);
}
