//! Random images and leases, most of them expired, and their references.

use std::collections::BTreeMap;

use crate::support::random::{Draw, Rng};

pub const EXPIRE: &str = "containerd.io/gc.expire";
const REFERENCES: [&str; 6] = [
    "containerd.io/gc.ref.image",
    "containerd.io/gc.ref.image.",
    "containerd.io/gc.ref.image.m",
    "containerd.io/gc.ref.image/m",
    // Neither of these is a reference to an image.
    "containerd.io/gc.ref.images",
    "containerd.io/gc.ref.content",
];
const BACK_REFERENCES: [&str; 5] = [
    "containerd.io/gc.bref.image",
    "containerd.io/gc.bref.image.",
    "containerd.io/gc.bref.image.m",
    "containerd.io/gc.bref.image/m",
    "containerd.io/gc.bref.images",
];
const PAST: [&str; 3] =
    ["2001-01-01T00:00:00Z", "2001-01-01T00:00:00.123456789+14:00", "0000-01-01T00:00:00Z"];
/// In the future, and no times at all.
const NOT_PAST: [&str; 5] = [
    "2999-01-01T00:00:00Z",
    "9999-12-31T23:59:59Z",
    "2001-01-01 00:00:00Z",
    "2001-02-30T00:00:00Z",
    "never",
];
const MAX_IMAGES: usize = 8;

pub type Labels = BTreeMap<String, String>;

#[derive(Debug)]
pub struct Image {
    pub namespace: usize,
    pub name: String,
    /// All but the one that says when it expires.
    pub labels: Labels,
    pub expires: Option<&'static str>,
    /// The lease in whose name it comes to expire.
    pub under: Option<String>,
}

#[derive(Debug)]
pub struct Lease {
    pub namespace: usize,
    pub id: String,
    pub labels: Labels,
    pub images: Vec<String>,
    pub has_expired: bool,
}

/// What is taken out after the first collection.
#[derive(Debug)]
pub enum Removal {
    Image(String, String),
    Lease(String, String),
}

#[derive(Debug)]
pub struct Graph {
    pub namespaces: [String; 2],
    pub images: Vec<Image>,
    pub leases: Vec<Lease>,
    pub removals: Vec<Removal>,
}

impl Graph {
    pub fn draw(r: &mut Rng, round: u64, has_back_references: bool) -> Self {
        let namespaces = [format!("a{round}"), format!("b{round}")];
        let leases: Vec<Lease> =
            (0..r.usize(..6)).map(|number| lease(r, format!("l{number}"))).collect();
        let mut images = Vec::new();
        for namespace in 0..namespaces.len() {
            for number in 0..r.usize(1..=MAX_IMAGES) {
                let labels = labels(r, has_back_references);
                let expires = r.chance(95).then(|| time(r));
                let live: Vec<&Lease> = leases
                    .iter()
                    .filter(|lease| lease.namespace == namespace && !lease.has_expired)
                    .collect();
                let is_under = !live.is_empty() && r.chance(5);
                let under = is_under.then(|| live[r.usize(..live.len())].id.clone());
                images.push(Image {
                    namespace,
                    name: format!("i{number}"),
                    labels,
                    expires,
                    under,
                });
            }
        }
        let removals =
            (0..r.usize(..3)).map(|_| removal(r, &namespaces, &images, &leases)).collect();
        Self { namespaces, images, leases, removals }
    }

    pub fn image_count(&self) -> usize {
        self.images.len()
    }
}

/// A name; an image of this name may exist or not.
fn name(r: &mut Rng) -> String {
    format!("i{}", r.usize(..MAX_IMAGES + 2))
}

fn labels(r: &mut Rng, has_back_references: bool) -> Labels {
    let mut labels = Labels::new();
    for _ in 0..r.one(&[0, 1, 1, 2, 3]) {
        labels.insert(r.one(&REFERENCES).into(), name(r));
    }
    for _ in 0..if has_back_references { r.one(&[0, 0, 1, 1, 2]) } else { 0 } {
        labels.insert(r.one(&BACK_REFERENCES).into(), name(r));
    }
    // It keeps content only.
    if r.chance(5) {
        labels.insert("containerd.io/gc.root".into(), "yes".into());
    }
    labels
}

fn time(r: &mut Rng) -> &'static str {
    if r.chance(90) { r.one(&PAST) } else { r.one(&NOT_PAST) }
}

fn lease(r: &mut Rng, id: String) -> Lease {
    let mut labels = Labels::new();
    let mut has_expired = false;
    if r.chance(30) {
        has_expired = r.chance(60);
        labels.insert(
            EXPIRE.into(),
            if has_expired { r.one(&PAST) } else { r.one(&NOT_PAST) }.into(),
        );
    }
    if r.chance(50) {
        labels.insert("containerd.io/gc.flat".into(), r.one(&["true", "false", ""]).into());
    }
    let images = (0..r.usize(..4)).map(|_| name(r)).collect();
    Lease { namespace: r.usize(..2), id, labels, images, has_expired }
}

fn removal(r: &mut Rng, namespaces: &[String], images: &[Image], leases: &[Lease]) -> Removal {
    if !leases.is_empty() && r.chance(50) {
        let lease = &leases[r.usize(..leases.len())];
        Removal::Lease(namespaces[lease.namespace].clone(), lease.id.clone())
    } else {
        let image = &images[r.usize(..images.len())];
        Removal::Image(namespaces[image.namespace].clone(), image.name.clone())
    }
}
