//! The images that both servers have, and the requests about them.

use lmdb_images::api::descriptor::Descriptor;
use lmdb_images::api::images::{
    CreateImageRequest, DeleteImageRequest, GetImageRequest, Image, ListImagesRequest,
    UpdateImageRequest,
};
use protobuf::MessageField;
use protobuf::well_known_types::field_mask::FieldMask;
use sha2::{Digest, Sha256};

/// Tags of a repository.
pub const TAGS: u32 = 100;

const WORDS: [&str; 8] =
    ["nginx", "redis", "postgres", "busybox", "golang", "rabbitmq", "memcached", "traefik"];
const STAGES: [&str; 3] = ["development", "staging", "production"];

/// A repository, by its number.
pub fn repository(number: u32) -> String {
    let word = WORDS.get(number as usize % WORDS.len()).copied().unwrap_or_default();
    format!("docker.io/library/{word}-{number:04}")
}

/// The name of an image, by its number: a hundred tags of each repository.
pub fn name(number: u32) -> String {
    format!("{}:1.{}", repository(number / TAGS), number % TAGS)
}

/// The digest of an image: another for each name.
pub fn digest(name: &str) -> String {
    let hash = Sha256::digest(name);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// An image of two labels.
fn image(name: String, team: u32, number: u32) -> Image {
    let target = Descriptor {
        media_type: "application/vnd.oci.image.index.v1+json".into(),
        digest: digest(&name),
        size: 1000 + i64::from(number % 1000),
        ..Default::default()
    };
    let stage = STAGES.get(number as usize % STAGES.len()).copied().unwrap_or_default();
    Image {
        name,
        labels: [("stage".into(), stage.into()), ("team".into(), format!("team-{team}"))].into(),
        target: MessageField::some(target),
        ..Default::default()
    }
}

/// Numbers from `first` on, shuffled: images do not come in the order of their names.
pub fn mixed(first: u32, count: u32) -> impl Iterator<Item = u32> {
    // A prime above all counts shares no divisor with them, so that every number comes once.
    const STEP: u64 = 2_147_483_647;
    (0..u64::from(count)).map(move |i| first + (i * STEP % u64::from(count.max(1))) as u32)
}

/// Create the image of that number; each of `teams` has as many.
pub fn create(number: u32, teams: u32) -> CreateImageRequest {
    let image = image(name(number), number % teams, number);
    CreateImageRequest { image: MessageField::some(image), ..Default::default() }
}

/// The name of an image that is created, changed and deleted again: `run` tells them apart.
pub fn passing(run: u32, number: u32) -> String {
    format!("docker.io/passing/run-{run:04}:{number}")
}

/// Create it.
pub fn create_passing(run: u32, number: u32) -> CreateImageRequest {
    let image = image(passing(run, number), 0, number);
    CreateImageRequest { image: MessageField::some(image), ..Default::default() }
}

/// Give it another label, as `ctr images label` does.
pub fn label_passing(run: u32, number: u32) -> UpdateImageRequest {
    let mut image = image(passing(run, number), 0, number);
    image.labels = [("stage".into(), "retired".into())].into();
    UpdateImageRequest {
        image: MessageField::some(image),
        update_mask: MessageField::some(FieldMask {
            paths: vec!["labels.stage".into()],
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Delete it.
pub fn delete_passing(run: u32, number: u32) -> DeleteImageRequest {
    DeleteImageRequest { name: passing(run, number), ..Default::default() }
}

/// Get the image of that number.
pub fn get(number: u32) -> GetImageRequest {
    GetImageRequest { name: name(number), ..Default::default() }
}

/// List with a filter, or everything.
pub fn list(filter: Option<String>) -> ListImagesRequest {
    ListImagesRequest { filters: filter.into_iter().collect(), ..Default::default() }
}

/// `name==` of that image.
pub fn by_name(number: u32) -> String {
    format!("name=={}", name(number))
}

/// `target.digest==` of that image.
pub fn by_digest(number: u32) -> String {
    format!("target.digest=={}", digest(&name(number)))
}

/// All tags of a repository: an expression that begins with a literal.
pub fn by_prefix(repository_number: u32) -> String {
    // Twice: once for the quotes, once for the expression.
    let literal = repository(repository_number).replace('.', r"\\.");
    format!("name~=\"^{literal}:\"")
}

/// `labels.team==`
pub fn by_team(team: u32) -> String {
    format!("labels.team==team-{team}")
}

/// A filter without a part that the index can look up.
pub const READS_ALL: &str = "name~=x.*y";

/// Images of the first `images` that [`READS_ALL`] finds.
pub fn found_by_reading_all(images: u32) -> usize {
    (0..images)
        .filter(|number| name(*number).split_once('x').is_some_and(|(_, rest)| rest.contains('y')))
        .count()
}
