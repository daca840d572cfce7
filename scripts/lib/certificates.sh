# shellcheck shell=bash
# Certificates of a script's own; sourced after common.sh, never run.

need openssl openssl

# make_authority NAME: an authority in $WORK/certs/NAME.crt and .key.
make_authority() {
    mkdir -p "$WORK/certs"
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj "/CN=authority $1" \
        -addext basicConstraints=critical,CA:TRUE -keyout "$WORK/certs/$1.key" -out "$WORK/certs/$1.crt" 2>/dev/null
}

# make_certificate NAME AUTHORITY COMMON_NAME [ALTERNATIVE]: $WORK/certs/NAME.crt and .key, signed by the authority;
# ALTERNATIVE is as in DNS:localhost.
make_certificate() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/CN=$3" \
        -keyout "$WORK/certs/$1.key" -out "$WORK/certs/$1.csr" 2>/dev/null
    openssl x509 -req -in "$WORK/certs/$1.csr" -CA "$WORK/certs/$2.crt" -CAkey "$WORK/certs/$2.key" -days 2 \
        -CAcreateserial -extfile <(printf 'basicConstraints=CA:FALSE\n'; [[ -z ${4:-} ]] || printf 'subjectAltName=%s\n' "$4") \
        -out "$WORK/certs/$1.crt" 2>/dev/null
}
