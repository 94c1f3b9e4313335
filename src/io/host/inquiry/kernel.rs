//! What the kernel can do: modules that are loaded, built in or on the disk, and its configuration.

use std::fs;
use std::io::Read;
use std::path::Path;

use flate2::read::GzDecoder;
use logic::doctor::{Feature, FeatureState};

use super::read;

/// Bytes of a kernel's configuration that are read; real ones have a third of it.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// What is needed: module, the option that builds it, purpose, whether a board works without it.
const NEEDED: [(&str, &str, &str, bool); 12] = [
    ("overlay", "OVERLAY_FS", "the file systems of containers", true),
    ("veth", "VETH", "the network of pods", true),
    ("vxlan", "VXLAN", "pods on boards of other subnets", false),
    ("nf_tables", "NF_TABLES", "services and network policies", true),
    ("nf_conntrack", "NF_CONNTRACK", "services and network policies", true),
    ("nf_nat", "NF_NAT", "services", true),
    ("nft_chain_nat", "NFT_NAT", "services", true),
    ("nft_ct", "NFT_CT", "network policies", true),
    ("nft_masq", "NFT_MASQ", "pods that call the outside", true),
    ("nft_numgen", "NFT_NUMGEN", "spreading calls over the pods of a service", true),
    ("nft_fib_inet", "NFT_FIB_INET", "node ports", true),
    ("nft_reject_inet", "NFT_REJECT_INET", "refusing calls to services without pods", true),
];

pub(super) fn features(root: &Path, version: &str) -> Vec<Feature> {
    let modules = root.join("lib/modules").join(version);
    let file = |name: &str| fs::read_to_string(modules.join(name)).ok();
    let known = Known {
        loaded: read(root, "proc/modules"),
        file_systems: read(root, "proc/filesystems"),
        built_in: file("modules.builtin"),
        on_disk: file("modules.dep"),
        config: config(root, version),
    };
    NEEDED
        .iter()
        .map(|(name, option, purpose, vital)| {
            let state = known.state(name, option);
            Feature { name, purpose, vital: *vital, state }
        })
        .collect()
}

struct Known {
    loaded: String,
    file_systems: String,
    built_in: Option<String>,
    on_disk: Option<String>,
    config: Option<String>,
}

impl Known {
    fn state(&self, name: &str, option: &str) -> FeatureState {
        let has_module = |list: &Option<String>| {
            let file = format!("/{name}.ko");
            let lines = list.as_deref().unwrap_or_default().lines();
            // Files are called with `-` or `_`, and may be compressed: `kernel/net/nft-x.ko.xz: ...`.
            let mut paths = lines.map(|line| line.split(':').next().unwrap_or_default());
            paths.any(|path| path.replace('-', "_").contains(&file))
        };
        let mut loaded = self.loaded.lines().filter_map(|line| line.split(' ').next());
        let mut file_systems = self.file_systems.lines().filter_map(|line| line.split('\t').nth(1));
        let line = format!("CONFIG_{option}=y");
        let is_built_in = self.config.as_deref().is_some_and(|it| it.lines().any(|it| it == line));
        if loaded.any(|it| it == name)
            || file_systems.any(|it| it == name)
            || has_module(&self.built_in)
            || is_built_in
        {
            FeatureState::Works
        } else if has_module(&self.on_disk) {
            FeatureState::Loadable
        } else if self.on_disk.is_some() || self.config.is_some() {
            // Built as a module, but there is no folder of modules for this kernel: missing too.
            FeatureState::Missing
        } else {
            FeatureState::Unknown
        }
    }
}

/// The configuration that the kernel was built with, when it or its package tells.
fn config(root: &Path, version: &str) -> Option<String> {
    let mut text = String::new();
    if let Ok(file) = fs::File::open(root.join("proc/config.gz")) {
        let read = GzDecoder::new(file).take(CONFIG_BYTES_MAX).read_to_string(&mut text);
        return read.ok().map(|_| text);
    }
    fs::read_to_string(root.join("boot").join(format!("config-{version}"))).ok()
}

/// Size of memory pages, 0 for unknown.
pub(super) fn page_bytes() -> u64 {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
}
