//! Six words that two people can compare: the board that waits to be let in shows them, and so does
//! the cluster that it waits at.
//!
//! They stand for 66 bits of a hash over both public keys, the board's and the authority's. Whoever
//! sits between the two shows each side a key of its own, and so other words; to find a key that makes
//! the same ones takes 2^66 attempts. The words are made of syllables: 64 beginnings, 32 endings,
//! pronounced alike in most languages, so that no list of words has to be kept.

use sha2::{Digest, Sha256};

/// What the hash is for.
const LABEL: &[u8] = b"kumquat pending words 1\0";
/// Words shown.
pub const WORDS: usize = 6;
/// Bits of a word.
const BITS: u32 = 11;
const BEGINNINGS: [&str; 64] = [
    "ba", "be", "bi", "bo", "da", "de", "di", "do", "fa", "fe", "fi", "fo", "ga", "go", "gu", "ha",
    "he", "hi", "ho", "ja", "jo", "ju", "ka", "ke", "ki", "ko", "la", "le", "li", "lo", "lu", "ma",
    "me", "mi", "mo", "mu", "na", "ne", "ni", "no", "nu", "pa", "pe", "pi", "po", "ra", "re", "ri",
    "ro", "ru", "sa", "se", "si", "so", "su", "ta", "te", "ti", "to", "tu", "va", "ve", "vi", "vo",
];
const ENDINGS: [&str; 32] = [
    "ban", "bel", "dar", "den", "dos", "fal", "fin", "gan", "gor", "kam", "kel", "kin", "lan",
    "les", "lor", "mar", "men", "mil", "nar", "nel", "nos", "pan", "pel", "por", "ran", "rel",
    "ris", "sal", "sen", "tal", "tor", "vin",
];
const _: () = assert!(BEGINNINGS.len() * ENDINGS.len() == 1 << BITS);

/// The words for a board's key and an authority's, each the SHA-256 of its SubjectPublicKeyInfo.
pub fn words(board: &[u8; 32], authority: &[u8; 32]) -> [String; WORDS] {
    let mut hash = Sha256::new();
    hash.update(LABEL);
    hash.update(board);
    hash.update(authority);
    let digest = hash.finalize();
    let bits = digest[..16].iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    std::array::from_fn(|at| {
        let shift = u128::BITS - BITS * (at as u32 + 1);
        let word = (bits >> shift) as usize & ((1 << BITS) - 1);
        format!("{}{}", BEGINNINGS[word / ENDINGS.len()], ENDINGS[word % ENDINGS.len()])
    })
}

/// The same as one text, a space between them.
pub fn phrase(board: &[u8; 32], authority: &[u8; 32]) -> String {
    words(board, authority).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_syllables_are_the_same() {
        let unique = |all: &[&str]| all.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert_eq!(unique(&BEGINNINGS), BEGINNINGS.len());
        assert_eq!(unique(&ENDINGS), ENDINGS.len());
        let length = |all: &[&str], bytes| all.iter().all(|one| one.len() == bytes);
        assert!(length(&BEGINNINGS, 2) && length(&ENDINGS, 3), "a word is read in one way only");
    }

    #[test]
    fn each_key_counts() {
        let same = words(&[1; 32], &[2; 32]);
        assert_eq!(same, words(&[1; 32], &[2; 32]));
        let mut other = [1; 32];
        other[31] = 0;
        for (board, authority) in [(other, [2; 32]), ([1; 32], other), ([2; 32], [1; 32])] {
            let differing =
                words(&board, &authority).iter().zip(&same).filter(|(a, b)| a != b).count();
            assert!(differing >= 4, "{:?} {same:?}", words(&board, &authority));
        }
        assert_eq!(phrase(&[1; 32], &[2; 32]).split(' ').count(), WORDS);
    }
}
