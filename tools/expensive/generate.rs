//! Makes a trial from a seed: its clients, and their requests.

use fastrand::Rng;

use super::client::Protocol;
use super::load::{Load, Parameters, Plan};
use super::requests::*;

/// A trial.
pub struct Trial {
    pub plan: Plan,
    described: Vec<String>,
}

impl Trial {
    /// Its clients, for a reader.
    pub fn described(&self) -> String {
        self.described.join("; ")
    }
}

/// What calls there are: a name, whether ttrpc has them, and the request of a number.
type Method = (&'static str, bool, fn(u64, &Parameters) -> Request);

const METHODS: &[Method] = &[
    ("Images/Get", true, |n, p| get_image(&existing(n, p))),
    ("Images/Get large", true, |_, _| get_image("large")),
    ("Images/List", true, |n, p| {
        list_images(filters(n, p, &["name", "labels.l1", "target.digest"]))
    }),
    ("Images/List all", true, |_, _| list_images(Vec::new())),
    ("Images/List new namespaces", true, |n, _| list_images(Vec::new()).within(format!("new-{n}"))),
    ("Images/Create", true, |n, p| create_image(image(&existing(n, p), p.count, p.length, 0))),
    ("Images/Create long names", true, |n, p| {
        create_image(image(&format!("{}-{}", restless(30 * p.length), n % 8), 1, 1, 0))
    }),
    ("Images/Create annotations", true, |n, p| {
        create_image(image(&format!("a{}", n % 4), 1, 1, (500 * p.length).min(3 << 20)))
    }),
    ("Images/Update one label", true, |n, p| {
        let mut labelled = image("large", 0, 0, 0);
        labelled.labels.insert(format!("l{}", n % 7), "v".repeat(p.length));
        update_image(labelled, vec![format!("labels.l{}", n % 7)])
    }),
    ("Images/Update many paths", true, |_, p| {
        update_image(image("masked", p.count, 1, 0), vec!["labels".into(); p.count])
    }),
    ("Images/Delete", true, |n, p| delete_image(&existing(n, p), false)),
    ("Images/Delete sync", true, |n, p| delete_image(&existing(n, p), true)),
    ("Images/Create expiring", true, |n, _| {
        expiring_image(&format!("e{}", n % 20_000), "2001-01-01T00:00:00Z")
    }),
    ("Leases/Create", false, |n, p| create_lease(&format!("l{n}"), p.count.min(60), p.length)),
    ("Leases/Create expiring", false, |n, _| {
        expiring_lease(&format!("e{}", n % 20_000), "2001-01-01T00:00:00Z")
    }),
    ("Leases/AddResource", false, |n, p| {
        add_resource(&format!("r{}", n % 16), format!("{}{n}", "r".repeat(20 * p.length)))
    }),
    ("Leases/ListResources", false, |n, _| list_resources(&format!("r{}", n % 16))),
    ("Leases/List", false, |n, p| list_leases(filters(n, p, &["id", "labels.l1"]))),
    ("Leases/List all", false, |_, _| list_leases(Vec::new())),
    ("Namespaces/Create", false, |n, p| {
        create_namespace(&format!("a{}", n % 500), p.count.min(60), p.length)
    }),
    ("Namespaces/List", false, |_, _| list_namespaces()),
    ("Transfer", false, |_, p| tags("0", p.count.min(1000), p.pattern * 10, p.length.min(1000))),
    ("Introspection/Plugins", false, |n, p| plugins(filters(n, p, &["id", "type"]))),
    ("Events/Publish", false, |n, p| publish(format!("{n}"), p.count.min(15), p.length)),
    ("Events/Publish long names", false, |_, p| {
        publish(restless((15 * p.length).min(60_000)), 0, 0)
    }),
    ("Events/Forward", false, |n, p| forward(format!("{n}"), p.count.min(15), p.length)),
    ("Events/Subscribe", false, |n, p| {
        subscribe(filters(n, p, &["topic", "event.name", "event.labels.l1"]))
    }),
    ("Events/Subscribe all", false, |_, _| subscribe(Vec::new())),
];

/// What clients of well-formed filters may write; `{n}` makes each another, `{r}` is a number of repeats.
const PATTERNS: &[&str] = &[
    "^{n}",
    "x.*{n}",
    "a[ab]{{r}}[c-z]{n}",
    "(?i)[a-z]{{r}}{n}",
    "(a|b|ab){{r}}c{n}",
    "([a-q][^u-z]{13}){{r}}{n}",
    "\\\\pL{{r}}{n}",
    "(x+x+)+y{n}",
    "(.*)(.*)(.*)(.*)[0-9]{n}$",
    "(unclosed {n}",
];

/// The name of one of few images, or of many.
fn existing(n: u64, p: &Parameters) -> String {
    (n % [7, 100, 1000][p.pattern % 3]).to_string()
}

fn filters(n: u64, p: &Parameters, fields: &[&str]) -> Vec<String> {
    // Small numbers of filters are as likely as large ones.
    let count = 1 + p.count % [1, 3, 40, 1000][p.length % 4];
    let repeats = 1 + p.length % [10, 100, 1000][p.count % 3];
    let field = fields[p.pattern % fields.len()];
    (0..count)
        .map(|m| {
            let pattern = PATTERNS[p.pattern % PATTERNS.len()];
            let pattern = pattern.replace("{r}", &repeats.to_string());
            let pattern = pattern.replace("{n}", &format!("{n}{m}"));
            format!("{field}~=\"{pattern}\"")
        })
        .collect()
}

/// The trial of a seed.
pub fn trial(seed: u64) -> Trial {
    let mut rng = Rng::with_seed(seed);
    let (mut loads, mut described) = (Vec::new(), Vec::new());
    for _ in 0..rng.usize(1..=5) {
        let (name, has_ttrpc, request) = METHODS[rng.usize(..METHODS.len())];
        let protocol = if has_ttrpc && rng.bool() { Protocol::Ttrpc } else { Protocol::Grpc };
        let parameters = Parameters {
            count: size(&mut rng, 12),
            length: size(&mut rng, 12),
            pattern: rng.usize(..30),
        };
        let load = Load {
            protocol,
            connections: size(&mut rng, 7),
            in_flight: size(&mut rng, 6),
            reads: protocol == Protocol::Ttrpc || rng.u8(..) < 200,
            request,
            parameters,
        };
        let reads = if load.reads { "" } else { ", unread" };
        let Parameters { count, length, pattern } = parameters;
        described.push(format!(
            "{name} over {protocol:?}{reads}, {} × {}, {count}/{length}/{pattern}",
            load.connections, load.in_flight
        ));
        loads.push(load);
    }
    Trial { plan: Plan { before: before(&mut rng), loads }, described }
}

/// A number up to two to that power; all magnitudes are as likely.
fn size(rng: &mut Rng, power: u32) -> usize {
    let most = 1 << rng.u32(0..=power);
    rng.usize(most / 2..=most).max(1)
}

/// What is there before: some images, leases and namespaces, as large as a seed wants.
fn before(rng: &mut Rng) -> Vec<Request> {
    let leases = size(rng, 9);
    let mut before: Vec<Request> =
        (0..leases).map(|n| create_lease(&format!("before{n}"), 40, 4000)).collect();
    before.extend((0..16).map(|n| create_lease(&format!("r{n}"), 1, 1)));
    before.push(create_image(image("large", 1, 1, size(rng, 24).min(15 << 20))));
    before.push(create_image(image("masked", 100, 1, 0)));
    let length = size(rng, 20);
    before
        .extend((0..8).map(|n| create_image(image(&format!("{}{n}", restless(length)), 1, 1, 0))));
    let namespaces = size(rng, 9);
    before.extend((0..namespaces).map(|n| create_namespace(&format!("b{n}"), 50, 4000)));
    before
}
