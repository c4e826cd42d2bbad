//! `stablechatd run`.

use super::Failure;
use argh::FromArgs;
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::version::Versions;
use stablechat_server::service::{self, Settings};
use std::path::PathBuf;

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
pub struct Run {
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

impl Run {
    /// Reads the cluster file and runs the replica.
    ///
    /// # Errors
    /// It could not start, or had to stop.
    pub fn execute(self) -> Result<(), Failure> {
        let file = self.cluster.display();
        let text = std::fs::read_to_string(&self.cluster)
            .map_err(|error| Failure::configuration(format!("cannot read the cluster file {file}: {error}")))?;
        let cluster = Cluster::parse(&text)
            .map_err(|error| Failure::configuration(format!("the cluster file {file} is wrong: {error}")))?;
        service::run(Settings { cluster, name: self.name, data: self.data, versions: Versions::OURS })
            .map_err(|error| Failure { code: error.exit_code(), message: error.to_string() })
    }
}
