//! Six words that two people can compare: the board that waits to be let in shows them, and so does
//! the cluster that it waits at.
//!
//! They stand for 66 bits of a hash over both public keys, the board's and the authority's, and over a
//! nonce of either side. Whoever sits between the two shows each side a key of its own, and so other
//! words. The board commits itself to its nonce before it hears the cluster's, and opens it after:
//! ```text
//! board    SHA-256(key, nonce) ─────────▶            cluster
//!                              ◀───────── its nonce
//!          nonce ──────────────▶                     words on both sides
//! ```
//! So nobody can choose keys until the words fit: on either side the last nonce comes when all else is
//! said, and each attempt has one chance in 2^66. Without the nonces two tables of 2^33 keys would do.
//! The words are made of syllables: 64 beginnings, 32 endings, pronounced alike in most languages, so
//! that no list of words has to be kept.

use sha2::{Digest, Sha256};

/// What the hashes are for.
const LABEL: &[u8] = b"kumquat pending words 2\0";
const COMMITMENT_LABEL: &[u8] = b"kumquat pending commitment 1\0";
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

/// A random number of one side, new for each attempt.
pub type Nonce = [u8; 32];

/// What a board commits itself with to its nonce; `board` is the SHA-256 of its SubjectPublicKeyInfo.
pub fn commitment(board: &[u8; 32], nonce: &Nonce) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(COMMITMENT_LABEL);
    hash.update(board);
    hash.update(nonce);
    hash.finalize().into()
}

/// The words for a board's key and an authority's, each the SHA-256 of its SubjectPublicKeyInfo, and the
/// nonces of the board and of the cluster.
pub fn words(board: &[u8; 32], authority: &[u8; 32], nonces: [&Nonce; 2]) -> [String; WORDS] {
    let mut hash = Sha256::new();
    hash.update(LABEL);
    hash.update(board);
    hash.update(authority);
    hash.update(nonces[0]);
    hash.update(nonces[1]);
    let digest = hash.finalize();
    let bits = digest[..16].iter().fold(0_u128, |bits, byte| bits << 8 | u128::from(*byte));
    std::array::from_fn(|at| {
        let shift = u128::BITS - BITS * (at as u32 + 1);
        let word = (bits >> shift) as usize & ((1 << BITS) - 1);
        format!("{}{}", BEGINNINGS[word / ENDINGS.len()], ENDINGS[word % ENDINGS.len()])
    })
}

/// The same as one text, a space between them.
pub fn phrase(board: &[u8; 32], authority: &[u8; 32], nonces: [&Nonce; 2]) -> String {
    words(board, authority, nonces).join(" ")
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
    fn each_key_and_each_nonce_counts() {
        let all = [[1; 32], [2; 32], [3; 32], [4; 32]];
        let of = |[board, authority, own, other]: [[u8; 32]; 4]| {
            words(&board, &authority, [&own, &other])
        };
        let same = of(all);
        assert_eq!(same, of(all));
        let mut others: Vec<[[u8; 32]; 4]> = vec![[all[1], all[0], all[2], all[3]]];
        for at in 0..all.len() {
            let mut other = all;
            other[at][31] ^= 1;
            others.push(other);
        }
        others.push([all[0], all[1], all[3], all[2]]);
        for other in others {
            let differing = of(other).iter().zip(&same).filter(|(a, b)| a != b).count();
            assert!(differing >= 4, "{:?} {same:?}", of(other));
        }
        let [board, authority, own, other] = &all;
        assert_eq!(phrase(board, authority, [own, other]).split(' ').count(), WORDS);
        assert_ne!(commitment(board, own), commitment(board, other));
        assert_ne!(commitment(board, own), commitment(authority, own));
    }
}
