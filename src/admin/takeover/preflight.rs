//! The checks before a takeover. The error of a check says what to do.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::{AccessFlags, access, geteuid};

use super::clients::Clients;
use super::layout::{ADDRESS, CONTAINERD_UNIT, DOCKER_UNIT, OUR_UNIT, UPSTREAM};
use super::node::Node;
use super::systemd::{Systemd, property};
use super::unit;
use crate::admin::containerd::await_reply;
use crate::admin::diff::{self, DifferenceKind};
use crate::admin::peers;
use crate::admin::precondition::Check;
use crate::containerd::client::GrpcClient;
use crate::model::Error;
use crate::store::dir::files::DATA_FILE;

/// Free space that the file system of the store must have. A copy of 100,000 images takes about a quarter.
const MIN_FREE_BYTES: u64 = 256 << 20;

/// The oldest containerd, major and minor version, that the takeover is tested with.
const MIN_VERSION: (u32, u32) = (1, 6);

/// Checks that need no containerd.
pub(crate) fn of_machine(systemd: &mut impl Systemd) -> Vec<Check> {
    let check = |subject, found| Check { subject, found };
    let mut checks = vec![check("user", check_user()), check("systemd", check_systemd())];
    if checks.iter().all(|check| check.found.is_ok()) {
        checks.push(check("units", check_units(systemd)));
    }
    checks
}

fn check_user() -> Result<String, String> {
    if !geteuid().is_root() {
        return Err("this changes units of systemd: run it as root".into());
    }
    let folder = "/etc/systemd/system";
    access(folder, AccessFlags::W_OK).map_err(|e| {
        format!("{folder} cannot be written: {e}: a takeover keeps its units there")
    })?;
    Ok("root".into())
}

fn check_systemd() -> Result<String, String> {
    if Path::new("/run/systemd/system").is_dir() {
        return Ok("runs this machine".into());
    }
    Err("this machine is not run by systemd: point clients at our socket instead, see docs/proxy.md".into())
}

/// Checks that both units are loaded, and that no active unit has a socket with the name of one of the takeover.
fn check_units(systemd: &mut impl Systemd) -> Result<String, String> {
    let text = |e: Error| e.message().to_owned();
    for unit in [CONTAINERD_UNIT, OUR_UNIT] {
        if property(systemd, unit, "LoadState").map_err(text)? != "loaded" {
            return Err(format!("there is no {unit}: install its package first"));
        }
    }
    for unit in ["lmdb-images-containerd.socket", "lmdb-images-containerd-ttrpc.socket"] {
        if property(systemd, unit, "ActiveState").map_err(text)? == "active" {
            return Err(format!(
                "{unit} is active, and the takeover brings a socket of the same name: `systemctl disable \
                 --now {unit}`"
            ));
        }
    }
    Ok(format!("{CONTAINERD_UNIT} and {OUR_UNIT} are there"))
}

/// Checks of the node that was found.
pub(crate) async fn of_node(
    node: &Node,
    systemd: &mut impl Systemd,
    store: &Path,
    program: &Path,
) -> Vec<Check> {
    let check = |subject, found| Check { subject, found };
    let clients = Clients::of_machine(systemd);
    let mut checks = vec![
        check("containerd", check_version(node).await),
        check("containers", check_containers(systemd, node, &clients)),
        check("program", check_program(systemd, program)),
        check("store", check_names(store, node.service_was_active).await),
        check("room", check_room(store)),
        check("address", check_upstream()),
        check("clients", Ok(describe_clients())),
    ];
    checks.extend(clients.found.iter().map(|client| check(client.subject, Ok(client.to_string()))));
    checks
}

async fn check_version(node: &Node) -> Result<String, String> {
    let text = |e: Error| e.message().to_owned();
    let containerd = GrpcClient::connect(Path::new(ADDRESS)).await.map_err(text)?;
    let version = await_reply(&containerd, containerd.version()).await.map_err(text)?;
    is_supported(&version)?;
    Ok(format!("{version}, at {ADDRESS}, started by `{}`", node.command))
}

/// Refuses a containerd older than [`MIN_VERSION`]. A version that is not two numbers, of a private build,
/// is not refused.
fn is_supported(version: &str) -> Result<(), String> {
    let mut parts = version.trim_start_matches('v').split('.').map(str::parse::<u32>);
    match (parts.next(), parts.next()) {
        (Some(Ok(major)), Some(Ok(minor))) if (major, minor) < MIN_VERSION => Err(format!(
            "containerd at {ADDRESS} is {version}, and a takeover needs {}.{} or later: upgrade containerd first",
            MIN_VERSION.0, MIN_VERSION.1
        )),
        _ => Ok(()),
    }
}

fn check_containers(
    systemd: &mut impl Systemd,
    node: &Node,
    clients: &Clients,
) -> Result<String, String> {
    let text = |e: Error| e.message().to_owned();
    let mode = property(systemd, CONTAINERD_UNIT, "KillMode").map_err(text)?;
    // systemd restarts only those that run.
    let mut restarted = Vec::new();
    for unit in &node.restarted_too {
        if property(systemd, unit, "ActiveState").map_err(text)? == "active" {
            restarted.push(unit.as_str());
        }
    }
    describe_containers(&mode, &restarted, clients.docker_has_live_restore)
}

/// The effect of containerd's restart on containers: those of docker end with a dockerd that stops.
fn describe_containers(
    kill_mode: &str,
    restarted: &[&str],
    docker_has_live_restore: bool,
) -> Result<String, String> {
    if kill_mode != "process" {
        return Err(format!(
            "{CONTAINERD_UNIT} has KillMode={kill_mode}, so its restart would end every container: set \
             KillMode=process, as containerd's own unit does"
        ));
    }
    let shims = "go on: containerd's restart leaves their shims";
    if !restarted.contains(&DOCKER_UNIT) {
        return Ok(match restarted {
            [] => shims.to_owned(),
            units => format!("{shims}; systemd restarts {} with it", units.join(", ")),
        });
    }
    if !docker_has_live_restore {
        return Err(format!(
            "systemd restarts {} with {CONTAINERD_UNIT}, and docker's containers would end, because live-restore is \
             off: set \"live-restore\": true in /etc/docker/daemon.json and `systemctl reload {DOCKER_UNIT}`, or \
             end them yourself, `systemctl stop {DOCKER_UNIT}`",
            restarted.join(", ")
        ));
    }
    Ok(format!(
        "{shims}; systemd restarts {} with it, and docker's containers go on because live-restore is on",
        restarted.join(", ")
    ))
}

/// The service must have this version, because it reads the files that this program writes.
fn check_program(systemd: &mut impl Systemd, program: &Path) -> Result<String, String> {
    let text = systemd.systemctl(&["cat", OUR_UNIT]).map_err(|e| e.message().to_owned())?;
    let command = unit::command(&text)?;
    let started = Path::new(unit::program(&command));
    if started.canonicalize().ok() != program.canonicalize().ok() {
        return Err(format!(
            "{OUR_UNIT} starts {}, and this is {}: run that one",
            started.display(),
            program.display()
        ));
    }
    Ok(format!("{} {}", program.display(), env!("CARGO_PKG_VERSION")))
}

/// A name that only the store has would be set aside, because in proxy mode containerd's names count.
async fn check_names(store: &Path, is_in_front: bool) -> Result<String, String> {
    if !store.join(DATA_FILE).exists() {
        return Ok(format!("{} is made when the service starts", store.display()));
    }
    let found = diff::run(store, Path::new(ADDRESS)).await.map_err(|e| e.message().to_owned())?;
    let counts = |kind: &DifferenceKind| is_in_front || *kind == DifferenceKind::OnlyHere;
    let differing: Vec<_> = found.differences.iter().filter(|found| counts(&found.kind)).collect();
    match differing.first() {
        None => Ok("has no name that containerd does not have".into()),
        Some(first) => Err(format!(
            "{} images differ from containerd's, {:?} in namespace {} for example ({}): `lmdb-images diff` \
             lists them, `lmdb-images export` gives containerd those that only the store has",
            differing.len(),
            first.name,
            first.namespace,
            first.kind
        )),
    }
}

fn check_room(store: &Path) -> Result<String, String> {
    let folder = store.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/"));
    let free = statvfs(folder)
        .map(|fs| fs.blocks_available().saturating_mul(fs.fragment_size()))
        .map_err(|e| format!("the free space of {} is not known: {e}", folder.display()))?;
    if free < MIN_FREE_BYTES {
        return Err(format!(
            "{} has {} MiB free, and the names may need {} MiB: make room first",
            folder.display(),
            free >> 20,
            MIN_FREE_BYTES >> 20
        ));
    }
    Ok(format!("{} MiB free for the names", free >> 20))
}

fn check_upstream() -> Result<String, String> {
    match std::os::unix::net::UnixStream::connect(UPSTREAM) {
        Ok(_) if !Path::new(UPSTREAM).is_symlink() => {
            Err(format!("a process listens on {UPSTREAM}, where containerd is to move: stop it"))
        }
        _ => Ok(format!("{UPSTREAM} is free")),
    }
}

/// The connected clients, which must connect again.
fn describe_clients() -> String {
    match peers::connected(Path::new(ADDRESS)) {
        Ok(peers) if peers.is_empty() => "none is connected".into(),
        Ok(peers) => {
            let peers: Vec<_> = peers.iter().map(ToString::to_string).collect();
            format!("connect again, and calls under way fail: {}", peers.join(", "))
        }
        Err(e) => format!("not known: {e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containerd_before_1_6_is_refused() {
        for supported in ["1.6.20~ds1", "1.6.0", "v1.7.24", "2.1.9", "1.10.0", "2.0.0-rc.1", "dev"]
        {
            is_supported(supported).unwrap();
        }
        for old in ["1.5.18", "v1.4.13~ds1", "0.2.1"] {
            let refused = is_supported(old).unwrap_err();
            assert!(refused.contains(&format!("is {old}, and a takeover needs 1.6")), "{refused}");
        }
    }

    #[test]
    fn docker_restarted_without_live_restore_stops_a_takeover() {
        let shims = "go on: containerd's restart leaves their shims";
        let describe = describe_containers;
        assert_eq!(describe("process", &[], false).unwrap(), shims);
        let other = format!("{shims}; systemd restarts a.service with it");
        assert_eq!(describe("process", &["a.service"], false).unwrap(), other);
        let refused = describe("process", &["a.service", "docker.service"], false).unwrap_err();
        assert!(
            refused
                .starts_with("systemd restarts a.service, docker.service with containerd.service")
                && refused.contains("live-restore is off"),
            "{refused}"
        );
        let on = describe("process", &["docker.service"], true).unwrap();
        assert!(on.ends_with("go on because live-restore is on"), "{on}");
        assert!(describe("control-group", &[], true).unwrap_err().contains("end every container"));
    }
}
