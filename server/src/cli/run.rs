//! `stablechatd run`.

use super::Failure;
use super::data::keep_private;
use super::environment::{optional, required};
use crate::service::{self, ServiceSettings};
use crate::tls_files::TlsFiles;
use argh::{ArgsInfo, FromArgs};
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::version::Versions;
use std::path::PathBuf;

/// Run a replica until SIGTERM or SIGINT.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "run",
    example = "{command_name} --cluster cluster.toml --name a --data /var/lib/stablechat/a",
    note = "At SIGHUP a replica reads its certificate, and `ca` in the cluster file, anew. Connections stay.",
    error_code(0, "stopped as asked"),
    error_code(2, "the command line was not understood"),
    error_code(69, "the address or the data directory is in use"),
    error_code(74, "storage or the network failed"),
    error_code(78, "the cluster file, the certificate or the data directory is not valid, or not for this replica")
)]
pub struct Run {
    /// the cluster file (or $STABLECHAT_CLUSTER)
    #[argh(option, arg_name = "file")]
    cluster: Option<PathBuf>,
    /// which replica of the cluster file this is (or $STABLECHAT_NAME)
    #[argh(option)]
    name: Option<ReplicaName>,
    /// its certificate and private key (or $STABLECHAT_IDENTITY, or identity.pem beside the cluster file)
    #[argh(option, arg_name = "file")]
    identity: Option<PathBuf>,
    /// the directory for the replica's data; it is made if it does not exist (or $STABLECHAT_DATA)
    #[argh(option, arg_name = "dir")]
    data: Option<PathBuf>,
    /// HOST:PORT where to serve /metrics, /healthz and /readyz over HTTP (or $STABLECHAT_METRICS), unencrypted and for
    /// everyone who can reach it: use a loopback address
    #[argh(option, arg_name = "host:port")]
    metrics: Option<String>,
}

impl Run {
    /// Reads the cluster file and runs the replica.
    ///
    /// # Errors
    /// The replica could not start, or had to stop.
    pub fn execute(self) -> Result<(), Failure> {
        keep_private();
        let cluster = required(self.cluster, "--cluster", "STABLECHAT_CLUSTER")?;
        let name = required(self.name, "--name", "STABLECHAT_NAME")?;
        let data = required(self.data, "--data", "STABLECHAT_DATA")?;
        let tls_files = TlsFiles::new(&cluster, optional(self.identity, "STABLECHAT_IDENTITY")?);
        let cluster = tls_files.read_cluster().map_err(Failure::configuration)?;
        let newer_files = optional(None, "STABLECHAT_RELOAD")?;
        let metrics = optional(self.metrics, "STABLECHAT_METRICS")?;
        service::run(ServiceSettings { cluster, name, tls_files, newer_files, data, metrics, versions: Versions::OURS })
            .map_err(|error| Failure { code: error.exit_code(), message: error.to_string() })
    }
}
