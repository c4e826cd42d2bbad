//! The files with a replica's certificate and with the authorities that it trusts.

use crate::net::ReplicaTls;
use stablechat_protocol::cluster::Cluster;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The name of the file with a replica's certificate and private key, beside the cluster file.
pub const IDENTITY_FILE: &str = "identity.pem";

/// Where the files are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The cluster file, which has the certificates of the authorities.
    pub cluster: PathBuf,
    /// The certificate and private key of the replica.
    pub identity: PathBuf,
}

impl TlsFiles {
    /// These files; without a second one, [`IDENTITY_FILE`] beside the first.
    pub fn new(cluster: &Path, identity: Option<PathBuf>) -> TlsFiles {
        let identity = identity.unwrap_or_else(|| cluster.with_file_name(IDENTITY_FILE));
        TlsFiles { cluster: cluster.into(), identity }
    }

    /// The same files, or in their place those of the same names in this directory, as far as there are any.
    pub fn or_in(&self, directory: &Path) -> TlsFiles {
        let newer = |file: &Path| {
            let other = file.file_name().map(|name| directory.join(name));
            other.filter(|other| other.exists()).unwrap_or_else(|| file.into())
        };
        TlsFiles { cluster: newer(&self.cluster), identity: newer(&self.identity) }
    }

    /// Reads both files.
    ///
    /// # Errors
    /// Which file cannot be used, why, and what to do.
    pub fn load_both(&self) -> Result<ReplicaTls, String> {
        self.load(&self.read_cluster()?)
    }

    /// Reads the cluster file.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn read_cluster(&self) -> Result<Cluster, String> {
        let file = self.cluster.display();
        let text = fs::read_to_string(&self.cluster)
            .map_err(|error| format!("cannot read the cluster file {file}: {error}"))?;
        Cluster::parse(&text).map_err(|error| format!("the cluster file {file} is not valid: {error}"))
    }

    /// Reads the replica's certificate, for a cluster whose file has been read.
    ///
    /// # Errors
    /// Which file cannot be used, why, and what to do.
    pub fn load(&self, cluster: &Cluster) -> Result<ReplicaTls, String> {
        let file = self.identity.display();
        let read = || {
            Ok::<_, std::io::Error>((fs::metadata(&self.identity)?.mode() & 0o777, fs::read_to_string(&self.identity)?))
        };
        let (mode, text) = read().map_err(|error| {
            format!(
                "cannot read the replica's certificate {file}: {error}; `stablechatd init` makes it, and --identity says where it is"
            )
        })?;
        if mode & 0o007 != 0 {
            return Err(format!(
                "everyone on this machine has access to the private key in {file} (mode {mode:03o}); if nobody has used it: chmod 600 \
                 {file}"
            ));
        }
        if cluster.ca.is_empty() {
            return Err(format!(
                "the cluster file {} has no `ca`, the certificate of the cluster's authority: `stablechatd init` writes it there",
                self.cluster.display()
            ));
        }
        ReplicaTls::new(&cluster.ca, &text).map_err(|error| {
            format!("the certificate in {file}, or `ca` in {}, cannot be used: {error}", self.cluster.display())
        })
    }
}
