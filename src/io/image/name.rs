//! Image names, normalised as Docker does: `busybox` is `docker.io/library/busybox:latest`.
//!
//! Grammar: <https://github.com/distribution/reference> (`reference.go`), without bare digests.

use std::fmt;

use model::limits::IMAGE_NAME_BYTES_MAX;

use super::digest::Digest;
use super::error::ImageError;

/// A normalised name: `registry/repository:tag` or `registry/repository@digest`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageName {
    text: String,
    digest: Option<Digest>,
}

impl ImageName {
    /// Reads and normalises a name.
    ///
    /// # Errors
    /// `ImageError::Name` says what is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let fault = |reason| ImageError::Name { text: text.to_owned(), reason };
        if text.is_empty() || text.len() > IMAGE_NAME_BYTES_MAX {
            return Err(fault("it must have 1 to 255 characters"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => {
                let digest = Digest::parse(digest);
                (rest, Some(digest.ok_or_else(|| fault("its digest is not sha256"))?))
            }
            None => (text, None),
        };
        let (path, tag) = match rest.rsplit_once(':') {
            Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !tag_is_valid(tag)) {
            return Err(fault("its tag has characters that are not allowed"));
        }
        let (registry, repository) = split_registry(path);
        if !repository.split('/').all(component_is_valid) {
            return Err(fault("a repository is lower case letters, digits and . _ - between them"));
        }
        if !registry_is_valid(registry) {
            return Err(fault("its registry is not a host name"));
        }
        let library =
            if registry == "docker.io" && !repository.contains('/') { "library/" } else { "" };
        let base = format!("{registry}/{library}{repository}");
        let text = match digest {
            Some(digest) => format!("{base}@{digest}"),
            None => format!("{base}:{}", tag.unwrap_or("latest")),
        };
        Ok(Self { text, digest })
    }

    /// The normalised text.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The manifest digest that the name pins.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn split_registry(path: &str) -> (&str, &str) {
    match path.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first != first.to_lowercase() =>
        {
            (if first == "index.docker.io" { "docker.io" } else { first }, rest)
        }
        _ => ("docker.io", path),
    }
}

fn registry_is_valid(registry: &str) -> bool {
    let alphanumeric = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = registry.as_bytes();
    (alphanumeric(bytes.first()) || bytes.first() == Some(&b'['))
        && (alphanumeric(bytes.last()) || bytes.last() == Some(&b']'))
        && registry.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
}

fn tag_is_valid(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (1..=128).contains(&tag.len())
        && tag.bytes().enumerate().all(|(at, b)| word(b) || at > 0 && b".-".contains(&b))
}

fn component_is_valid(component: &str) -> bool {
    let letter = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    bytes.first().is_some_and(letter)
        && bytes.last().is_some_and(letter)
        && bytes.iter().all(|b| letter(b) || b"._-".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_normalised() {
        let hex = "ab".repeat(32);
        for (given, expected) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.37", "docker.io/library/busybox:1.37".to_owned()),
            ("docker.io/library/busybox:1.37", "docker.io/library/busybox:1.37".to_owned()),
            ("index.docker.io/a/b", "docker.io/a/b:latest".to_owned()),
            ("me/app", "docker.io/me/app:latest".to_owned()),
            ("localhost/app:v1", "localhost/app:v1".to_owned()),
            ("ghcr.io/x/y_z:1.0-rc", "ghcr.io/x/y_z:1.0-rc".to_owned()),
            ("host:5000/x", "host:5000/x:latest".to_owned()),
            (&format!("busybox:1@sha256:{hex}"), format!("docker.io/library/busybox@sha256:{hex}")),
        ] {
            assert_eq!(ImageName::parse(given).expect(given).as_str(), expected);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in
            ["", ":", "a b", "Busybox", "busybox:", "a//b", "../x", "x@sha256:12", "-a", "x:.y"]
        {
            assert!(ImageName::parse(bad).is_err(), "{bad}");
        }
    }
}
