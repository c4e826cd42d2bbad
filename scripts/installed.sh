# shellcheck shell=bash
# The files that an installation has, and their places. To be sourced after common.sh, by bash.

# The directory that stablechat-manual writes manual pages and shell completions to.
SHARE="$CARGO_TARGET_DIR/debug/share"

# Prints a line for each file: its mode, its path in the build, and its path when installed.
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

# Builds the files that an installation has.
build_installed() {
    build_programs && "$CARGO_TARGET_DIR/debug/stablechat-manual" "$SHARE"
}

# The directories of the replicas' configuration and data. systemd keeps the data of a unit with DynamicUser=yes below
# /var/lib/private, and makes a symbolic link to it in /var/lib.
# shellcheck disable=SC2034 # used by the scripts that source this file
CONFIGURATION=/etc/stablechat
# shellcheck disable=SC2034 # used by the scripts that source this file
DATA=(/var/lib/stablechat /var/lib/private/stablechat)

# Makes systemd read the units again, if this machine runs systemd.
reload_systemd() {
    [[ ! -d /run/systemd/system ]] || systemctl daemon-reload
}

# Ends the script unless the user is root. The arguments are those of the script, for the message.
need_root() {
    ((EUID == 0)) || die "only root can change the installation; run: sudo $0 $*"
}
