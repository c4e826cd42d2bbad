//! `stablechat-manual`: writes manual pages and shell completions of both programs, for installing.

use argh::{ArgsInfo, FromArgs};
use argh_complete::{Generator, bash::Bash, fish::Fish, zsh::Zsh};
use stablechat_command_line::completion::with_common_options;
use stablechat_tests::manual::Manual;
use std::path::{Path, PathBuf};

/// Writes the manual pages of stablechat and stablechatd and their completions for bash, fish and zsh.
#[derive(FromArgs)]
#[argh(example = "{command_name} target/share")]
struct Arguments {
    /// the directory to write them to, made when it is not there
    #[argh(positional)]
    directory: PathBuf,
}

fn main() -> std::io::Result<()> {
    let Arguments { directory } = argh::from_env();
    std::fs::create_dir_all(&directory)?;
    write(&directory, &client())?;
    write(&directory, &server())
}

/// Writes the manual page and the completions of a program.
fn write(directory: &Path, manual: &Manual) -> std::io::Result<()> {
    let Manual { name, section, .. } = manual;
    std::fs::write(directory.join(format!("{name}.{section}")), manual.page())?;
    let command = &with_common_options(manual.command.clone());
    std::fs::write(directory.join(format!("{name}.bash")), Bash::generate(name, command))?;
    std::fs::write(directory.join(format!("{name}.fish")), Fish::generate(name, command))?;
    std::fs::write(directory.join(format!("{name}.zsh")), Zsh::generate(name, command))
}

fn client() -> Manual {
    Manual {
        name: "stablechat",
        section: 1,
        summary: "chat that goes on when all replicas but one are dead",
        command: stablechat_client::cli::arguments::information(),
        sections: &[
            (
                "FILES",
                &[
                    (
                        "~/.config/stablechat/cluster.toml",
                        "The cluster file, when neither an option nor the environment gives one.",
                    ),
                    (
                        "~/.local/share/stablechat/keys/CLUSTER/NAME.key",
                        "The keys of your accounts. Anybody who has the key of an account owns it. They are never removed.",
                    ),
                    (
                        "NAME.key.new, NAME.key.deleted-TIME, NAME.key.replaced-TIME",
                        "Beside it: the key of a create that was not confirmed, of an account that was deleted, and one that another took the place of.",
                    ),
                ],
            ),
            ("SEE ALSO", &[("stablechatd(8)", "The replicas.")]),
        ],
    }
}

fn server() -> Manual {
    Manual {
        name: "stablechatd",
        section: 8,
        summary: "a replica of the stablechat service",
        command: stablechat_server::cli::Arguments::get_args_info(),
        sections: &[
            (
                "ENVIRONMENT",
                &[
                    ("RUST_LOG", "What is logged at least: error, warn, info (the default) or debug."),
                    (
                        "NOTIFY_SOCKET, WATCHDOG_USEC, JOURNAL_STREAM",
                        "Set by systemd. The replica reports to it when it is ready, what it does and that it is alive, and log lines for the journal carry their priorities.",
                    ),
                ],
            ),
            (
                "SIGNALS",
                &[
                    ("SIGTERM, SIGINT", "The replica hands over its pending requests to the others, and stops."),
                    ("SIGHUP", "It reads its certificate, and `ca` in the cluster file, anew. Connections stay."),
                ],
            ),
            (
                "FILES",
                &[
                    (
                        "/etc/stablechat/NAME",
                        "The cluster file, the certificate with its private key, and the environment of the replica that stablechatd@NAME.service runs, as init writes them.",
                    ),
                    ("/var/lib/stablechat/NAME", "Its data."),
                ],
            ),
            ("SEE ALSO", &[("stablechat(1)", "The client.")]),
        ],
    }
}
