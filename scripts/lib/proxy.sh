# shellcheck shell=bash
# Our daemon in front of a real containerd; sourced after common.sh, containerd.sh, daemon.sh
# and expect.sh, never run. "behind" is the containerd, and "front" our socket.

# prepare_proxy: a temporary directory with two archives, image.tar and other.tar, and runc.
# Sets image: the repository of their images.
prepare_proxy() {
    image=docker.io/library/hello
    export CONTAINERD_NAMESPACE=test
    make_tmp
    "$SCRIPTS/lib/make-oci-image" "$WORK/image.tar" "$image:1" "$image:2"
    "$SCRIPTS/lib/make-oci-image" -m other "$WORK/other.tar" "$image:1" "$image:3"
    RUNC_DIR=$("$SCRIPTS/lib/get-containerd" runc)
    export RUNC_DIR
}

# start_front BINDIR: our daemon before "behind". "front" is its containerd.sock, with the ctr of BINDIR.
start_front() {
    start_daemon d --containerd "$WORK/behind/c.sock"
    use_socket front "$DAEMON_STATE/containerd.sock" "$1"
}

# records SOCKET: every field of every image, times included.
records() { "$TARGET/examples/images" "$1" test list; }
# seen: both sockets have the same images.
seen() { [[ $(records "$DAEMON_TTRPC") == "$(records "$WORK/behind/c.sock")" ]]; }
