# shellcheck shell=bash
# What the scripts share. To be sourced, by bash; the caller sets its own options.

# The checkout.
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# Where everything goes that can be made again. Outside of the checkout, so that several checkouts share the many minutes
# that RocksDB takes to compile.
# shellcheck disable=SC2034 # for those who source this
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/stablechat"

# Where cargo builds.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CACHE/target}"
[[ $CARGO_TARGET_DIR == /* ]] || CARGO_TARGET_DIR="$PWD/$CARGO_TARGET_DIR"

# The programs, once they are built.
# shellcheck disable=SC2034
STABLECHAT="$CARGO_TARGET_DIR/debug/stablechat"
# shellcheck disable=SC2034
STABLECHATD="$CARGO_TARGET_DIR/debug/stablechatd"

# Tells the person who runs the script something, apart from its results.
say() {
    printf '%s\n' "$*" >&2
}

# Says what is wrong, and ends the script.
die() {
    say "${0##*/}: $*"
    exit 1
}

# Builds the programs if they are missing or older than their sources.
build_programs() {
    "$ROOT/scripts/setup" build || return
    if [[ ! -x $STABLECHATD ]]; then
        say "building; the first time compiles RocksDB, which takes some 20 minutes on two cores"
    fi
    # The whole workspace: a selection of packages selects other features, and RocksDB would be compiled again.
    (cd "$ROOT" && cargo build --quiet --workspace --locked)
}
