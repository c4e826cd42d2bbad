//! `stablechatd renew`.

use super::Failure;
use super::files::{CLUSTER_FILE, SECRET, replace};
use crate::exit;
use argh::{ArgsInfo, FromArgs};
use stablechat_authority::{Authority, valid_until};
use stablechat_protocol::cluster::Cluster;
use stablechat_protocol::name::ReplicaName;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Make a new certificate for a replica.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "renew",
    example = "{command_name} --authority demo/authority.pem --name a --out demo/replica-a/identity.pem",
    note = "Copy the file to the replica's machine, and have the replica read it: systemctl reload stablechatd@NAME. Connections
stay. The certificate is valid for two years from now on; the old one stays valid until it ends.",
    error_code(0, "the certificate was made"),
    error_code(2, "the command line was not understood"),
    error_code(73, "the certificate cannot be written"),
    error_code(78, "the authority cannot be used, or the cluster file beside FILE has another one or no such replica")
)]
pub struct Renew {
    /// the file with the authority's certificate and private key, which `init` has made
    #[argh(option, arg_name = "file")]
    authority: PathBuf,
    /// the replica's name
    #[argh(option)]
    name: ReplicaName,
    /// the file to write; one that is there is replaced
    #[argh(option, arg_name = "file")]
    out: PathBuf,
}

impl Renew {
    /// Makes the certificate, and says until when it is valid.
    ///
    /// # Errors
    /// The authority cannot be used, or the certificate cannot be written.
    pub fn execute(self) -> Result<(), Failure> {
        let authority = read_authority(&self.authority)?;
        self.check_cluster_file(&authority)?;
        let cannot = |fault: String| Failure { code: exit::CANNOT_CREATE, message: fault };
        let identity = authority
            .issue(&self.name)
            .map_err(|error| cannot(format!("cannot make a certificate for {}: {error}", self.name)))?;
        replace(&self.out, &identity, SECRET).map_err(|error| cannot(format!("cannot write {error}")))?;
        println!("Wrote a certificate for replica {} to {}. {}", self.name, self.out.display(), ends(&identity));
        Ok(())
    }

    /// Makes sure that the certificate is of use for the cluster whose file is beside it, if one is.
    fn check_cluster_file(&self, authority: &Authority) -> Result<(), Failure> {
        let path = self.out.with_file_name(CLUSTER_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(Failure::configuration(format!("cannot read {}: {error}", path.display()))),
        };
        let fault = |what: String| Failure::configuration(format!("the cluster file {}: {what}", path.display()));
        let cluster = Cluster::parse(&text).map_err(|error| fault(error.to_string()))?;
        if cluster.replica(&self.name).is_none() {
            let names: Vec<&str> = cluster.replicas.iter().map(|replica| replica.name.as_str()).collect();
            return Err(fault(format!("it has no replica {}; it has {}", self.name, names.join(", "))));
        }
        if !cluster.ca.contains(authority.certificate().trim()) {
            let authority = self.authority.display();
            return Err(fault(format!(
                "its `ca` has not the certificate of {authority}, so nobody would trust the new one"
            )));
        }
        Ok(())
    }
}

/// Reads an authority's file.
///
/// # Errors
/// It cannot be read, or has no authority.
pub fn read_authority(path: &Path) -> Result<Authority, Failure> {
    let file = path.display();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::configuration(format!("cannot read the authority's file {file}: {error}")))?;
    Authority::from_pem(&text).map_err(|error| Failure::configuration(format!("{file} is no authority: {error}")))
}

/// A sentence that says for how long a certificate is valid.
pub fn ends(certificate: &str) -> String {
    let until = valid_until(certificate).expect("it was just made");
    let days = until.duration_since(SystemTime::now()).unwrap_or_default().as_secs() / 86_400;
    format!("It is valid for {days} days.")
}
