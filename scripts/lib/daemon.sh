# shellcheck shell=bash
# A lmdb-images daemon of a script's own; sourced after common.sh, never run.

# Where the programs are built; a script may set it first.
: "${TARGET:=$REPO/target/debug}"

# start_daemon NAME [ARGUMENTS...]: serves $WORK/NAME/root with sockets in
# $WORK/NAME/state, and returns when calls are answered. Started again after
# stop_process, it finds its store as it was.
# Sets, for the one started last:
#   DAEMON_ROOT  DAEMON_STATE  DAEMON_SOCKET (gRPC)  DAEMON_TTRPC  DAEMON_PID  DAEMON_LOG
start_daemon() {
    local name=$1
    shift
    make_tmp
    DAEMON_ROOT=$WORK/$name/root
    DAEMON_STATE=$WORK/$name/state
    DAEMON_SOCKET=$DAEMON_STATE/images.sock
    DAEMON_TTRPC=$DAEMON_STATE/images.sock.ttrpc
    DAEMON_LOG=$WORK/$name/log
    mkdir -p "$WORK/$name"
    "$TARGET/lmdb-images" serve --root "$DAEMON_ROOT" --state "$DAEMON_STATE" "$@" \
        </dev/null >>"$DAEMON_LOG" 2>&1 &
    DAEMON_PID=$!
    record_pid "$DAEMON_PID"
    if ! await 30 "lmdb-images \"$name\"" daemon_answers_or_died || ! is_running "$DAEMON_PID"; then
        say "lmdb-images \"$name\" does not run; the end of its log:"
        tail -n 20 "$DAEMON_LOG" >&2
        return 1
    fi
    export DAEMON_ROOT DAEMON_STATE DAEMON_SOCKET DAEMON_TTRPC DAEMON_PID DAEMON_LOG
}

daemon_answers_or_died() {
    is_gone "$DAEMON_PID" || "$TARGET/examples/images" "$DAEMON_SOCKET" ready list
}
