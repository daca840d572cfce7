//! Random requests on containerd's socket and on ours.

use std::time::{Duration, Instant};

use lmdb_images::api::images::Image;

use super::content::{create, create_namespace, digest, named, put, put_half, read};
use super::front::Front;
use crate::support::containerd::Containerd;
use crate::support::image;
use crate::support::random::{Draw, Rng};
use crate::support::settings::{seed, setting};

/// With the namespaces of the records: one that is missing, two that are invalid, and none.
const NAMESPACES: [&str; 6] = ["first", "second", "third", "missing", "-invalid", ""];

fn labels(rng: &mut Rng, most: usize) -> Vec<(String, String)> {
    // At most one label where the answers are compared in order: Go's maps have no order.
    (0..rng.usize(..=most)).map(|n| (format!("k{n}"), "v".repeat(rng.usize(..2000)))).collect()
}

/// The content and the names that exist.
#[derive(Default)]
struct World {
    digests: Vec<String>,
    sizes: Vec<i64>,
    names: Vec<String>,
}

impl World {
    async fn fill(front: &Front, rng: &mut Rng) -> Self {
        let mut world = Self::default();
        for namespace in &NAMESPACES[..3] {
            create_namespace(&front.direct, namespace, &labels(rng, 1)).await;
        }
        let sizes = [0, 1, 100, 4095, (64 << 10) - 1, 64 << 10, (1 << 20) - 1, 1 << 20];
        let larger = [(1 << 20) + 1, (2 << 20) + 12_345, 3 << 20];
        for (number, size) in sizes.into_iter().chain(larger).enumerate() {
            let data: Vec<u8> = (0..size).map(|_| rng.u8(..)).collect();
            let namespace = NAMESPACES[number % 3];
            if size == 0 {
                // containerd commits no empty content by Write; such a blob is only asked for.
            } else if number == 4 {
                put_half(&front.direct, namespace, &data).await;
            } else {
                put(&front.direct, namespace, &data, &labels(rng, 1)).await;
            }
            world.digests.push(digest(&data));
            world.sizes.push(size as i64);
        }
        for number in 0..40 {
            let name = match number % 4 {
                0 => format!("docker.io/library/{}:latest", rng.u32(..)),
                1 => "x".repeat(rng.usize(1..600)),
                2 => format!("é\n\"{}\u{1F600}", rng.u32(..)),
                _ => format!("{}", rng.u8(..)),
            };
            let labels = labels(rng, 1).into_iter().collect();
            let created = Image { labels, ..image(&name) };
            create(&front.direct, NAMESPACES[rng.usize(..3)], created).await;
            world.names.push(name);
        }
        world.names.extend(["".into(), "missing".into(), "y".repeat(5000), "\0".into()]);
        for bad in ["", "x", "sha256:ab", "sha1:00", "sha256:../../../etc/passwd", "sha512:a"] {
            world.digests.push(bad.into());
        }
        world.digests.push(digest(b"missing"));
        world.digests.push(format!("sha384:{}", "a".repeat(96)));
        world
    }

    /// One request: its path and its message.
    fn request(&self, rng: &mut Rng) -> (&'static str, Vec<u8>) {
        let digest = &rng.one(&self.digests);
        let near = |rng: &mut Rng| {
            let base = rng.one(&self.sizes) + i64::from(rng.i8(-2..=2));
            match rng.u8(..10) {
                0 => -base,
                1 => i64::MAX - i64::from(rng.u8(..3)),
                2 => i64::MIN,
                3 | 4 => 0,
                _ => base,
            }
        };
        match rng.u8(..8) {
            0 => ("images.v1.Images/Get", named(&rng.one(&self.names))),
            1 | 2 => ("content.v1.Content/Info", named(digest)),
            3 => {
                let name = rng.one(&NAMESPACES);
                ("namespaces.v1.Namespaces/Get", named(name))
            }
            4 => ("content.v1.Content/Read", rng.one(&JUNK).to_vec()),
            _ => ("content.v1.Content/Read", read(digest, near(rng), near(rng))),
        }
    }
}

/// Messages that are none, or of a later version.
const JUNK: [&[u8]; 5] = [b"", b"\x0a", b"\x0a\x05a", b"\x0a\x01\xff", b"\x0a\x01a\x7a\x01b"];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs LMDB_IMAGES_CONTAINERD_BIN"]
async fn a_read_from_containerds_files_is_containerds_answer() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let front = Front::start(&Containerd::bin()).await;
    let world = World::fill(&front, &mut rng).await;
    let end = Instant::now()
        + Duration::from_secs(setting("LMDB_IMAGES_DIFFERENTIAL_SECONDS").unwrap_or(0));
    let (mut requests, mut good, before) = (0, 0, front.answered_from_files());
    while requests < 1000 || Instant::now() < end {
        let (path, message) = world.request(&mut rng);
        let namespace = match rng.u8(..20) {
            0 => None,
            1..=3 => Some(rng.one(&NAMESPACES)),
            _ => Some(rng.one(&NAMESPACES[..3])),
        };
        good += usize::from(front.same(path, namespace, message).await.status.is_ok());
        requests += 1;
    }
    let from_files = front.answered_from_files() - before;
    println!("{requests} reads compared, {good} without an error, {from_files} from files");
    assert!(good * 8 > requests, "{good} of {requests} gave something");
    assert!(from_files * 3 > requests as u64, "{from_files} of {requests} came from the files");
    front.daemon.stop().await;
}
