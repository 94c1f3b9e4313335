//! Where this board's images come from, whatever it is in its cluster at the moment.

use std::sync::{Arc, PoisonError, RwLock};

use crate::io::image::{Answer, Chunks, Digest, Source, SourceError};

/// Asks whoever is the source at that moment; clones share it.
#[derive(Clone, Debug, Default)]
pub(in crate::app) struct SeatImages(Arc<RwLock<Option<Arc<dyn Source>>>>);

impl SeatImages {
    /// From here on this one is asked.
    pub(in crate::app) fn follow(&self, source: Arc<dyn Source>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    fn current(&self) -> Result<Arc<dyn Source>, SourceError> {
        let current = self.0.read().unwrap_or_else(PoisonError::into_inner).clone();
        current.ok_or_else(|| SourceError::Away("this board is in no cluster yet".to_owned()))
    }
}

impl Source for SeatImages {
    fn offers<'a>(&'a self, name: &'a str) -> Answer<'a, Vec<Digest>> {
        Box::pin(async move { self.current()?.offers(name).await })
    }

    fn blob<'a>(&'a self, name: &'a str, digest: Digest, from: u64) -> Answer<'a, Chunks> {
        Box::pin(async move { self.current()?.blob(name, digest, from).await })
    }
}
