# shellcheck shell=bash
# A dockerd of Debian sid that keeps its images in a containerd, with all it writes in $WORK/NAME, and
# its client. NAME is docker, unless another is given. Needs common.sh, containerd.sh and expect.sh; get_docker comes first, after make_tmp.

# get_docker: the programs, and RUNC_DIR. Fails where they are not to be had.
get_docker() {
    RUNC_DIR=$("$SCRIPTS/lib/get-containerd" runc) &&
        DOCKERD=$("$SCRIPTS/lib/get-containerd" docker) &&
        DOCKER_CLI=$("$SCRIPTS/lib/get-containerd" docker-cli) &&
        DOCKER_BUILDX=$("$SCRIPTS/lib/get-containerd" buildx) || return 1
    # dockerd makes it, whatever its folders; another's plugins keep it.
    [[ -e /run/docker ]] || on_exit remove_plugin_folder
}
remove_plugin_folder() { rmdir /run/docker/plugins /run/docker 2>/dev/null || true; }

# start_dockerd SOCKET BIN [NAME]: on that containerd, whose programs are in BIN. Sets DOCKERD_PID.
start_dockerd() {
    local bin=$2 name=${3:-docker}
    mkdir -p "$WORK/$name/cli/cli-plugins"
    ln -sfn "$DOCKER_BUILDX/docker-buildx" "$WORK/$name/cli/cli-plugins/docker-buildx"
    cat >"$WORK/$name/daemon.json" <<JSON
{"debug": true, "features": {"containerd-snapshotter": true}, "storage-driver": "overlayfs",
 "exec-opts": ["native.cgroupdriver=cgroupfs"], "cgroup-parent": "/${WORK##*/}/$name"}
JSON
    env -u NOTIFY_SOCKET TMPDIR="$WORK/$name" PATH="$DOCKERD:$bin:$RUNC_DIR:$PATH" \
        "$DOCKERD/dockerd" --config-file "$WORK/$name/daemon.json" --containerd "$1" \
        --data-root "$WORK/$name/root" --exec-root "$WORK/$name/exec" \
        --pidfile "$WORK/$name/pid" --host "unix://$WORK/$name/d.sock" --group "$(id -g)" \
        --bridge=none --iptables=false --ip6tables=false --ip-forward=false \
        </dev/null >>"$WORK/$name/log" 2>&1 &
    DOCKERD_PID=$!
    record_pid "$DOCKERD_PID"
    if ! await 30 "dockerd \"$name\"" dockerd_answers_or_died "$name" || ! is_running "$DOCKERD_PID"; then
        tail -n 20 "$WORK/$name/log" >&2
        fail "dockerd \"$name\" does not run"
    fi
}
dockerd_answers_or_died() { is_gone "$DOCKERD_PID" || docker_of "$1" version; }

# docker_of NAME ARGUMENTS...: the client, of that dockerd; docker ARGUMENTS...: of the one named docker.
docker_of() {
    DOCKER_CONFIG=$WORK/$1/cli "$DOCKER_CLI/docker" --host "unix://$WORK/$1/d.sock" "${@:2}"
}
docker() { docker_of docker "$@"; }
