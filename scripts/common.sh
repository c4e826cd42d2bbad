# shellcheck shell=bash
# Functions and variables that the scripts share. To be sourced by bash scripts, which set their own shell options.

# The root directory of the checkout.
ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)

# The directory for files that can be made again. It is outside of the checkout, so that several checkouts share one compiled
# RocksDB, which takes about 20 minutes to compile on two cores.
# shellcheck disable=SC2034 # used by the scripts that source this file
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/stablechat"

# The directory that cargo builds in, as an absolute path, since scripts change the current directory.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$CACHE/target}"
[[ $CARGO_TARGET_DIR == /* ]] || CARGO_TARGET_DIR="$PWD/$CARGO_TARGET_DIR"

# The programs. They exist only after build_programs.
# shellcheck disable=SC2034
STABLECHAT="$CARGO_TARGET_DIR/debug/stablechat"
# shellcheck disable=SC2034
STABLECHATD="$CARGO_TARGET_DIR/debug/stablechatd"

# Prints a message to standard error, because standard output is for the script's results.
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
        say "building stablechat; the first build compiles RocksDB, which takes about 20 minutes on two cores"
    fi
    # The whole workspace, because selecting packages selects other features, and RocksDB would be compiled again.
    (cd "$ROOT" && cargo build --quiet --workspace --locked)
}
