//! Requests in sequence: each a method, a namespace, and the bytes of its message. What the answers
//! say is there must be there, as it was answered, and nothing else.

use std::collections::BTreeMap;

use lmdb_images::api::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, ListImagesRequest, UpdateImageRequest,
};
use lmdb_images::model::image::Image;
use lmdb_images::model::{Error, Result};
use lmdb_images::service::Images;
use lmdb_images::service::codec::decode;
use lmdb_images::service::gc::EXPIRE;
use lmdb_images::service::standalone::Standalone;
use protobuf::Message;
use protobuf::well_known_types::empty::Empty;

use super::Input;
use super::service::{NAMESPACES, Service, call, is_told};

/// Requests of an input, at most.
const MOST: usize = 40;

/// The reply to a Get of each image that is there: its namespace and its name.
type Model = BTreeMap<(&'static str, String), Vec<u8>>;

/// See the module.
pub fn run(data: &[u8]) {
    let service = Service::get();
    let mut input = Input(data);
    let mut model = Model::new();
    for _ in 0..MOST {
        if input.is_over() {
            break;
        }
        let (method, namespace) = (input.byte(), usize::from(input.byte()));
        let namespace = NAMESPACES[namespace % NAMESPACES.len()];
        one(&service, &mut model, method, namespace, input.piece());
    }
    for namespace in NAMESPACES.iter().flatten().take(2) {
        let listed =
            service.run(service.local.list(&call(Some(namespace)), ListImagesRequest::new()));
        let all = model.iter().filter(|((ns, _), _)| ns == namespace);
        // The reply to a Get is the image as a List has it.
        let all: Vec<u8> = all.flat_map(|(_, reply)| reply.clone()).collect();
        assert_eq!(listed.expect("a list").message, all);
    }
    service.clear();
}

/// Runs one request, if the bytes are one, and notes what its answer says.
fn one(
    service: &Service,
    model: &mut Model,
    method: u8,
    namespace: Option<&'static str>,
    message: &[u8],
) {
    let (local, call) = (&service.local, call(namespace));
    let at = |name: &str| (namespace.unwrap_or_default(), name.to_owned());
    match method % 20 {
        0 => {
            let Some(request) = parse::<GetImageRequest>(message) else { return };
            let name = request.name.clone();
            let answer = service.run(local.get(&call, request));
            is_told(&answer);
            let found = answer.ok().map(|reply| reply.message);
            assert_eq!(found.as_ref(), model.get(&at(&name)));
        }
        1 => {
            let Some(request) = parse::<ListImagesRequest>(message) else { return };
            is_told(&service.run(local.list(&call, request)));
        }
        2 | 3 => {
            let Some(request) = parse::<CreateImageRequest>(message) else { return };
            let name = request.image.name.clone();
            let answer = service.run(local.create(&call, request));
            is_told(&answer);
            match answer {
                Ok(reply) => assert_eq!(model.insert(at(&name), reply.message), None),
                Err(Error::AlreadyExists(_)) => assert!(model.contains_key(&at(&name))),
                Err(_) => {}
            }
        }
        4 | 5 => {
            let Some(request) = parse::<UpdateImageRequest>(message) else { return };
            let name = request.image.name.clone();
            let answer = service.run(local.update(&call, request));
            is_told(&answer);
            match answer {
                Ok(reply) => assert!(model.insert(at(&name), reply.message).is_some()),
                Err(Error::NotFound(_)) => assert!(!model.contains_key(&at(&name))),
                Err(_) => {}
            }
        }
        6 => {
            let Some(request) = parse::<DeleteImageRequest>(message) else { return };
            let (name, sync) = (request.name.clone(), request.sync);
            let answer = service.run(local.delete(&call, request));
            is_told(&answer);
            match answer {
                Ok(_) => assert!(model.remove(&at(&name)).is_some()),
                // It is there with another target.
                Err(error) => assert!(!error.message().is_empty()),
            }
            if sync {
                after_collection(service, model);
            }
        }
        _ => {
            service.run(beside(&service.alone, &call, method % 20, message));
            after_collection(service, model);
        }
    }
}

/// One request to a service beside Images.
async fn beside(
    alone: &Standalone,
    call: &lmdb_images::service::CallContext,
    method: u8,
    message: &[u8],
) {
    macro_rules! ask {
        ($ask:expr) => {
            if let Some(request) = parse(message) {
                is_told(&($ask)(request).await);
            }
        };
    }
    match method {
        7 => ask!(async |request| alone.get_namespace(call, request).await),
        8 => ask!(async |request| alone.list_namespaces(call, request).await),
        9 => ask!(async |request| alone.create_namespace(call, request).await),
        10 => ask!(async |request| alone.update_namespace(call, request).await),
        11 => ask!(async |request| alone.delete_namespace(call, request).await),
        12 => ask!(async |request| alone.create_lease(call, request).await),
        13 => ask!(async |request| alone.delete_lease(call, request).await),
        14 => ask!(async |request| alone.list_leases(call, request).await),
        15 => {
            ask!(async |request| alone.add_resource(call, request).await);
            ask!(async |request| alone.delete_resource(call, request).await);
            ask!(async |request| alone.list_resources(call, request).await);
        }
        16 => ask!(async |request| alone.transfer(call, request).await),
        17 => ask!(async |request| alone.publish(call, request).await),
        18 => ask!(async |request| alone.forward(request).await),
        _ => {
            ask!(async |request| alone.subscribe(call.client, request).await);
            ask!(async |request| alone.plugins(call, request).await);
            ask!(async |_: Empty| alone.server(Empty::new()).await);
        }
    }
}

fn parse<M: Message>(message: &[u8]) -> Option<M> {
    M::parse_from_bytes(message).ok()
}

/// Expired images may have gone, and Transfer may have made some; what else was there still is.
fn after_collection(service: &Service, model: &mut Model) {
    for namespace in NAMESPACES.iter().flatten().take(2) {
        let get = |name: &str| -> Result<Vec<u8>> {
            let request = GetImageRequest { name: name.to_owned(), ..Default::default() };
            service
                .run(service.local.get(&call(Some(namespace)), request))
                .map(|reply| reply.message)
        };
        let before: Vec<String> =
            model.keys().filter(|(ns, _)| ns == namespace).map(|(_, name)| name.clone()).collect();
        for name in before {
            let key = (*namespace, name);
            match get(&key.1) {
                Ok(_) => {}
                Err(Error::NotFound(_)) => {
                    let image: Image = image(model.remove(&key).as_deref().unwrap_or_default());
                    assert!(image.labels.contains_key(EXPIRE), "{image}");
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        let parsed = lmdb_images::model::Namespace::parse(namespace).expect("a namespace");
        for name in service.names(&parsed) {
            let reply = get(&name).expect("an image that is listed");
            model.insert((*namespace, name), reply);
        }
    }
}

/// The image in the reply to a Get.
fn image(reply: &[u8]) -> Image {
    let reply: lmdb_images::api::images::GetImageResponse = decode(reply).expect("a reply");
    reply.image.unwrap_or_default()
}
