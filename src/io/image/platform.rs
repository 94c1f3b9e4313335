//! Which images this board can run: operating system, architecture and variant as OCI names them.

use std::fmt;

/// A processor architecture with its variant (`arm64`, `arm/v7`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// OCI (Go) name: `amd64`, `arm64`, `arm`.
    pub architecture: String,
    /// Variant number: 8 for arm64, 5 to 8 for arm, 0 where there is none.
    pub variant: u8,
}

impl Platform {
    /// This board's platform, from the kernel's machine name (a 32-bit binary may run on a 64-bit kernel).
    pub fn host() -> Self {
        let machine = nix::sys::utsname::uname()
            .map(|name| name.machine().to_string_lossy().into_owned())
            .unwrap_or_else(|_| std::env::consts::ARCH.to_owned());
        Self::of_machine(&machine)
    }

    /// The platform of a `uname -m` answer.
    pub fn of_machine(machine: &str) -> Self {
        let (architecture, variant) = match machine {
            "x86_64" => ("amd64", 0),
            "aarch64" | "arm64" => ("arm64", 8),
            "i386" | "i486" | "i586" | "i686" => ("386", 0),
            arm if arm.starts_with("armv8") => ("arm", 8),
            arm if arm.starts_with("armv7") => ("arm", 7),
            arm if arm.starts_with("armv6") => ("arm", 6),
            arm if arm.starts_with("arm") => ("arm", 5),
            other => (other, 0),
        };
        Self { architecture: architecture.to_owned(), variant }
    }

    /// From an image's words; an arm image without a variant is taken as v7, as Docker does.
    pub fn of_image(architecture: &str, variant: Option<&str>) -> Self {
        let given = variant.and_then(|text| text.trim_start_matches('v').parse().ok());
        let default = match architecture {
            "arm" => 7,
            "arm64" => 8,
            _ => 0,
        };
        Self { architecture: architecture.to_owned(), variant: given.unwrap_or(default) }
    }

    /// How well an image fits this board; larger is better, `None` cannot run.
    pub fn fit(&self, image: &Self) -> Option<u32> {
        let variant = u32::from(image.variant);
        if self.architecture == image.architecture {
            (image.variant <= self.variant).then_some(100 + variant)
        } else if self.architecture == "arm64" && image.architecture == "arm" {
            (image.variant <= 8).then_some(variant)
        } else {
            None
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.architecture)?;
        if self.architecture == "arm" { write!(f, "/v{}", self.variant) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_variant_wins() {
        let images = ["amd64", "arm/v5", "arm/v6", "arm/v7", "arm64/v8"].map(|text| {
            let (architecture, variant) = text.split_once('/').unwrap_or((text, ""));
            Platform::of_image(architecture, Some(variant))
        });
        for (machine, expected) in
            [("x86_64", "amd64"), ("armv6l", "arm/v6"), ("armv7l", "arm/v7"), ("aarch64", "arm64")]
        {
            let host = Platform::of_machine(machine);
            let best = images.iter().max_by_key(|image| host.fit(image)).expect("five images");
            assert_eq!(best.to_string(), expected);
        }
        assert_eq!(
            Platform::of_machine("armv6l").fit(&Platform::of_image("arm", Some("v7"))),
            None
        );
        assert!(
            Platform::of_machine("aarch64").fit(&Platform::of_image("arm", Some("v7"))).is_some()
        );
    }
}
