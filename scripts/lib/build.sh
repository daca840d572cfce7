# shellcheck shell=bash
# The programs as they are released, for this machine's architecture or another; sourced after common.sh, never run.

CARGO_AUDITABLE=0.7.7

# cargo_tool NAME VERSION: builds a subcommand of cargo under target/tools the first time and puts it in the PATH.
# Returns 1 if the build fails; target/tools/NAME.log has cargo's output.
cargo_tool() {
    local name=$1 version=$2 tools=$REPO/target/tools
    export PATH=$tools/bin:$PATH
    [[ $(cat "$tools/$name.version" 2>/dev/null) != "$version" || ! -x $tools/bin/$name ]] || return 0
    say "building $name $version under target/tools"
    mkdir -p "$tools"
    cargo install --quiet --locked --root "$tools" "$name" --version "$version" >"$tools/$name.log" 2>&1 || return 1
    printf '%s\n' "$version" >"$tools/$name.version"
}

# build_features PROGRAM: the flags of cargo by which a program is built with the libraries that it needs.
build_features() { [[ $1 == lmdb-images-fleet ]] || printf -- '--no-default-features\n'; }

# build_dist ARCH PROGRAM...: builds the programs for that architecture of Debian's by the profile dist of Cargo.toml,
# with the list of their libraries in them. Sets BUILD_TRIPLE to Rust's name of the architecture, BUILD_TOOLS to the prefix
# of the names of its binutils, and BUILD_FOLDER to the folder of the programs. Another architecture than the
# machine's takes Debian's cross compiler.
build_dist() {
    local arch=$1 native gnu auditable=(auditable) lld index program flags flag features
    shift
    native=$(dpkg --print-architecture)
    case $arch in
    amd64) gnu=x86_64-linux-gnu BUILD_TRIPLE=x86_64-unknown-linux-gnu ;;
    arm64) gnu=aarch64-linux-gnu BUILD_TRIPLE=aarch64-unknown-linux-gnu ;;
    *) die "packages are made for amd64 and arm64, not for $arch" ;;
    esac
    need cc gcc
    BUILD_TOOLS=
    BUILD_FOLDER=$REPO/target/$BUILD_TRIPLE/dist
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
        BUILD_TOOLS=$gnu-
    fi
    if ! cargo_tool cargo-auditable "$CARGO_AUDITABLE"; then
        say "cargo-auditable cannot be had (target/tools/cargo-auditable.log): the programs do not carry the list of their libraries"
        auditable=()
    fi
    # Frame pointers make the tables for unwinding smaller by more than they add to the code, and "perf" follows calls by
    # them. Panics name source files as they are in any build, and not where this machine has them.
    flags=(-Cforce-frame-pointers=yes "--remap-path-prefix=$REPO=lmdb-images")
    for index in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/; do flags+=("--remap-path-prefix=${index%/}=crates"); done
    # Rust's own linker stores equal functions once, the ends of strings with the strings (-O2), and relocations in a few
    # bits each. glibc reads those from 2.36 on, which is Debian 12's.
    lld=$(rustc --print sysroot)/lib/rustlib/$(rustc --version --verbose | sed -n 's/^host: //p')/bin/gcc-ld
    if [[ -x $lld/ld.lld ]]; then
        for flag in "-B$lld" -fuse-ld=lld -Wl,-O2 -Wl,--icf=all -Wl,-z,pack-relative-relocs; do
            flags+=("-Clink-arg=$flag")
        done
    else
        say "Rust has no linker in $lld: the program is larger"
    fi
    for program; do
        say "building $program for $arch (10 to 20 minutes the first time)"
        mapfile -t features < <(build_features "$program")
        # With --target, cargo does not use the flags for programs that run during the build.
        # The separator of this variable allows a blank in a path.
        CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf '%s' "${flags[*]}") cargo "${auditable[@]}" build --profile dist --locked --bin "$program" "${features[@]}" \
            --target "$BUILD_TRIPLE" >&2
    done
    export BUILD_TRIPLE BUILD_TOOLS BUILD_FOLDER
}
