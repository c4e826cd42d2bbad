//! `stablechatd`: a replica of the stablechat service.

use argh::FromArgs;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::name::ReplicaName;
use stablechat_server::exit;
use stablechat_server::service::{self, Settings};
use std::path::PathBuf;
use std::process;

/// A replica of the stablechat service, which stays up when all replicas but one are dead.
#[derive(FromArgs)]
#[argh(example = "{command_name} run --cluster cluster.toml --name a --data /var/lib/stablechat/a")]
struct Arguments {
    #[argh(subcommand)]
    subcommand: Subcommand,
}

#[derive(FromArgs)]
#[argh(subcommand)]
enum Subcommand {
    Run(Run),
}

/// Run a replica until SIGTERM or SIGINT.
#[derive(FromArgs)]
#[argh(
    subcommand,
    name = "run",
    example = "{command_name} --cluster cluster.toml --name a --data /var/lib/stablechat/a",
    note = "The cluster file is TOML: `name`, `delivery_bound_ms` (1000 when absent), and for each replica a
`[[replica]]` with `name` and `address` (HOST:PORT). All replicas and clients use the same file.",
    error_code(0, "stopped as asked"),
    error_code(2, "the command line was not understood"),
    error_code(69, "the address or the data directory is in use"),
    error_code(74, "storage or the network failed"),
    error_code(78, "the cluster file or the data directory is not right for this replica")
)]
struct Run {
    /// the cluster file
    #[argh(option)]
    cluster: PathBuf,
    /// which replica of the cluster file this is
    #[argh(option)]
    name: ReplicaName,
    /// the directory for the replica's data, made when it is not there
    #[argh(option)]
    data: PathBuf,
}

fn main() {
    end_process_on_panic();
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let Subcommand::Run(run) = arguments().subcommand;
    process::exit(match start(run) {
        Ok(()) => exit::DONE,
        Err((code, message)) => {
            log::error!("{message}");
            code
        }
    });
}

/// The command line; ends the process when it asks for help or cannot be understood.
fn arguments() -> Arguments {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Arguments::from_args(&["stablechatd"], words.get(1..).unwrap_or_default()).unwrap_or_else(|early| {
        match early.status {
            Ok(()) => {
                println!("{}", early.output.trim_end());
                process::exit(exit::DONE)
            }
            Err(()) => {
                eprintln!("{}\nRun `stablechatd --help` for help.", early.output.trim_end());
                process::exit(exit::USAGE)
            }
        }
    })
}

/// Reads the cluster file and runs the replica. The error is an exit code and what to tell.
fn start(run: Run) -> Result<(), (i32, String)> {
    let file = run.cluster.display();
    let text = std::fs::read_to_string(&run.cluster)
        .map_err(|error| (exit::CONFIGURATION, format!("cannot read the cluster file {file}: {error}")))?;
    let cluster = Cluster::parse(&text)
        .map_err(|error| (exit::CONFIGURATION, format!("the cluster file {file} is wrong: {error}")))?;
    service::run(Settings { cluster, name: run.name, data: run.data })
        .map_err(|error| (error.exit_code(), error.to_string()))
}

/// A thread that panics must not leave a process behind that seems to live.
fn end_process_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        process::exit(exit::SOFTWARE);
    }));
}
