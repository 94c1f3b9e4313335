//! The images of this board as its Node reports them: `status.images`, for the scheduler and for
//! boards that lack one.

use model::limits::{NODE_IMAGE_NAMES_MAX, NODE_IMAGES_MAX};
use serde_json::{Value, json};

use crate::io::image::ImageSummary;

/// The list, the largest image first, as kubelet has it: of each image its name with its digest
/// first, then its tags.
pub(super) fn status_images(mut images: Vec<ImageSummary>) -> Value {
    images.retain(|image| !image.names.is_empty());
    images.sort_by(|one, other| (other.bytes, &one.names).cmp(&(one.bytes, &other.names)));
    images.truncate(NODE_IMAGES_MAX);
    let entry = |image: ImageSummary| {
        let mut names: Vec<String> = image
            .names
            .iter()
            .map(|name| format!("{}@{}", repository(name), image.digest))
            .collect();
        names.dedup();
        let tags = image.names.into_iter().filter(|name| !name.contains('@'));
        names.extend(tags);
        names.truncate(NODE_IMAGE_NAMES_MAX);
        json!({ "names": names, "sizeBytes": image.bytes })
    };
    images.into_iter().map(entry).collect()
}

/// A normalised name without its tag or digest.
fn repository(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or_default();
    match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::image::Digest;

    fn image(names: &[&str], bytes: u64) -> ImageSummary {
        ImageSummary {
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            digest: Digest::of(names.concat().as_bytes()),
            id: Digest::of(b"configuration"),
            architecture: "arm64".into(),
            bytes,
            imported_seconds: 0,
        }
    }

    #[test]
    fn the_largest_come_first_with_their_digest() {
        let small = image(&["pi.local:5000/led:1"], 10);
        let large = image(&["docker.io/library/web:1", "docker.io/library/web:latest"], 20);
        let kept_for_containers = image(&[], 30);
        let (of_small, of_large) = (small.digest, large.digest);
        let list = status_images(vec![small, kept_for_containers, large]);
        let expected = json!([
            { "names": [format!("docker.io/library/web@{of_large}"), "docker.io/library/web:1",
                "docker.io/library/web:latest"], "sizeBytes": 20 },
            { "names": [format!("pi.local:5000/led@{of_small}"), "pi.local:5000/led:1"],
                "sizeBytes": 10 },
        ]);
        assert_eq!(list, expected);
        let many = (0..60).map(|number| image(&[&format!("docker.io/a/b:{number}")], number));
        let list = status_images(many.collect());
        assert_eq!(list.as_array().map(Vec::len), Some(NODE_IMAGES_MAX));
        assert_eq!(list[0]["sizeBytes"], 59);
    }
}
