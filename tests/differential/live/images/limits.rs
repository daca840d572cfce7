//! Messages too large, and the order of a long list. Each test has servers of its own.

use lmdb_images::api::images::{CreateImageRequest, GetImageRequest, Image, ListImagesRequest};
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{Message, MessageField};
use tonic::Code;

use super::answer::Answer;
use super::generate;
use super::servers::Servers;
use super::step::{Request, Space, Step};
use crate::live::engine::{Sequence, Servers as _, play};
use crate::live::text;
use crate::support::containerd::Containerd;
use crate::support::random::Rng;
use crate::support::settings::seed;
use crate::support::{self, Client, Failed};

/// The largest message of gRPC here and there.
const LIMIT: usize = 16 << 20;
const TIMES: (u32, u32, u32) = (1, 7, 0);

async fn ask(client: &Client, request: Request) -> Answer {
    Step { space: Space::Own(0), request }.ask(client, 1).await
}

fn failed(answer: Answer) -> Failed {
    match answer {
        Answer::Failed(failed) => failed,
        other => panic!("answered {other:?}"),
    }
}

fn list(filters: &[&str]) -> Request {
    let filters = filters.iter().map(|f| (*f).to_owned()).collect();
    Request::List(ListImagesRequest { filters, ..Default::default() })
}

/// An image's creation at a fixed time: two servers' clocks make records of different sizes.
fn create(image: Image) -> Request {
    Request::Create(CreateImageRequest {
        image: MessageField::some(image),
        source_date_epoch: MessageField::some(Timestamp { seconds: 1, ..Default::default() }),
        ..Default::default()
    })
}

/// The sentence of a message that is too large, without its size, and that.
fn sized(failed: &Failed) -> (String, usize) {
    let (before, rest) = failed.message.split_once('(').unwrap();
    let (size, behind) = rest.split_once(' ').unwrap();
    (format!("{before}(… {behind}"), size.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn a_list_that_is_too_large_is_refused_alike() {
    let bin = Containerd::bin();
    let servers = Servers::start(&bin).await;
    let (theirs, ours) = (&servers.theirs, &servers.ours[0].1);
    for n in 0..20 {
        let mut image = support::image(&format!("image{n}"));
        image.target.mut_or_insert_default().annotations.insert("a".into(), "v".repeat(1 << 20));
        for client in [theirs, ours] {
            assert!(matches!(ask(client, create(image.clone())).await, Answer::Image(Some(_))));
        }
    }
    let there = failed(ask(theirs, list(&[])).await);
    let here = failed(ask(ours, list(&[])).await);
    println!("{:?}: {}", servers.containerd.version, there.message);
    assert!(there.is(Code::ResourceExhausted), "{there:?}");
    if servers.containerd.version >= TIMES {
        assert_eq!(here, there);
    } else {
        // The clock's nanoseconds take up to five bytes, twice an image.
        let ((sentence, size), (due, about)) = (sized(&here), sized(&there));
        assert_eq!((here.code, sentence), (there.code, due));
        assert!(size.abs_diff(about) <= 20 * 2 * 12, "{size} {about}");
    }
    // The same store, and lists that fit.
    for filter in ["name==image7", "name~=image1."] {
        let (there, here) = (ask(theirs, list(&[filter])).await, ask(ours, list(&[filter])).await);
        let names = |answer| match answer {
            Answer::Images(images) => images.into_iter().map(|i| i.image.name).collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        let names = (names(here), names(there));
        assert_eq!(names.0, names.1);
        assert!(!names.0.is_empty());
    }
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn a_request_that_is_too_large_is_refused_alike() {
    let bin = Containerd::bin();
    let servers = Servers::start(&bin).await;
    for more in [0, 1, 5000] {
        let mut request = GetImageRequest { name: "x".repeat(LIMIT - 5), ..Default::default() };
        assert_eq!(request.compute_size() as usize, LIMIT);
        request.name += &"x".repeat(more);
        // Without a namespace, the error for a request that is not too large does not repeat the name.
        let step = Step { space: Space::Header(None), request: Request::Get(request) };
        let there = failed(step.ask(&servers.theirs, 1).await);
        let here = failed(step.ask(&servers.ours[0].1, 1).await);
        println!("{:?}: {}", servers.containerd.version, there.message);
        let code = if more == 0 { Code::FailedPrecondition } else { Code::ResourceExhausted };
        assert!(there.is(code), "{there:?}");
        assert_eq!(here, there);
    }
    servers.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn long_lists_are_in_one_order() {
    let bin = Containerd::bin();
    let seed = seed();
    let mut servers = Servers::start(&bin).await;
    let mut random = Rng::with_seed(seed);
    let mut steps: Vec<Step> = (0..200)
        .map(|_| support::image(&text::name(&mut random)))
        .filter(|image| !image.name.is_empty())
        .map(|image| Step { space: Space::Own(0), request: create(image) })
        .collect();
    for filters in [&[][..], &["name~=p"], &["name~=^p*$", "name~=[^p]$"], &["name!=a"]] {
        steps.push(Step { space: Space::Own(0), request: list(filters) });
    }
    // Some go, some change, and the order is as before.
    let others = (0..20).flat_map(|n| generate::sequence(seed.wrapping_add(n)));
    steps.extend(others.map(|step| Step { space: Space::Own(0), ..step }));
    steps.push(Step { space: Space::Own(0), request: list(&[]) });
    let sequence = Sequence { steps, setup: () };
    let difference = play(&mut servers, &sequence, &mut Default::default()).await;
    assert!(difference.is_none(), "seed {seed}: {difference:?}");
    servers.stop().await;
}
