# shellcheck shell=bash
# Functions and variables that the scripts share. To be sourced by bash scripts, which set their own shell options.

# The checkout.
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# Where everything goes that can be made again. Outside of the checkout, so that several checkouts share one compiled RocksDB,
# which takes many minutes to compile.
# shellcheck disable=SC2034 # used by the scripts that source this file
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/stablechat"

# Where cargo builds.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CACHE/target}"
[[ $CARGO_TARGET_DIR == /* ]] || CARGO_TARGET_DIR="$PWD/$CARGO_TARGET_DIR"

# The programs, once they are built.
# shellcheck disable=SC2034
STABLECHAT="$CARGO_TARGET_DIR/debug/stablechat"
# shellcheck disable=SC2034
STABLECHATD="$CARGO_TARGET_DIR/debug/stablechatd"

# Prints a message to standard error, which keeps it apart from the script's results.
say() {
    printf '%s\n' "$*" >&2
}

# Prints an error and ends the script.
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
