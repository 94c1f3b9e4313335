//! The packet filter of a board: nf_tables by netlink, without libraries or programs.
//!
//! In: [`Rules`] and [`Changes`] as values. Out: the table `inet kumquat`, accept rules in the chains of
//! others that would drop what passes through ([`Nft::let_through`]), and forgotten connections
//! ([`forget`]). Every change is one batch that the kernel takes whole or not at all.
//! Needs Linux 5.2 or newer with nf_tables and its modules for nat, maps and conntrack.

mod conntrack;
mod expression;
mod foreign;
mod message;
mod monitor;
mod rule;
mod set;
mod socket;
mod table;
#[cfg(test)]
mod tests;

use std::io;
use std::net::Ipv4Addr;

use logic::network::rules::{Changes, Frontend, Rules, Target};
use model::network::Ipv4Block;

pub use conntrack::forget;
pub use foreign::Passage;
pub use monitor::{Disturbance, Monitor};
pub use table::TABLE;

use socket::Socket;

/// What the packet filter was asked to do and did not.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no such thing, or no right to use it.
    #[error("the packet filter cannot be reached")]
    Open(#[source] io::Error),
    /// The kernel refuses a change; everything is as before.
    #[error("the kernel refuses the rules of services")]
    Rules(#[source] io::Error),
    /// The kernel does not tell what there is.
    #[error("the packet filter cannot be read")]
    Read(#[source] io::Error),
    /// The kernel refuses accept rules in a chain that drops what passes through.
    #[error("no rule that lets pods through can be put into {chain}")]
    Passage {
        /// Table and chain.
        chain: String,
        /// What the kernel says.
        #[source]
        source: io::Error,
    },
}

impl NftError {
    /// What a person can do about it; `None` when nothing is known.
    pub fn remedy(&self) -> Option<&'static str> {
        let (Self::Open(source) | Self::Rules(source)) = self else { return None };
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Some("run kumquat as root"),
            _ if source.kind() == io::ErrorKind::PermissionDenied => Some("run kumquat as root"),
            _ => Some(
                "a kernel of 5.2 or newer with nf_tables is needed: `modprobe nf_tables nft_chain_nat nft_ct nft_numgen nft_reject_inet nft_fib_inet`",
            ),
        }
    }
}

/// The packet filter of one network namespace.
pub struct Nft {
    socket: Socket,
}

impl Nft {
    /// For the calling thread's network namespace.
    ///
    /// # Errors
    /// The kernel has no packet filter that speaks netlink.
    pub fn open() -> Result<Self, NftError> {
        Ok(Self { socket: Socket::open().map_err(NftError::Open)? })
    }

    /// Makes the table hold exactly these rules, whatever it held before; connections go on, and
    /// clients of services with affinity keep their targets.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn replace(&self, rules: &Rules) -> Result<(), NftError> {
        table::replace(&self.socket, rules).map_err(NftError::Rules)
    }

    /// Changes what differs in a table that holds what was before.
    ///
    /// # Errors
    /// The kernel refuses, perhaps because the table held something else: replace it then.
    pub fn change(&self, changes: &Changes) -> Result<(), NftError> {
        table::change(&self.socket, changes).map_err(NftError::Rules)
    }

    /// Forgets the targets of clients of services with affinity that are gone.
    ///
    /// # Errors
    /// The kernel does not tell, or does not forget.
    pub fn forget_clients(
        &self,
        is_gone: impl Fn(&Frontend, &Target) -> bool,
    ) -> Result<(), NftError> {
        table::forget_clients(&self.socket, is_gone).map_err(NftError::Read)
    }

    /// A number that changes when the table is made anew; `None` when there is no table.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn handle(&self) -> Result<Option<u64>, NftError> {
        table::handle(&self.socket).map_err(NftError::Read)
    }

    /// Lets pods through chains of others that drop what is not accepted (Docker, ufw); tells through
    /// which chains nothing can be let.
    ///
    /// # Errors
    /// The kernel does not tell which chains there are, or refuses.
    pub fn let_through(&self, passage: &Passage) -> Result<Vec<String>, NftError> {
        foreign::let_through(&self.socket, passage)
    }

    /// Removes the table and what [`Self::let_through`] added.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn remove(&self) -> Result<(), NftError> {
        foreign::remove(&self.socket)?;
        table::remove(&self.socket).map_err(NftError::Rules)
    }

    /// Tells when others change this table or chains in which rules of ours are; not of what this
    /// value itself changes.
    ///
    /// # Errors
    /// The system gives no socket.
    pub fn monitor(&self) -> Result<Monitor, NftError> {
        Monitor::open(self.socket.port()).map_err(NftError::Open)
    }
}

/// The addresses for which [`Passage`] accepts.
impl Passage {
    /// For pods in `pods`; `own` is the board's own address among them, where names are answered.
    pub fn new(pods: Ipv4Block, own: Option<Ipv4Addr>) -> Self {
        Self { pods, own }
    }
}
