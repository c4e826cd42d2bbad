//! A replica that speaks given versions of the protocol, like a replica of another release. For tests of upgrades, since
//! `stablechatd` has no option for its versions.

use argh::FromArgs;
use stablechat_protocol::name::ReplicaName;
use stablechat_protocol::version::Versions;
use stablechat_server::service::{self, ServiceSettings};
use stablechat_server::tls_files::TlsFiles;
use std::path::PathBuf;
use std::process::ExitCode;

/// Run a replica that speaks versions of the protocol as told.
#[derive(FromArgs)]
struct Arguments {
    /// the oldest version
    #[argh(option)]
    min: u16,
    /// the newest version
    #[argh(option)]
    max: u16,
    #[argh(subcommand)]
    run: Run,
}

/// As `stablechatd run`.
#[derive(FromArgs)]
#[argh(subcommand, name = "run")]
struct Run {
    /// the cluster file
    #[argh(option)]
    cluster: PathBuf,
    /// which replica of the cluster file this is
    #[argh(option)]
    name: ReplicaName,
    /// the replica's certificate and private key
    #[argh(option)]
    identity: PathBuf,
    /// the directory for the replica's data
    #[argh(option)]
    data: PathBuf,
}

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let Arguments { min, max, run: Run { cluster, name, identity, data } } = argh::from_env();
    let tls_files = TlsFiles::new(&cluster, Some(identity));
    let cluster = tls_files.read_cluster().expect("the cluster file is right");
    let versions = Versions { min, max };
    match service::run(ServiceSettings { cluster, name, tls_files, newer_files: None, data, metrics: None, versions }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error}");
            ExitCode::from(u8::try_from(error.exit_code()).expect("exit codes are small"))
        }
    }
}
