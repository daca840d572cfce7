# shellcheck shell=bash
# The program as it is released, for this machine's architecture or another; sourced after common.sh, never run.

CARGO_AUDITABLE=0.7.7

# cargo_tool NAME VERSION: builds a subcommand of cargo under target/tools the first time and puts it in the PATH.
# Returns 1 if it cannot be had; what cargo said is in target/tools/NAME.log.
cargo_tool() {
    local name=$1 version=$2 tools=$REPO/target/tools
    export PATH=$tools/bin:$PATH
    [[ $(cat "$tools/$name.version" 2>/dev/null) != "$version" || ! -x $tools/bin/$name ]] || return 0
    say "building $name $version under target/tools"
    mkdir -p "$tools"
    cargo install --quiet --locked --root "$tools" "$name" --version "$version" >"$tools/$name.log" 2>&1 || return 1
    printf '%s\n' "$version" >"$tools/$name.version"
}

# build_dist ARCH: builds the program for that architecture of Debian's by the profile dist of Cargo.toml, with the
# list of its libraries in it. Sets BUILD_TRIPLE to the name that Rust has for it, BUILD_TOOLS to what the names of its
# binutils begin with, and BUILD_PROGRAM to the program. Another architecture than the machine's takes Debian's cross
# compiler.
build_dist() {
    local arch=$1 native gnu target=() auditable=(auditable) lld flags=()
    native=$(dpkg --print-architecture)
    case $arch in
    amd64) gnu=x86_64-linux-gnu BUILD_TRIPLE=x86_64-unknown-linux-gnu ;;
    arm64) gnu=aarch64-linux-gnu BUILD_TRIPLE=aarch64-unknown-linux-gnu ;;
    *) die "packages are made for amd64 and arm64, not for $arch" ;;
    esac
    need cc gcc
    BUILD_TOOLS=
    BUILD_PROGRAM=$REPO/target/dist/lmdb-images
    if [[ $arch != "$native" ]]; then
        need "$gnu-gcc" "gcc-${gnu//_/-}"
        [[ -e /usr/$gnu/lib/libc.so ]] || apt_get install --no-install-recommends "libc6-dev-$arch-cross" ||
            die "cannot install libc6-dev-$arch-cross: $AWAITED"
        if [[ ! -d $(rustc --print sysroot)/lib/rustlib/$BUILD_TRIPLE ]]; then
            say "adding Rust's library for $BUILD_TRIPLE"
            rustup --quiet target add "$BUILD_TRIPLE" >&2 ||
                die "Rust has no library for $BUILD_TRIPLE: rustup target add $BUILD_TRIPLE"
        fi
        local name=${BUILD_TRIPLE//-/_}
        export "CC_$name=$gnu-gcc" "CARGO_TARGET_${name^^}_LINKER=$gnu-gcc"
        target=(--target "$BUILD_TRIPLE")
        BUILD_TOOLS=$gnu-
        BUILD_PROGRAM=$REPO/target/$BUILD_TRIPLE/dist/lmdb-images
    fi
    if ! cargo_tool cargo-auditable "$CARGO_AUDITABLE"; then
        say "cargo-auditable cannot be had (target/tools/cargo-auditable.log): the program does not carry the list of its libraries"
        auditable=()
    fi
    # Rust's own linker stores equal functions once, the ends of strings with the strings (-O2), and relocations in a few
    # bits each. glibc reads those from 2.36 on, which is Debian 12's.
    lld=$(rustc --print sysroot)/lib/rustlib/$(rustc --version --verbose | sed -n 's/^host: //p')/bin/gcc-ld
    if [[ -x $lld/ld.lld ]]; then
        for flag in "-B$lld" -fuse-ld=lld -Wl,-O2 -Wl,--icf=all -Wl,-z,pack-relative-relocs; do
            flags+=(-C "link-arg=$flag")
        done
    else
        say "Rust has no linker in $lld: the program is larger"
    fi
    say "building lmdb-images for $arch (10 to 20 minutes the first time)"
    cargo "${auditable[@]}" rustc --profile dist --locked --bin lmdb-images "${target[@]}" -- "${flags[@]}" >&2
    export BUILD_TRIPLE BUILD_TOOLS BUILD_PROGRAM
}
