//! Certificates of the API: the cluster's authority on disk, what it signs, and the TLS set-up.
//!
//! In: a data directory and the names and addresses of this board. Out: a rustls server
//! configuration, the admin's kubeconfig, and "who is this peer" for a presented certificate.
//! Invariant: a key file is never readable by others and never half written; the authority is never
//! replaced silently, because that would lock every client out.
//! Dates are judged by cluster time ([`crate::io::clock::Clock`]), so a board whose own clock says
//! 1970 refuses nobody. Keys between boards are another matter and are not here.

mod file;
mod issue;
mod kubeconfig;
mod names;
mod peer;
mod pki;
mod server;

use std::path::PathBuf;

pub use names::ServerNames;
pub use peer::{BadCertificate, PeerIdentity};
pub use pki::Pki;
pub use server::ApiTls;

/// Why certificates could not be made, kept or used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of the key directory cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file of the key directory cannot be written.
    #[error("cannot write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The authority on disk cannot be used, and making another would lock out every client.
    #[error(
        "{path} is damaged ({why}); restore it from a backup, or remove the whole pki folder to \
         found a new certificate authority (every kubeconfig must be issued again then)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A certificate could not be signed.
    #[error("cannot issue the certificate of {subject}")]
    Issue {
        /// Common name.
        subject: String,
        /// What the library said.
        source: rcgen::Error,
    },
    /// The TLS library refused the certificate or key.
    #[error("cannot set up TLS")]
    Setup(#[from] rustls::Error),
    /// The verifier of client certificates could not be built.
    #[error("cannot set up the verification of client certificates")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
}
