//! The tokens with which boards come together: whom to believe, and a secret to be believed by.
//!
//! A *cluster token* is for one cluster. Text: `kq1` and lower-case base32 (RFC 4648 section 6, no
//! padding) of `[id 5][secret 16][pin 32][check 2]`, 91 characters that survive being read out and
//! typed. The pin is the SHA-256 of the SubjectPublicKeyInfo of the cluster's authority.
//! A *bootstrap token* is older than its cluster, so that it can name no authority: both sides prove
//! the secret. Text: `kq0` and base32 of `[id 5][secret 16][zero 2][check 2]`, 43 characters.
//! The check (CRC-16/CCITT of the rest) finds typing errors before anybody is asked.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Precedes the text of a cluster token; the digit is its format.
const PREFIX: &str = "kq1";
/// Precedes the text of a bootstrap token.
const BOOTSTRAP_PREFIX: &str = "kq0";
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
const ID: usize = 5;
const SECRET: usize = 16;
const PIN: usize = 32;
const BODY: usize = ID + SECRET + PIN;
const CHECKED: usize = BODY + 2;
/// Characters after the prefix: 5 bits each, without a rest.
const CHARACTERS: usize = CHECKED * 8 / 5;
/// Characters of the whole text.
const TEXT: usize = PREFIX.len() + CHARACTERS;
const BOOTSTRAP_TEXT: usize = BOOTSTRAP_PREFIX.len() + (ID + SECRET + 4) * 8 / 5;
/// Bytes of a bootstrap token that mean nothing: they are zero.
const SPARE: usize = 2;
const BOOTSTRAP_BODY: usize = ID + SECRET + SPARE;
const BOOTSTRAP_CHECKED: usize = BOOTSTRAP_BODY + 2;
const _: () = assert!(CHECKED.is_multiple_of(5) && ID.is_multiple_of(5));
const _: () = assert!(BOOTSTRAP_CHECKED.is_multiple_of(5));

/// Names a token without giving it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenId(pub [u8; ID]);

/// A token. Its text is secret; `Debug` shows its id only.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// Which token this is.
    pub id: TokenId,
    /// What only its maker and its bearers know.
    pub secret: [u8; SECRET],
    /// SHA-256 of the SubjectPublicKeyInfo of the cluster's authority.
    pub pin: [u8; PIN],
}

/// A token of boards that found a cluster together. Its text is secret; `Debug` shows its id only.
#[derive(Clone, PartialEq, Eq)]
pub struct BootstrapToken {
    /// Which token this is.
    pub id: TokenId,
    /// What only its maker and its bearers know.
    pub secret: [u8; SECRET],
}

/// A token of either kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyToken {
    /// For a cluster that there is.
    Cluster(Token),
    /// For boards that found one together, or come to it later.
    Bootstrap(BootstrapToken),
}

/// What a token lets its bearer become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenRole {
    /// A board that only runs pods.
    Worker,
    /// What the cluster chooses.
    #[default]
    Auto,
    /// A master.
    Master,
}

/// Why a text is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// It does not begin as one.
    #[error("a token begins with `kq1`; `kumquat token create` on the master board prints one")]
    Prefix,
    /// Characters are missing or too many.
    #[error("a token has {TEXT} characters, this text has {0}")]
    Length(usize),
    /// Characters of a bootstrap token are missing or too many.
    #[error("a bootstrap token has {BOOTSTRAP_TEXT} characters, this text has {0}")]
    BootstrapLength(usize),
    /// A bootstrap token with something in it that this version does not know.
    #[error("the bootstrap token was made by a newer version of kumquat: use that one here, too")]
    Newer,
    /// A character that no token has.
    #[error("a token has only a-z and 2-7 after `kq1` or `kq0`, character {at} is {found:?}")]
    Character {
        /// Its place, counted from 1.
        at: usize,
        /// The character.
        found: char,
    },
    /// The check is wrong.
    #[error("the token is mistyped: its check does not fit")]
    Check,
    /// The name of a role that there is not.
    #[error("a token is for `worker`, `auto` or `master`")]
    Role,
    /// A text that is no id.
    #[error("the id of a token has 8 characters, a-z and 2-7 (see `kumquat token list`)")]
    Id,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [self.id.0.as_slice(), &self.secret, &self.pin].concat();
        bytes.extend(check(&bytes).to_be_bytes());
        write!(f, "{PREFIX}{}", base32(&bytes))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FromStr for Token {
    type Err = BadToken;

    /// Reads the text; space around it and capitals do no harm.
    fn from_str(text: &str) -> Result<Self, BadToken> {
        let body = body::<BODY>(text, PREFIX, BadToken::Length)?;
        let (id, rest) = body.split_at(ID);
        let (secret, pin) = rest.split_at(SECRET);
        Ok(Self { id: TokenId(array(id)), secret: array(secret), pin: array(pin) })
    }
}

impl fmt::Display for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [self.id.0.as_slice(), &self.secret, &[0; SPARE]].concat();
        bytes.extend(check(&bytes).to_be_bytes());
        write!(f, "{BOOTSTRAP_PREFIX}{}", base32(&bytes))
    }
}

impl fmt::Debug for BootstrapToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BootstrapToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl FromStr for BootstrapToken {
    type Err = BadToken;

    /// Reads the text; space around it and capitals do no harm.
    fn from_str(text: &str) -> Result<Self, BadToken> {
        let body = body::<BOOTSTRAP_BODY>(text, BOOTSTRAP_PREFIX, BadToken::BootstrapLength)?;
        let (id, rest) = body.split_at(ID);
        let (secret, spare) = rest.split_at(SECRET);
        if spare != [0; SPARE] {
            return Err(BadToken::Newer);
        }
        Ok(Self { id: TokenId(array(id)), secret: array(secret) })
    }
}

impl AnyToken {
    /// Which token this is.
    pub fn id(&self) -> TokenId {
        match self {
            Self::Cluster(token) => token.id,
            Self::Bootstrap(token) => token.id,
        }
    }

    /// What only its maker and its bearers know.
    pub fn secret(&self) -> &[u8; SECRET] {
        match self {
            Self::Cluster(token) => &token.secret,
            Self::Bootstrap(token) => &token.secret,
        }
    }

    /// The authority that it names, if it names one.
    pub fn pin(&self) -> Option<[u8; PIN]> {
        match self {
            Self::Cluster(token) => Some(token.pin),
            Self::Bootstrap(_) => None,
        }
    }
}

impl FromStr for AnyToken {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let start = text.trim().get(..BOOTSTRAP_PREFIX.len()).unwrap_or_default();
        match start.eq_ignore_ascii_case(BOOTSTRAP_PREFIX) {
            true => text.parse().map(Self::Bootstrap),
            false => text.parse().map(Self::Cluster),
        }
    }
}

/// The bytes of a token's text before its check.
fn body<const N: usize>(
    text: &str,
    prefix: &str,
    wrong_length: impl Fn(usize) -> BadToken,
) -> Result<[u8; N], BadToken> {
    let text = text.trim();
    let digits = match text.get(..prefix.len()) {
        Some(start) if start.eq_ignore_ascii_case(prefix) => &text[prefix.len()..],
        _ => return Err(BadToken::Prefix),
    };
    let length = digits.chars().count();
    if length != (N + 2) * 8 / 5 {
        return Err(wrong_length(prefix.len() + length));
    }
    let bytes = decode(digits)
        .map_err(|(at, found)| BadToken::Character { at: prefix.len() + at + 1, found })?;
    let (body, shown) = bytes.split_at(N);
    if check(body).to_be_bytes() != shown {
        return Err(BadToken::Check);
    }
    Ok(array(body))
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base32(&self.0))
    }
}

impl FromStr for TokenId {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let bytes = decode(text).map_err(|_| BadToken::Id)?;
        Ok(Self(bytes.try_into().map_err(|_| BadToken::Id)?))
    }
}

impl TryFrom<String> for TokenId {
    type Error = BadToken;

    fn try_from(text: String) -> Result<Self, BadToken> {
        text.parse()
    }
}

impl From<TokenId> for String {
    fn from(id: TokenId) -> Self {
        id.to_string()
    }
}

impl fmt::Display for TokenRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Worker => "worker",
            Self::Auto => "auto",
            Self::Master => "master",
        })
    }
}

impl FromStr for TokenRole {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        match text {
            "worker" => Ok(Self::Worker),
            "auto" => Ok(Self::Auto),
            "master" => Ok(Self::Master),
            _ => Err(BadToken::Role),
        }
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("split at this length")
}

/// Base32 of bytes whose number is a multiple of five.
pub(crate) fn base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 8 / 5);
    for group in bytes.chunks(5) {
        let bits = group.iter().fold(0_u64, |bits, byte| bits << 8 | u64::from(*byte));
        for at in (0..8).rev() {
            text.push(char::from(ALPHABET[(bits >> (5 * at) & 31) as usize]));
        }
    }
    text
}

/// The bytes of base32 text, or the first character that is none of its alphabet with its place. A
/// rest that is no whole group is left out.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, (usize, char)> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut bits, mut digits) = (0_u64, 0);
    for (at, found) in text.chars().enumerate() {
        let lower = found.to_ascii_lowercase();
        let digit = ALPHABET.iter().position(|known| char::from(*known) == lower);
        bits = bits << 5 | digit.ok_or((at, found))? as u64;
        digits += 1;
        if digits == 8 {
            bytes.extend(&bits.to_be_bytes()[3..]);
            (bits, digits) = (0, 0);
        }
    }
    Ok(bytes)
}

/// CRC-16/CCITT-FALSE: finds every error within 16 bits in a row, so every wrong character and every
/// two neighbours that changed places.
pub(crate) fn check(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| match crc & 0x8000 {
            0 => crc << 1,
            _ => crc << 1 ^ 0x1021,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        let mut next = 0_u8;
        let mut byte = || {
            next = next.wrapping_mul(31).wrapping_add(7);
            next
        };
        Token {
            id: TokenId([0; 5].map(|_: u8| byte())),
            secret: [0; 16].map(|_: u8| byte()),
            pin: [0; 32].map(|_: u8| byte()),
        }
    }

    #[test]
    fn the_text_is_frozen_and_read_back() {
        let text = token().to_string();
        assert_eq!(
            text,
            "kq1a7qcpqchubtybb3au5amoihhaad6aj6ai6qgpaehmctubrza44aapybhybd2az4aq5qkoqghedtqab7ae7aeoebj"
        );
        for form in [text.clone(), text.to_uppercase(), format!("  {text}\n")] {
            assert_eq!(form.parse::<Token>(), Ok(token()), "{form}");
        }
        // The check value of the algorithm's catalogue.
        assert_eq!(check(b"123456789"), 0x29b1);
        let id = token().id;
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(text[3..11], id.to_string());
        assert!(!format!("{:?}", token()).contains(&text[11..20]), "the secret is not shown");
    }

    #[test]
    fn every_typing_error_is_found() {
        let text = token().to_string();
        for at in 3..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(bytes).unwrap();
            assert_eq!(wrong.parse::<Token>(), Err(BadToken::Check), "{wrong}");
            if at + 1 < text.len() && text.as_bytes()[at] != text.as_bytes()[at + 1] {
                let mut bytes = text.clone().into_bytes();
                bytes.swap(at, at + 1);
                let wrong = String::from_utf8(bytes).unwrap();
                assert_eq!(wrong.parse::<Token>(), Err(BadToken::Check), "{wrong}");
            }
        }
    }

    #[test]
    fn a_bootstrap_token_is_frozen_and_read_back() {
        let Token { id, secret, .. } = token();
        let token = BootstrapToken { id, secret };
        let text = token.to_string();
        assert_eq!(text.len(), BOOTSTRAP_TEXT);
        assert_eq!(text, "kq0a7qcpqchubtybb3au5amoihhaad6aj6ai4aaabhy");
        for form in [text.clone(), text.to_uppercase(), format!(" {text}\n")] {
            assert_eq!(form.parse(), Ok(token.clone()), "{form}");
            assert_eq!(form.parse(), Ok(AnyToken::Bootstrap(token.clone())), "{form}");
        }
        for at in 3..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = if bytes[at] == b'a' { b'b' } else { b'a' };
            let wrong = String::from_utf8(bytes).unwrap();
            assert_eq!(wrong.parse::<AnyToken>(), Err(BadToken::Check), "{wrong}");
        }
        let mut newer = [id.0.as_slice(), &secret, &[0, 1]].concat();
        newer.extend(check(&newer).to_be_bytes());
        let newer = format!("kq0{}", base32(&newer));
        assert_eq!(newer.parse::<AnyToken>(), Err(BadToken::Newer));
        assert_eq!(text[..42].parse::<AnyToken>(), Err(BadToken::BootstrapLength(42)));
        assert!(!format!("{token:?}").contains(&text[11..20]), "the secret is not shown");
        let cluster = self::token();
        assert_eq!(cluster.to_string().parse(), Ok(AnyToken::Cluster(cluster)));
        assert_eq!("kq2".parse::<AnyToken>(), Err(BadToken::Prefix));
    }

    #[test]
    fn wrong_texts_are_told_what_is_wrong() {
        let text = token().to_string();
        let check =
            |text: &str, expected| assert_eq!(text.parse::<Token>(), Err(expected), "{text}");
        check("", BadToken::Prefix);
        check("kq", BadToken::Prefix);
        check("kq0abc", BadToken::Prefix);
        check("\u{e4}\u{e4}\u{e4}", BadToken::Prefix);
        check("kq1", BadToken::Length(3));
        check(&text[..90], BadToken::Length(90));
        check(&format!("{text}a"), BadToken::Length(92));
        check(
            &text.replacen('a', "1", 1),
            BadToken::Character { at: text.find('a').unwrap() + 1, found: '1' },
        );
        check(
            &format!("kq1{}", "\u{e4}".repeat(88)),
            BadToken::Character { at: 4, found: '\u{e4}' },
        );
        let said = BadToken::Length(90).to_string();
        assert!(said.contains("91 characters") && said.contains("has 90"), "{said}");
        for bad in ["", "abc", "abcdefg1", "abcdefghabcdefgh", "\u{e4}"] {
            assert_eq!(bad.parse::<TokenId>(), Err(BadToken::Id), "{bad}");
        }
        assert_eq!("Worker".parse::<TokenRole>(), Err(BadToken::Role));
    }
}
