# shellcheck shell=bash
# A containerd of a script's own; sourced after common.sh, never run.

# From 2.2 on, ctr warns that version 1 of control groups is deprecated, in the middle of its output.
export CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1

declare -A CONTAINERD_BINDIR_OF=() CONTAINERD_DIR_OF=() CONTAINERD_PID_OF=()

# start_containerd NAME BINDIR [FRAGMENT_FILE [PLUGIN_TO_DISABLE...]]: starts a
# containerd of BINDIR with all it writes in $WORK/NAME, and returns when it
# answers. NAME is short and without blanks; several may run at once. Started
# again after stop_containerd, it finds its data as they were.
# FRAGMENT_FILE (or '') is TOML, appended to the configuration. RUNC_DIR, when
# set, comes first in the PATH in which the shims look for runc.
# Sets, for the one started last:
#   CONTAINERD_DIR  CONTAINERD_SOCKET  CONTAINERD_PID  CONTAINERD_LOG
start_containerd() {
    local name=$1 bindir=$2 fragment=${3:-} plugin disabled
    shift "$(($# < 3 ? $# : 3))"
    make_tmp
    [[ -x $bindir/containerd && -x $bindir/ctr ]] || die "no containerd and ctr in $bindir"
    [[ -z ${CONTAINERD_PID_OF[$name]:-} ]] || die "start_containerd: \"$name\" runs already"
    CONTAINERD_DIR=$WORK/$name
    CONTAINERD_SOCKET=$CONTAINERD_DIR/c.sock
    CONTAINERD_LOG=$CONTAINERD_DIR/log
    mkdir -p "$CONTAINERD_DIR"

    # CRI and NRI would look into /etc/cni, /opt and /run/nri; a plugin that a
    # version does not know is no error in this list. With CONTAINERD_CRI=1 CRI runs.
    disabled=
    [[ -n ${CONTAINERD_CRI:-} ]] || set -- io.containerd.grpc.v1.cri io.containerd.cri.v1.images \
        io.containerd.cri.v1.runtime io.containerd.podsandbox.controller.v1.podsandbox "$@"
    for plugin in io.containerd.nri.v1.nri "$@"; do
        disabled+="\"$plugin\", "
    done
    # Version 2 is read by 1.3 and all later ones; 2.x translates it.
    cat >"$CONTAINERD_DIR/config.toml" <<TOML
version = 2
root = "$CONTAINERD_DIR/root"
state = "$CONTAINERD_DIR/state"
disabled_plugins = [$disabled]

[grpc]
  address = "$CONTAINERD_SOCKET"

[ttrpc]
  address = "$CONTAINERD_SOCKET.ttrpc"

[debug]
  address = "$CONTAINERD_DIR/debug.sock"
  level = "${CONTAINERD_LOG_LEVEL:-info}"

[plugins."io.containerd.internal.v1.opt"]
  path = "$CONTAINERD_DIR/opt"

TOML
    [[ -z $fragment ]] || cat -- "$fragment" >>"$CONTAINERD_DIR/config.toml"

    # The shims' sockets are in /run/containerd/s, which containerd has built in.
    [[ -e /run/containerd ]] || on_exit remove_shim_folder
    # A socket that a killed containerd left would look ready. No process listens on it: see above.
    rm -f "$CONTAINERD_SOCKET" "$CONTAINERD_SOCKET.ttrpc"
    # The shim is looked for in PATH, and runc by the shim. With NOTIFY_SOCKET,
    # when this script runs under systemd, it would report as that service.
    env -u NOTIFY_SOCKET TMPDIR="$CONTAINERD_DIR" PATH="$bindir${RUNC_DIR:+:$RUNC_DIR}:$PATH" \
        "$bindir/containerd" --config "$CONTAINERD_DIR/config.toml" \
        </dev/null >>"$CONTAINERD_LOG" 2>&1 &
    CONTAINERD_PID=$!
    record_pid "$CONTAINERD_PID"
    CONTAINERD_BINDIR_OF[$name]=$bindir
    CONTAINERD_DIR_OF[$name]=$CONTAINERD_DIR
    CONTAINERD_PID_OF[$name]=$CONTAINERD_PID
    on_exit stop_containerd "$name"

    if ! await 30 "containerd \"$name\"" containerd_answers_or_died "$name" ||
        ! is_running "$CONTAINERD_PID"; then
        say "containerd \"$name\" of $bindir does not run; the end of its log:"
        tail -n 20 "$CONTAINERD_LOG" >&2
        return 1
    fi
    export CONTAINERD_DIR CONTAINERD_SOCKET CONTAINERD_PID CONTAINERD_LOG
}

# Waiting for one that has ended would only waste the deadline.
containerd_answers_or_died() {
    is_gone "${CONTAINERD_PID_OF[$1]}" ||
        { [[ -S ${CONTAINERD_DIR_OF[$1]}/c.sock ]] && ctr_for "$1" --connect-timeout 1s --timeout 2s version; }
}

# ctr_for NAME ARGUMENTS...: the ctr of that containerd's version, talking to it.
ctr_for() {
    local name=$1
    shift
    "${CONTAINERD_BINDIR_OF[$name]}/ctr" --address "${CONTAINERD_DIR_OF[$name]}/c.sock" "$@"
}

# use_socket NAME SOCKET BINDIR: from now on ctr_for NAME is the ctr of BINDIR, talking to SOCKET.
use_socket() {
    mkdir -p "$WORK/$1"
    ln -sfn "$2" "$WORK/$1/c.sock"
    CONTAINERD_DIR_OF[$1]=$WORK/$1
    CONTAINERD_BINDIR_OF[$1]=$3
}

# ctr_run NAME NAMESPACE ARGUMENTS...: "ctr run" that keeps ctr's and runc's own
# files below $WORK too, which by default are in /run/containerd, and that puts
# the container into a control group of this script's, to be removed at exit.
ctr_run() {
    local name=$1 namespace=$2 dir=${CONTAINERD_DIR_OF[$1]}
    shift 2
    if [[ -z ${CGROUPS_REMOVED:-} ]]; then
        on_exit remove_cgroups
        CGROUPS_REMOVED=1
    fi
    # ctr mounts the image in TMPDIR for a moment, to read its /etc/passwd.
    TMPDIR=$dir ctr_for "$name" --namespace "$namespace" run --fifo-dir "$dir/fifo" \
        --runc-root "$dir/runc" --cgroup "/${WORK##*/}/$SRANDOM" "$@"
}

# stop_containerd NAME [KILL]: ends its containers first, as shims outlive
# containerd by design, then containerd itself; with KILL it kills containerd at
# once, and its containers after it. No error when it has ended already.
stop_containerd() {
    local name=$1 signal=${2:-TERM} pid=${CONTAINERD_PID_OF[$1]:-} namespace task
    [[ -n $pid ]] || return 0
    if [[ $signal == KILL ]]; then
        stop_process "$pid" KILL
    elif is_running "$pid"; then
        for namespace in $(ctr_for "$name" --timeout 10s namespaces list -q 2>/dev/null); do
            for task in $(ctr_for "$name" --timeout 10s -n "$namespace" tasks list -q 2>/dev/null); do
                ctr_for "$name" --timeout 10s -n "$namespace" tasks rm -f "$task" >/dev/null 2>&1 || true
            done
        done
    fi
    stop_shims "${CONTAINERD_DIR_OF[$name]}"
    stop_process "$pid"
    unmount_below "${CONTAINERD_DIR_OF[$name]}"
    unset "CONTAINERD_PID_OF[$name]"
}

# remove_shim_folder: for a machine that had none before. Another's sockets keep it.
remove_shim_folder() { rmdir /run/containerd/s /run/containerd 2>/dev/null || true; }

# stop_shims DIR: ends the shims that stop_containerd could not end through containerd, for example after
# containerd was killed. A shim is known by having DIR's socket, a path that only this
# script has, as an argument of its own; its children are the containers.
stop_shims() {
    local dir=$1 shim child
    local -a words children
    for shim in /proc/[0-9]*; do
        [[ $(readlink "$shim/exe") == */containerd-shim* ]] || continue
        { mapfile -d '' -t words <"$shim/cmdline"; } 2>/dev/null || continue
        [[ " ${words[*]} " == *" $dir/c.sock "* ]] || continue
        read -r -d '' -a children < <(cat "$shim"/task/*/children 2>/dev/null) || true
        for child in "${children[@]}"; do
            record_pid "$child"
            # The first process of a container need not heed TERM.
            if is_running "$child"; then kill -KILL "$child" 2>/dev/null || true; fi
        done
        record_pid "${shim#/proc/}"
        stop_process "${shim#/proc/}" || true
    done
}
