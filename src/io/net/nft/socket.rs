//! A socket to nfnetlink of one network namespace: batches, single requests, dumps.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use model::limits::{NFT_ANSWER_BYTES_MAX, NFT_ANSWER_SECONDS_MAX, NFT_BATCH_BYTES_MAX};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, getsockname, recv,
    send, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use super::message::{Attributes, Buffer, HEADER_BYTES, Reader, Received, messages};

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_CAPPED: u16 = 0x100;
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// A dump that is torn by changes is begun again this often.
const DUMP_TRIES: u8 = 5;

/// A socket to nfnetlink.
pub(super) struct Socket {
    descriptor: OwnedFd,
    port: u32,
}

impl Socket {
    /// For the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkNetFilter;
        let descriptor = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        // A batch goes in one piece. Forcing needs the right to change the network, without which
        // nothing here works; small batches do without.
        let _kept = setsockopt(&descriptor, sockopt::SndBufForce, &NFT_BATCH_BYTES_MAX);
        setsockopt(
            &descriptor,
            sockopt::ReceiveTimeout,
            &TimeVal::seconds(NFT_ANSWER_SECONDS_MAX),
        )?;
        extended_acknowledgements(&descriptor);
        nix::sys::socket::bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let port = getsockname::<NetlinkAddr>(descriptor.as_raw_fd())?.pid();
        Ok(Self { descriptor, port })
    }

    /// What the kernel calls this socket when it tells others of its changes.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends a batch and waits until it is carried out.
    ///
    /// # Errors
    /// The kernel refuses; nothing is changed then. The text names the message it refuses.
    pub(super) fn commit(&self, batch: Buffer) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let (bytes, last) = batch.finish();
        send(self.descriptor.as_raw_fd(), &bytes, MsgFlags::empty())?;
        let mut refused: Option<io::Error> = None;
        let mut done = false;
        while !done {
            self.receive(|message| {
                if message.kind != NLMSG_ERROR {
                    return;
                }
                done |= message.sequence == last;
                let Some(error) = refusal(&message) else { return };
                // A batch that the kernel cannot finish is refused in the name of its beginning, and
                // nothing else may follow.
                done |= message.sequence <= 1;
                refused.get_or_insert_with(|| describe(error, &bytes, &message));
            })?;
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends one request outside of a batch and waits for its acknowledgement.
    pub(super) fn request(
        &self,
        kind: (u16, u16),
        family: u8,
        build: impl FnOnce(&mut Attributes<'_>),
    ) -> io::Result<()> {
        self.ask(kind, family, NLM_F_ACK, build, |_| ())
    }

    /// Asks for one object; `take` sees it.
    pub(super) fn get(
        &self,
        kind: (u16, u16),
        family: u8,
        build: impl FnOnce(&mut Attributes<'_>),
        take: impl FnMut(&Received<'_>),
    ) -> io::Result<()> {
        self.ask(kind, family, NLM_F_ACK, build, take)
    }

    /// Asks for all objects of a kind; `begin` is called before each try, `take` for each object.
    pub(super) fn dump<T: Default>(
        &self,
        kind: (u16, u16),
        family: u8,
        build: impl Fn(&mut Attributes<'_>),
        mut take: impl FnMut(&mut T, &Received<'_>),
    ) -> io::Result<T> {
        for _ in 0..DUMP_TRIES {
            let mut gathered = T::default();
            let mut torn = false;
            self.ask(kind, family, NLM_F_DUMP, &build, |message| {
                torn |= message.flags & NLM_F_DUMP_INTR != 0;
                take(&mut gathered, message);
            })?;
            if !torn {
                return Ok(gathered);
            }
        }
        Err(io::Error::other("the kernel's answer was torn by changes again and again"))
    }

    fn ask(
        &self,
        kind: (u16, u16),
        family: u8,
        flags: u16,
        build: impl FnOnce(&mut Attributes<'_>),
        mut take: impl FnMut(&Received<'_>),
    ) -> io::Result<()> {
        let mut buffer = Buffer::default();
        buffer.request(kind, family, flags, build);
        send(self.descriptor.as_raw_fd(), &buffer.into_bytes(), MsgFlags::empty())?;
        let mut outcome = None;
        while outcome.is_none() {
            self.receive(|message| match message.kind {
                NLMSG_ERROR => outcome = Some(refusal(&message).map_or(Ok(()), Err)),
                NLMSG_DONE => outcome = Some(Ok(())),
                _ => take(&message),
            })?;
        }
        outcome.unwrap_or(Ok(()))
    }

    /// Waits for a part of an answer.
    fn receive(&self, mut take: impl FnMut(Received<'_>)) -> io::Result<()> {
        let mut buffer = vec![0; NFT_ANSWER_BYTES_MAX];
        let count = loop {
            match recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Err(nix::Error::EINTR) => (),
                Err(nix::Error::EAGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                other => break other?,
            }
        };
        messages(&buffer[..count]).for_each(&mut take);
        Ok(())
    }
}

/// Errors then say in words what is wrong, and repeat nothing of the request. Old kernels cannot.
fn extended_acknowledgements(descriptor: &OwnedFd) {
    for option in [libc::NETLINK_CAP_ACK, libc::NETLINK_EXT_ACK] {
        let on: libc::c_int = 1;
        let size = libc::socklen_t::try_from(size_of::<libc::c_int>()).expect("four");
        // SAFETY: setsockopt reads `size` bytes at the pointer, which is to a live c_int of that size;
        // the descriptor is open as long as it is borrowed.
        let _refused = unsafe {
            libc::setsockopt(
                descriptor.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                size,
            )
        };
    }
}

/// The error in an acknowledgement; `None` for success.
fn refusal(message: &Received<'_>) -> Option<io::Error> {
    let code = message.body.get(..4)?.try_into().map(i32::from_ne_bytes).ok()?;
    if code == 0 {
        return None;
    }
    let error = io::Error::from_raw_os_error(code.wrapping_neg());
    match words(message) {
        Some(words) => Some(io::Error::new(error.kind(), format!("{words} ({error})"))),
        None => Some(error),
    }
}

/// What the kernel says about an error.
fn words<'a>(message: &Received<'a>) -> Option<&'a str> {
    if message.flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let whole = message.flags & NLM_F_CAPPED == 0;
    let copied = message.body.get(4..8)?.try_into().map(u32::from_ne_bytes).ok()?;
    let copied = if whole { usize::try_from(copied).ok()? } else { HEADER_BYTES };
    let at = 4 + copied.next_multiple_of(4);
    Reader::new(message.body.get(at..)?).text(NLMSGERR_ATTR_MSG)
}

/// Says which message of a batch is refused.
fn describe(error: io::Error, batch: &[u8], refused: &Received<'_>) -> io::Error {
    let Some(message) = messages(batch).find(|sent| sent.sequence == refused.sequence) else {
        return error;
    };
    let kind = message.kind & 0xff;
    let attributes = message.attributes();
    let names = (1..=3).filter_map(|kind| attributes.text(kind));
    let names: Vec<_> = names.filter(|name| name.chars().all(|c| c.is_ascii_graphic())).collect();
    io::Error::new(error.kind(), format!("message {kind} about {}: {error}", names.join(" ")))
}
