//! Images by a hash of their normalised name: boards report many, and only equality matters.

use super::template::hash_64;

/// Hash of an image's name, the same for every spelling of it (`busybox` is
/// `docker.io/library/busybox:latest`).
pub fn image_hash(name: &str) -> u64 {
    let (rest, digest) = match name.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (name, None),
    };
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (rest, "latest"),
    };
    let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
    let (registry, repository) = match path.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first, rest),
        _ => ("docker.io", path),
    };
    let library = match registry == "docker.io" && !repository.contains('/') {
        true => "library/",
        false => "",
    };
    let version = digest.unwrap_or(tag);
    hash_64(format!("{registry}/{library}{repository}@{version}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_name_is_the_same_image() {
        let same = ["busybox", "busybox:latest", "docker.io/library/busybox", "library/busybox"];
        same.iter().for_each(|name| assert_eq!(image_hash(name), image_hash(same[0]), "{name}"));
        for other in ["busybox:1", "pi.local:5000/busybox", "me/busybox", "busybox@sha256:00"] {
            assert_ne!(image_hash(other), image_hash(same[0]), "{other}");
        }
    }
}
