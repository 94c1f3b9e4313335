//! The sizes of a client's terminal: JSON objects one after the other. Pure.

use serde::Deserialize;

/// Bytes of one object; more is nonsense.
const SIZE_BYTES_MAX: usize = 256;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TerminalSize {
    width: u16,
    height: u16,
}

/// Cuts what came into sizes.
#[derive(Debug, Default)]
pub(super) struct Sizes(Vec<u8>);

impl Sizes {
    /// Takes the next bytes and gives the last size that is whole: columns and rows.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Option<(u16, u16)> {
        let mut last = None;
        for byte in bytes {
            self.0.push(*byte);
            if *byte == b'}' {
                let size = serde_json::from_slice::<TerminalSize>(&self.0).ok();
                last = size.map(|size| (size.width, size.height)).or(last);
                self.0.clear();
            } else if self.0.len() > SIZE_BYTES_MAX {
                self.0.clear();
            }
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_out_however_they_are_cut() {
        let text = b"{\"Width\":80,\"Height\":24}\n{\"Width\":120,\"Height\":40}\n";
        for cut in 1..text.len() {
            let mut sizes = Sizes::default();
            let found: Vec<_> = text.chunks(cut).filter_map(|part| sizes.take(part)).collect();
            assert_eq!(found.last(), Some(&(120, 40)), "cut every {cut} bytes");
        }
        let mut sizes = Sizes::default();
        assert_eq!(sizes.take(b"{}{\"Width\":-1}"), None);
        assert_eq!(sizes.take(&[b'x'; 1000]), None);
        assert!(sizes.0.len() <= SIZE_BYTES_MAX + 1);
    }
}
