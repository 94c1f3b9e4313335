//! The blobs of images that the master does not have itself, as their manifests name them.
//!
//! A manifest is named by its digest and never changes, so what is known never becomes wrong. The one
//! that was learnt first is forgotten first.

use std::collections::VecDeque;

use model::limits::IMAGE_MANIFESTS_KNOWN_MAX;

use crate::io::image::Digest;

/// Blobs by manifest.
#[derive(Debug, Default)]
pub(super) struct Known {
    images: VecDeque<(Digest, Vec<Digest>)>,
}

impl Known {
    /// Configuration and layers of the image with this manifest.
    pub(super) fn get(&self, manifest: Digest) -> Option<Vec<Digest>> {
        let found = self.images.iter().find(|(digest, _)| *digest == manifest);
        found.map(|(_, blobs)| blobs.clone())
    }

    /// Remembers them.
    pub(super) fn put(&mut self, manifest: Digest, blobs: Vec<Digest>) {
        if self.get(manifest).is_some() {
            return;
        }
        if self.images.len() >= IMAGE_MANIFESTS_KNOWN_MAX {
            self.images.pop_front();
        }
        self.images.push_back((manifest, blobs));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten() {
        let mut known = Known::default();
        let digest = |at: usize| Digest::of(&at.to_le_bytes());
        for at in 0..=IMAGE_MANIFESTS_KNOWN_MAX {
            known.put(digest(at), vec![digest(at + 1)]);
            known.put(digest(at), Vec::new());
        }
        assert_eq!(known.get(digest(0)), None);
        assert_eq!(known.get(digest(1)), Some(vec![digest(2)]));
        assert_eq!(known.images.len(), IMAGE_MANIFESTS_KNOWN_MAX);
    }
}
