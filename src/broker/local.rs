//! A subscription of the broker's own process.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use crate::hub::Hub;
use crate::lock;
use crate::message::{Delivery, Message};
use crate::subscriber::Offered;

/// A subscription of the broker's own process; it ends when dropped.
pub struct Local {
    hub: Arc<Hub>,
    queue: Arc<LocalQueue>,
}

/// The queue between the broker and a [`Local`].
pub(crate) struct LocalQueue {
    pub(crate) number: u64,
    pub(crate) filter: Box<str>,
    capacity: usize,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    messages: VecDeque<Delivery>,
    waker: Option<Waker>,
    waiters: Vec<Waker>,
    closed: bool,
    missed: u64,
}

impl Local {
    pub(crate) fn new(hub: Arc<Hub>, queue: Arc<LocalQueue>) -> Self {
        Self { hub, queue }
    }

    /// The next message; None once the broker has stopped and all messages were taken.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn recv(&mut self) -> Option<Message> {
        std::future::poll_fn(|context| self.queue.poll_next(context)).await
    }

    /// Messages lost because this side took none for longer than publishers wait.
    pub fn missed(&self) -> u64 {
        lock(&self.queue.inner).missed
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        self.queue.close();
        self.hub.remove_local(&self.queue);
    }
}

impl LocalQueue {
    pub(crate) fn new(number: u64, filter: &str, capacity: usize) -> Arc<Self> {
        let capacity = capacity.max(1);
        Arc::new(Self { number, filter: filter.into(), capacity, inner: Mutex::default() })
    }

    pub(crate) fn offer(&self, delivery: &Delivery) -> Offered {
        self.push(delivery.clone(), self.capacity)
    }

    /// Queues beyond the capacity, but not without bound.
    pub(crate) fn force(&self, delivery: Delivery, more: usize) -> Offered {
        match self.push(delivery, self.capacity + more) {
            Offered::Full => self.miss(),
            offered => offered,
        }
    }

    fn push(&self, delivery: Delivery, capacity: usize) -> Offered {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Offered::Lost;
        }
        if inner.messages.len() >= capacity {
            return Offered::Full;
        }
        inner.messages.push_back(delivery);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
        Offered::Taken
    }

    pub(crate) fn miss(&self) -> Offered {
        lock(&self.inner).missed += 1;
        Offered::Lost
    }

    pub(crate) fn wait(&self, waker: &Waker) {
        let mut inner = lock(&self.inner);
        if !inner.waiters.iter().any(|waiter| waiter.will_wake(waker)) {
            inner.waiters.push(waker.clone());
        }
    }

    pub(crate) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        inner.waiters.drain(..).for_each(Waker::wake);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
    }

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Option<Message>> {
        let mut inner = lock(&self.inner);
        if let Some(delivery) = inner.messages.pop_front() {
            if inner.messages.len() <= self.capacity / 2 {
                inner.waiters.drain(..).for_each(Waker::wake);
            }
            return Poll::Ready(Some(delivery.to_message()));
        }
        if inner.closed {
            return Poll::Ready(None);
        }
        inner.messages = VecDeque::new();
        inner.waker = Some(context.waker().clone());
        Poll::Pending
    }
}
