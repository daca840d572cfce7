# shellcheck shell=bash
# A registry of a script's own, on loopback; sourced after common.sh, never run.

# start_registry: a registry on a port of the kernel's choice, unless one runs; all it keeps
# is in $WORK/registry. Sets REGISTRY: its address and port.
start_registry() {
    local programs
    [[ -z ${REGISTRY:-} ]] || return 0
    mkdir "$WORK/registry"
    cat >"$WORK/registry/config.yml" <<YAML
version: 0.1
storage: {filesystem: {rootdirectory: $WORK/registry/data}}
http: {addr: "127.0.0.1:0"}
YAML
    # Fetched before it is waited for.
    programs=$("$SCRIPTS/lib/get-containerd" registry)
    "$programs/docker-registry" serve "$WORK/registry/config.yml" \
        >"$WORK/registry/log" 2>&1 </dev/null &
    record_pid $!
    await 10 "the registry" grep -o 'listening on 127.0.0.1:[0-9]*' "$WORK/registry/log"
    REGISTRY=${AWAITED##* }
}
