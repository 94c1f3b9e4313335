//! Drives one conversation over a byte stream: bytes, deadlines, flushing.
//!
//! Written as one `poll`, because it reads and writes the same stream at once. What is read goes
//! through the stack, so that an idle connection holds no buffer.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use crate::Ended;
use crate::conversation::{Conversation, Due};
use crate::limits::READ_BYTES;

/// One stream and its conversation.
pub(crate) struct Connection<S> {
    stream: S,
    conversation: Conversation,
    input: BytesMut,
    /// Bytes that the next packet lacks.
    missing: usize,
    began: Instant,
    /// When the last packet came.
    heard: Instant,
    /// Since when the stream takes no bytes although some wait.
    stuck: Option<Instant>,
    unflushed: bool,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub(crate) fn new(stream: S, conversation: Conversation) -> Self {
        let now = Instant::now();
        Self {
            stream,
            conversation,
            input: BytesMut::new(),
            missing: 0,
            began: now,
            heard: now,
            stuck: None,
            unflushed: false,
            alarm: None,
        }
    }

    pub(crate) async fn run(mut self) -> Ended {
        let ended = poll_fn(|context| self.poll(context)).await;
        self.conversation.end(ended.clone());
        if ended != Ended::Stalled {
            let within = self.conversation.hub().limits.close_within;
            // The end is known; whether its last bytes arrive changes nothing.
            let _ = timeout(within, self.close()).await;
        }
        ended
    }

    async fn close(&mut self) -> io::Result<()> {
        let output = self.conversation.output();
        self.stream.write_all(&output.head).await?;
        self.stream.write_all(&output.payload).await?;
        self.stream.shutdown().await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Ended> {
        match self.work(context) {
            Ok(()) => Poll::Pending,
            Err(ended) => Poll::Ready(ended),
        }
    }

    /// Does what can be done, and arranges to be woken for the rest.
    fn work(&mut self, context: &mut Context<'_>) -> Result<(), Ended> {
        loop {
            let now = Instant::now();
            if !self.input.is_empty() || self.missing == 0 {
                self.understand(now)?;
            }
            let waited = !self.conversation.reads();
            let due = self.conversation.advance(context.waker(), now)?;
            let resumed = waited && self.conversation.reads();
            if resumed {
                // While nothing was read, nothing could be heard.
                self.heard = now;
            }
            let wrote = self.write(context, now)?;
            let read = self.conversation.reads() && self.read(context)?;
            if wrote || read || resumed {
                continue;
            }
            if !self.rest(context, due, now)? {
                return Ok(());
            }
        }
    }

    fn understand(&mut self, now: Instant) -> Result<(), Ended> {
        let (missing, any) = self.conversation.input(&mut self.input, now)?;
        self.missing = missing;
        if any {
            self.heard = now;
        }
        if self.input.is_empty() && self.input.capacity() > 0 {
            self.input = BytesMut::new();
        }
        Ok(())
    }

    /// Whether the stream took everything and there may be more.
    fn write(&mut self, context: &mut Context<'_>, now: Instant) -> Result<bool, Ended> {
        let mut any = false;
        while !self.conversation.output().is_empty() {
            let output = self.conversation.output();
            let parts = [IoSlice::new(&output.head), IoSlice::new(&output.payload)];
            let parts = if output.payload.is_empty() { &parts[..1] } else { &parts[..] };
            match Pin::new(&mut self.stream).poll_write_vectored(context, parts) {
                Poll::Ready(Ok(0)) => return Err(Ended::Closed),
                Poll::Ready(Ok(bytes)) => {
                    output.advance(bytes);
                    self.stuck = None;
                    self.unflushed = true;
                    any = true;
                }
                Poll::Ready(Err(error)) => return Err(failed(&error)),
                Poll::Pending => {
                    self.stuck.get_or_insert(now);
                    return Ok(false);
                }
            }
        }
        if any {
            return Ok(true);
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(context) {
                Poll::Ready(Ok(())) => self.unflushed = false,
                Poll::Ready(Err(error)) => return Err(failed(&error)),
                Poll::Pending => {
                    self.stuck.get_or_insert(now);
                    return Ok(false);
                }
            }
        }
        self.stuck = None;
        Ok(false)
    }

    /// Whether bytes came.
    fn read(&mut self, context: &mut Context<'_>) -> Result<bool, Ended> {
        let read = match self.poll_read(context) {
            Poll::Pending => return Ok(false),
            Poll::Ready(read) => read.map_err(|error| failed(&error))?,
        };
        if read == 0 {
            return Err(Ended::Closed);
        }
        Ok(true)
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut stack = [std::mem::MaybeUninit::uninit(); READ_BYTES];
        let mut buffer = ReadBuf::uninit(&mut stack);
        ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer))?;
        let bytes = buffer.filled();
        if self.input.capacity() - self.input.len() < bytes.len() {
            // Room at most doubles with what has come: an announced size alone costs nothing.
            let rest = self.missing.min(self.input.len());
            self.input.reserve(bytes.len().max(rest));
        }
        self.input.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    /// Sets the alarm for the next deadline; whether it has rung already.
    fn rest(&mut self, context: &mut Context<'_>, due: Due, now: Instant) -> Result<bool, Ended> {
        let limits = &self.conversation.hub().limits;
        let mut next = due.waits_until;
        let mut ends_at = |at: Option<Instant>, ended: Ended| {
            next = [next, at].into_iter().flatten().min();
            if at.is_some_and(|at| at <= now) { Err(ended) } else { Ok(()) }
        };
        if !self.conversation.is_connected() {
            ends_at(Some(self.began + limits.connect_within), Ended::NoConnect)?;
        }
        ends_at(self.stuck.map(|since| since + limits.write_within), Ended::Stalled)?;
        ends_at(due.stalled_at, Ended::Stalled)?;
        if due.waits_until.is_none() {
            let silent_at = self.conversation.keep_alive().map(|time| self.heard + time);
            ends_at(silent_at, Ended::Silent)?;
        }
        let Some(next) = next else {
            self.alarm = None;
            return Ok(false);
        };
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(next)));
        if alarm.deadline() != next {
            alarm.as_mut().reset(next);
        }
        Ok(alarm.as_mut().poll(context).is_ready())
    }
}

fn failed(error: &io::Error) -> Ended {
    match error.kind() {
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => Ended::Closed,
        kind => Ended::Failed(kind),
    }
}
