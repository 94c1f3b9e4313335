//! A text as a QR code for the terminal: two modules above each other in one character.
//!
//! Light modules are drawn, dark ones are left out, as a terminal with a dark ground needs it; on a
//! terminal that takes colours, both are set, so that the ground does not matter. The quiet zone that
//! readers need around the code is drawn, too.

use std::io::IsTerminal;

use qrcodegen::{QrCode, QrCodeEcc};

/// Light modules around the code (ISO/IEC 18004).
const QUIET: i32 = 4;
/// White on black, whatever the terminal's own colours are.
const COLOURS: &str = "\x1b[97;40m";
const PLAIN: &str = "\x1b[0m";

/// The code of `text`, lines with their ends; `None` for a text that no code holds.
pub(super) fn text(text: &str) -> Option<String> {
    let code = QrCode::encode_text(text, QrCodeEcc::Medium).ok()?;
    let coloured = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let (before, after) = if coloured { (COLOURS, PLAIN) } else { ("", "") };
    let lines = rows(&code);
    Some(lines.iter().map(|line| format!("{before}{line}{after}\n")).collect())
}

fn rows(code: &QrCode) -> Vec<String> {
    let end = code.size() + QUIET;
    // Outside of the code everything is light.
    let light = |x, y| !code.get_module(x, y);
    let row = |y: i32| {
        let half = |x| match (light(x, y), y + 1 >= end || light(x, y + 1)) {
            (true, true) => '\u{2588}',
            (true, false) => '\u{2580}',
            (false, true) => '\u{2584}',
            (false, false) => ' ',
        };
        (-QUIET..end).map(half).collect()
    };
    (-QUIET..end).step_by(2).map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the modules back from the characters.
    fn module(rows: &[Vec<char>], x: usize, y: usize) -> bool {
        let (above, below) = match rows[y / 2][x] {
            '\u{2588}' => (false, false),
            '\u{2580}' => (false, true),
            '\u{2584}' => (true, false),
            ' ' => (true, true),
            other => panic!("{other:?}"),
        };
        if y.is_multiple_of(2) { above } else { below }
    }

    #[test]
    fn a_token_is_a_small_code_with_its_finders_and_its_quiet_zone() {
        for (token, size) in
            [("KQ1".to_owned() + &"A7".repeat(44), 37), ("KQ0".to_owned() + &"A7".repeat(20), 29)]
        {
            let code = QrCode::encode_text(&token, QrCodeEcc::Medium).expect("it fits");
            assert_eq!(code.size(), size, "{} capitals", token.len());
            let rows: Vec<Vec<char>> =
                rows(&code).iter().map(|row| row.chars().collect()).collect();
            let whole = size as usize + 2 * QUIET as usize;
            assert!(rows.iter().all(|row| row.len() == whole));
            for (x, y) in (0..whole).flat_map(|x| (0..whole).map(move |y| (x, y))) {
                let dark = code.get_module(x as i32 - QUIET, y as i32 - QUIET);
                assert_eq!(module(&rows, x, y), dark, "{x} {y}");
            }
            let corner = QUIET as usize;
            assert!((0..7).all(|at| module(&rows, corner + at, corner)), "a finder's edge is dark");
            assert!((0..whole).all(|at| !module(&rows, at, 0)), "quiet zone");
        }
        assert_eq!(text(&"x".repeat(5_000)), None);
    }
}
