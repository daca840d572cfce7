# shellcheck shell=bash
# Output of shell tests: the checks that succeeded or failed; sourced after common.sh, never run.

# ok TEXT: prints that a check succeeded.
ok() { printf 'ok   %s\n' "$*"; }

# fail WHAT: ends the test.
fail() {
    printf 'FAIL %s\n' "$*"
    exit 1
}

# same WHAT EXPECTED ACTUAL
same() {
    [[ $2 == "$3" ]] || fail "$1"$'\n'"  expected: $2"$'\n'"  got:      $3"
    ok "$1"
}

# has WHAT PART TEXT: TEXT has PART in it.
has() {
    [[ $3 == *"$2"* ]] || fail "$1"$'\n'"  wanted in it: $2"$'\n'"  got:          $3"
    ok "$1"
}

# refused WHAT PART COMMAND...: COMMAND fails, and says PART.
refused() {
    local what=$1 part=$2 said
    shift 2
    if said=$("$@" 2>&1); then fail "$what: it succeeded, and said: $said"; fi
    has "$what" "$part" "$said"
}

# works WHAT COMMAND...
works() {
    local what=$1 said
    shift
    said=$("$@" 2>&1) || fail "$what: $said"
    ok "$what"
}
