# shellcheck shell=bash
# What is installed, and where. To be sourced after common.sh, by bash; used by scripts/install and scripts/uninstall.

# Where manual pages and completions are made.
SHARE="$CARGO_TARGET_DIR/debug/share"

# Prints a line for each file: its mode, where it is built, and where it goes.
installed_files() {
    local program
    for program in stablechat stablechatd; do
        printf '%s\t%s\t%s\n' \
            755 "$CARGO_TARGET_DIR/debug/$program" "/usr/local/bin/$program" \
            644 "$SHARE/$program.bash" "/usr/local/share/bash-completion/completions/$program" \
            644 "$SHARE/$program.fish" "/usr/local/share/fish/vendor_completions.d/$program.fish" \
            644 "$SHARE/$program.zsh" "/usr/local/share/zsh/site-functions/_$program"
    done
    printf '%s\t%s\t%s\n' \
        644 "$SHARE/stablechat.1" /usr/local/share/man/man1/stablechat.1 \
        644 "$SHARE/stablechatd.8" /usr/local/share/man/man8/stablechatd.8 \
        644 "$ROOT/scripts/systemd/stablechatd@.service" /usr/local/lib/systemd/system/stablechatd@.service \
        644 "$ROOT/scripts/systemd/stablechat.target" /usr/local/lib/systemd/system/stablechat.target
}

# Builds everything that is installed.
build_installed() {
    build_programs && "$CARGO_TARGET_DIR/debug/stablechat-manual" "$SHARE"
}

# Where replicas have their configuration and their data.
# shellcheck disable=SC2034 # for those who source this
CONFIGURATION=/etc/stablechat
# shellcheck disable=SC2034 # for those who source this
DATA=(/var/lib/stablechat /var/lib/private/stablechat)

# Tells systemd that units have changed, if it runs.
reload_systemd() {
    [[ ! -d /run/systemd/system ]] || systemctl daemon-reload
}

# Ends the script unless root runs it.
need_root() {
    ((EUID == 0)) || die "only root can do this; try: sudo $0 $*"
}
