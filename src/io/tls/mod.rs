//! Keys and certificates: the cluster's authority on disk, what it signs, and the TLS set-up of the
//! API ([`ApiTls`]) and between boards ([`Credentials`]).
//!
//! In: a data directory and the names and addresses of this board. Out: rustls configurations, the
//! admin's kubeconfig, and "who is this peer" for a presented certificate.
//! Invariant: a key file is never readable by others and never half written; the authority is never
//! replaced silently, because that would lock every client out.
//! At the API dates are judged by cluster time ([`crate::io::clock::Clock`]), so a board whose own
//! clock says 1970 refuses nobody; between boards they are ignored.

mod board;
mod chain;
mod credentials;
mod file;
mod issue;
mod kubeconfig;
mod names;
mod peer;
mod pki;
mod server;
mod signed;
mod tokens;
mod unverified;

use std::path::PathBuf;

pub use board::{BoardKey, BoardPeer, authority_pin, board_peer};
pub use chain::Pinned;
pub use credentials::{
    Clients, Credentials, genesis_server_config, pinned_client_config, trusting_config,
    unpinned_client_config,
};
pub use names::ServerNames;
pub use peer::{BadCertificate, PeerIdentity};
pub use pki::{Pki, pin_of};
pub use server::ApiTls;
pub use signed::{is_proof, proof, verify, verify_board};
pub use tokens::TokenKeys;
pub use unverified::{unverified, unverified_config};

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
    /// The board's own key on disk cannot be used.
    #[error(
        "{path} is damaged ({why}); remove it and start the board with a new token \
         (`kumquat token create` on the master board)"
    )]
    DamagedBoard {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Key, certificate and authority are not of one board.
    #[error("the board's key, certificate and authority do not belong together: {why}")]
    Mismatch {
        /// What contradicts what.
        why: &'static str,
    },
    /// A public key that no certificate is issued for.
    #[error("the public key of board {board} is not Ed25519")]
    PublicKey {
        /// Name of the board.
        board: String,
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
