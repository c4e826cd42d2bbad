//! `stablechatd init`.

use super::Failure;
use super::entropy::random;
use super::files::{CLUSTER_FILE, READABLE, SECRET, WriteError, write_new};
use crate::exit;
use crate::tls_files::IDENTITY_FILE;
use argh::{ArgsInfo, FromArgs};
use stablechat_authority::{Authority, AuthorityError};
use stablechat_protocol::cluster::{Cluster, ReplicaEntry};
use stablechat_protocol::key_file::write_key;
use stablechat_protocol::login::{PublicKey, SecretKey};
use stablechat_protocol::name::{AccountName, ClusterName, ReplicaName};
use stablechat_protocol::operator::{InvitationCode, Registration};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The name of a cluster when none is given.
const NAME_DEFAULT: &str = "stablechat";
/// The directory for clients. Replicas' directories are called `replica-NAME`, so it is not one of them.
const CLIENTS: &str = "clients";
/// The file with the authority's private key.
const AUTHORITY_FILE: &str = "authority.pem";
/// The file with the operator's private key.
const OPERATOR_FILE: &str = "operator.key";

/// Write the files for a new cluster, with a directory to copy to each machine.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "init",
    example = "{command_name} --dir demo --replica a=10.0.0.1:7400 --replica b=10.0.0.2:7400 --replica c=10.0.0.3:7400",
    note = "It makes DIR/replica-NAME for each replica, to be copied to /etc/stablechat/NAME on its machine, and DIR/clients
with the cluster file for everyone who chats. DIR/operator.key is the key of the cluster's operator, with which stablechat admin
says who may have an account. DIR/authority.pem can make certificates for replicas: keep it in a safe place, on none of the
machines. Nothing that exists is overwritten.",
    error_code(0, "all files were written"),
    error_code(2, "the command line was not understood, or describes no valid cluster"),
    error_code(73, "the directory is not empty, or cannot be written")
)]
pub struct Init {
    /// the directory to make; it must not exist, or be empty
    #[argh(option, arg_name = "dir")]
    dir: PathBuf,
    /// a replica's name, and where it listens: NAME=HOST:PORT. Once for each replica
    #[argh(option, long = "replica", arg_name = "name=host:port")]
    replicas: Vec<Replica>,
    /// the name of the cluster, which keeps it apart from other clusters (stablechat)
    #[argh(option)]
    name: Option<ClusterName>,
    /// the delivery bound in milliseconds (1000)
    #[argh(option, arg_name = "n")]
    delivery_bound_ms: Option<u64>,
    /// who may create an account until the operator changes it: open (anybody), invitation (anybody with a code), closed
    /// (nobody); (invitation)
    #[argh(option, arg_name = "who", default = "Registration::ByInvitation")]
    registration: Registration,
}

/// A value of `--replica`.
struct Replica(ReplicaEntry);

impl FromStr for Replica {
    type Err = String;
    fn from_str(text: &str) -> Result<Replica, String> {
        let (name, address) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=HOST:PORT"))?;
        let name = ReplicaName::parse(name).map_err(|error| format!("the replica's name {error}"))?;
        // Enough for host names and IP addresses, and nothing that would have to be quoted in the cluster file.
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:[]%".contains(&byte);
        match address.bytes().all(is_plain) {
            true => Ok(Replica(ReplicaEntry { name, address: address.into() })),
            false => Err(format!("the address {address:?} has a character that addresses do not have")),
        }
    }
}

impl Init {
    /// Writes the files, and prints what to do with them.
    ///
    /// # Errors
    /// The options make no valid cluster, or the directory is not empty or cannot be written.
    pub fn execute(self) -> Result<(), Failure> {
        let id = random().map(u64::from_be_bytes)?;
        let operator = SecretKey::from_seed(&random()?);
        let by_invitation = self.registration == Registration::ByInvitation;
        let invitation = by_invitation.then(random).transpose()?.map(InvitationCode::from_random);
        let name = self.name.clone().unwrap_or_else(|| ClusterName::parse(NAME_DEFAULT).expect("a name"));
        let authority = Authority::create(&name).map_err(no_certificate)?;
        let text = self.cluster_file(&name, id, &authority, operator.public(), invitation.as_ref());
        let cluster = Cluster::parse(&text).map_err(|error| {
            Failure::usage(format!(
                "these options make no valid cluster: {error}; give --replica NAME=HOST:PORT once for each replica"
            ))
        })?;
        let cannot = |message| Failure { code: exit::CANNOT_CREATE, message };
        let dir = self.dir.display();
        if is_taken(&self.dir).map_err(|error| cannot(format!("cannot look into {dir}: {error}")))? {
            return Err(cannot(format!("{dir} exists and is not empty; choose another directory with --dir")));
        }
        let identities: Vec<String> = cluster
            .replicas
            .iter()
            .map(|replica| authority.issue(&replica.name))
            .collect::<Result<_, _>>()
            .map_err(no_certificate)?;
        let secrets = Secrets { authority: authority.to_pem(), operator, identities };
        self.write(&cluster, &text, &secrets).map_err(|error| {
            cannot(format!("cannot write {error}; delete {dir}, which is incomplete, before trying again"))
        })?;
        print!("{}", self.what_next(&cluster, invitation.as_ref()));
        Ok(())
    }

    /// The text of the cluster file.
    fn cluster_file(
        &self,
        name: &ClusterName,
        id: u64,
        authority: &Authority,
        operator: PublicKey,
        invitation: Option<&InvitationCode>,
    ) -> String {
        let mut text = format!(
            "# A stablechat cluster. All its replicas and clients have the same file.\nname = \"{name}\"\n\
             # Keeps two clusters of the same name apart. It never changes.\nid = \"{id:016x}\"\n\
             # The authority that has signed the replicas' certificates. Nobody else is trusted.\nca = \"\"\"\n{}\"\"\"\n\
             # The public keys of operators.\noperators = [\"{operator}\"]\n\
             # Who may create an account in the beginning. It never changes here: use `stablechat admin registration`.\n\
             registration = \"{}\"\n",
            authority.certificate(),
            self.registration.word()
        );
        if let Some(invitation) = invitation {
            let digest = invitation.digest();
            text +=
                &format!("# The digest of the first invitation. It never changes.\nfirst_invitation = \"{digest}\"\n");
        }
        if let Some(milliseconds) = self.delivery_bound_ms {
            text += &format!("delivery_bound_ms = {milliseconds}\n");
        }
        for Replica(ReplicaEntry { name, address }) in &self.replicas {
            text += &format!("\n[[replica]]\nname = \"{name}\"\naddress = \"{address}\"\n");
        }
        text
    }

    /// Writes the directories of the replicas and of the clients.
    fn write(&self, cluster: &Cluster, text: &str, secrets: &Secrets) -> Result<(), WriteError> {
        for (ReplicaEntry { name, .. }, identity) in cluster.replicas.iter().zip(&secrets.identities) {
            let directory = self.replica_directory(name);
            write_new(&directory.join(CLUSTER_FILE), text, READABLE)?;
            write_new(&directory.join("environment"), &environment(name), READABLE)?;
            write_new(&directory.join(IDENTITY_FILE), identity, SECRET)?;
        }
        write_new(&self.dir.join(AUTHORITY_FILE), &secrets.authority, SECRET)?;
        let operator = write_key(&AccountName::operator(), &secrets.operator);
        write_new(&self.dir.join(OPERATOR_FILE), &operator, SECRET)?;
        write_new(&self.dir.join(CLIENTS).join(CLUSTER_FILE), text, READABLE)
    }

    /// The directory for a replica's machine.
    fn replica_directory(&self, name: &ReplicaName) -> PathBuf {
        self.dir.join(format!("replica-{name}"))
    }

    /// The commands to run next.
    fn what_next(&self, cluster: &Cluster, invitation: Option<&InvitationCode>) -> String {
        let Cluster { name, id, replicas, delivery_bound, .. } = cluster;
        let milliseconds = delivery_bound.as_millis();
        let mut text = format!(
            "Wrote the cluster {name} to {}: replicas {}, delivery bound {milliseconds} ms.\n\n\
             Install stablechat on each machine, copy its directory there, and start the replica:\n",
            self.dir.display(),
            replicas.iter().map(|replica| replica.name.as_str()).collect::<Vec<_>>().join(", ")
        );
        for ReplicaEntry { name, address } in replicas {
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            let from = self.replica_directory(name);
            text += &format!(
                "    scp -r {} root@{host}:/etc/stablechat/{name}\n    ssh root@{} systemctl enable --now stablechatd@{name}\n",
                from.display(),
                host.trim_matches(['[', ']'])
            );
        }
        text += &format!(
            "\n{} makes new certificates, and false ones in the wrong hands: keep it in a safe place, on none of these machines.\n",
            self.dir.join(AUTHORITY_FILE).display()
        );
        text += &format!(
            "\nEveryone who chats needs the cluster file:\n    install -D {} ~/.config/stablechat/cluster.toml\n\
             \nThe operator needs this key, which is with the others then, and opens `stablechat status` and `stablechat admin`:\n    \
             install -D -m 600 {} ~/.local/share/stablechat/keys/{name}@{id}/{OPERATOR_FILE}\n    stablechat status\n",
            self.dir.join(CLIENTS).join(CLUSTER_FILE).display(),
            self.dir.join(OPERATOR_FILE).display(),
        );
        text + &match (self.registration, invitation) {
            (Registration::Open, _) => "\nAnybody may create an account:\n    stablechat create NAME\n".into(),
            (_, Some(code)) => format!(
                "\nAn account needs an invitation. This one can be used once; `stablechat admin invite` makes more:\n    \
                 stablechat create NAME --invitation {code}\n"
            ),
            (_, None) => {
                "\nNobody may create an account until you change that by `stablechat admin registration`.\n".into()
            }
        }
    }
}

/// The secrets of a cluster.
struct Secrets {
    /// In PEM.
    authority: String,
    operator: SecretKey,
    /// Certificates with their keys, in PEM, in the order of the replicas.
    identities: Vec<String>,
}

/// The failure of a certificate that cannot be made.
fn no_certificate(error: AuthorityError) -> Failure {
    Failure { code: exit::CANNOT_CREATE, message: format!("cannot make the certificates of the cluster: {error}") }
}

/// The environment file that the unit of a replica reads.
fn environment(name: &ReplicaName) -> String {
    format!(
        "# Settings of stablechatd@{name}.service, beside the cluster file. Changes take effect at the next restart.\n\
         STABLECHAT_NAME={name}\n\
         # The least severe log lines that are written: error, warn, info or debug.\n\
         #RUST_LOG=info\n"
    )
}

/// Whether the directory exists and is not empty. Its files must not be overwritten.
fn is_taken(directory: &Path) -> io::Result<bool> {
    match fs::read_dir(directory) {
        Ok(mut entries) => Ok(entries.next().transpose()?.is_some()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
