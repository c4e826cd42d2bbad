//! `stablechatd new-authority`.

use super::Failure;
use super::files::{READABLE, SECRET, replace, write_new};
use super::renew::ends;
use crate::exit;
use argh::{ArgsInfo, FromArgs};
use stablechat_authority::Authority;
use stablechat_protocol::cluster::Cluster;
use std::path::PathBuf;

/// Make a new authority for a cluster, to take the place of the old one.
#[derive(FromArgs, ArgsInfo)]
#[argh(
    subcommand,
    name = "new-authority",
    example = "{command_name} --cluster demo/clients/cluster.toml --out demo/authority-2.pem",
    note = "It adds the certificate of the new authority to `ca` in the cluster file, beside the old one. Copy the cluster file to all
replicas and clients first. Then make new certificates with the new authority. When all replicas use these, take the old certificate
out of `ca`. OPERATIONS.md has the commands.",
    error_code(0, "the authority was made"),
    error_code(2, "the command line was not understood"),
    error_code(73, "a file exists or cannot be written"),
    error_code(78, "the cluster file is not valid")
)]
pub struct NewAuthority {
    /// the cluster file to which its certificate is added
    #[argh(option, arg_name = "file")]
    cluster: PathBuf,
    /// the file to make for the certificate and private key
    #[argh(option, arg_name = "file")]
    out: PathBuf,
}

impl NewAuthority {
    /// Makes the authority, and adds its certificate to the cluster file.
    ///
    /// # Errors
    /// The cluster file is not valid, or a file cannot be written.
    pub fn execute(self) -> Result<(), Failure> {
        let file = self.cluster.display();
        let invalid = |fault: String| Failure::configuration(format!("the cluster file {file}: {fault}"));
        let cannot = |fault: String| Failure { code: exit::CANNOT_CREATE, message: format!("cannot write {fault}") };
        let text = std::fs::read_to_string(&self.cluster).map_err(|error| invalid(error.to_string()))?;
        let cluster = Cluster::parse(&text).map_err(|error| invalid(error.to_string()))?;
        let authority =
            Authority::create(&cluster.name).map_err(|error| cannot(format!("{}: {error}", self.out.display())))?;
        let certificate = authority.certificate();
        let both = add(&text, &cluster, certificate)
            .ok_or_else(|| invalid("its `ca` is not written as `init` writes it, so nothing was added".into()))?;
        write_new(&self.out, &authority.to_pem(), SECRET).map_err(|error| cannot(error.to_string()))?;
        replace(&self.cluster, &both, READABLE).map_err(|error| cannot(error.to_string()))?;
        println!(
            "Wrote a new authority to {}, and added its certificate to {file}. {}\nKeep the first in a safe place, and copy the second \
             to all replicas and clients.",
            self.out.display(),
            ends(certificate)
        );
        Ok(())
    }
}

/// The text of a cluster file with one more certificate in `ca`.
fn add(text: &str, cluster: &Cluster, certificate: &str) -> Option<String> {
    let old = cluster.ca.as_str();
    let at = text.find(old).filter(|_| !old.is_empty() && old.ends_with('\n'))? + old.len();
    let both = format!("{}{certificate}{}", &text[..at], &text[at..]);
    let parsed = Cluster::parse(&both).ok()?;
    (parsed.ca == format!("{old}{certificate}")).then_some(both)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_added_behind_the_old_one_and_nothing_else_changes() {
        let text = |ca: &str| {
            format!(
                "# Mine.\nname = 'demo'\nid = '1'\nca = \"\"\"\n{ca}\"\"\"\n[[replica]]\nname = 'a'\naddress = 'x:1'\n"
            )
        };
        let (old, new) = ("-----BEGIN-----\nold\n", "-----BEGIN-----\nnew\n");
        let cluster = Cluster::parse(&text(old)).expect("a good file");
        assert_eq!(add(&text(old), &cluster, new), Some(text(&format!("{old}{new}"))));
        let without = text("");
        assert_eq!(add(&without, &Cluster::parse(&without).expect("a good file"), new), None);
    }
}
