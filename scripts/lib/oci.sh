# shellcheck shell=bash
# The parts of an OCI image layout; sourced after common.sh, never run. WORK/layout is the layout.

# pack DIR: writes DIR as a tar archive to stdout; the same files give the same
# bytes for every user and at any time.
pack() {
    tar -C "$1" --format=gnu --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf - .
}

# digest_of FILE: its SHA-256 in hexadecimal.
digest_of() {
    local sum
    sum=$(sha256sum <"$1")
    printf '%s\n' "${sum%% *}"
}

# add_blob MEDIA_TYPE: takes the blob $WORK/blob into the layout and sets
# DESCRIPTOR to the members of its descriptor, without the braces, as the index
# adds some of its own.
add_blob() {
    local digest
    digest=$(digest_of "$WORK/blob")
    DESCRIPTOR=$(printf '"mediaType":"%s","digest":"sha256:%s","size":%d' \
        "$1" "$digest" "$(stat -c %s "$WORK/blob")")
    export DESCRIPTOR
    mv "$WORK/blob" "$WORK/layout/blobs/sha256/$digest"
}
