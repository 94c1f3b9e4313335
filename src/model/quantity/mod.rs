//! Resource quantities: `500m`, `1Gi`, `2e3`.
//!
//! Input: the text of a quantity field. Output: an exact number with its unit family, its canonical
//! text, and arithmetic. Grammar, rounding and caps are those of
//! `k8s.io/apimachinery/pkg/api/resource`: nothing finer than nano is kept (rounded away from zero),
//! and a binary quantity is at most 2^63-1. Invariant: a value is a whole number of nanos in an
//! `i128`; decimal numbers beyond that range saturate (the real type is unbounded there).

use std::cmp::Ordering;
use std::fmt;

/// Nanos of one unit.
const NANO: i128 = 1_000_000_000;
/// Largest binary quantity: 2^63-1 units.
const BINARY_NANOS_MAX: i128 = i64::MAX as i128 * NANO;
/// Largest decimal quantity: 10^28 units, where an `i128` of nanos still adds up without overflow.
const NANOS_MAX: i128 = 10_i128.pow(37);
/// Digits of a number that are kept exactly; an `i128` holds no more.
const DIGITS_MAX: usize = 38;
/// Binary suffixes from 1024^1 on.
const BINARY_SUFFIXES: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// Decimal suffixes and their power of ten.
const DECIMAL_SUFFIXES: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];

/// The family of suffixes that a quantity was written in; its text keeps to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `1500`, `1500m`, `2M`.
    DecimalSi,
    /// `1Ki`, `12Mi`.
    BinarySi,
    /// `12e6`.
    DecimalExponent,
}

/// Why a text is no quantity, in the words of apimachinery.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the grammar at all.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// A suffix that is none.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// A number that is none.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
}

/// An exact amount of something.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

impl Quantity {
    /// Zero, printed as `0`.
    pub const ZERO: Self = Self { nanos: 0, format: Format::DecimalSi };

    /// Whole units, for example bytes.
    pub fn from_units(units: i64, format: Format) -> Self {
        Self { nanos: i128::from(units) * NANO, format }
    }

    /// Thousandths, for example of a processor.
    pub fn from_millis(millis: i64) -> Self {
        Self { nanos: i128::from(millis) * (NANO / 1_000), format: Format::DecimalSi }
    }

    /// Reads the text of a quantity.
    ///
    /// # Errors
    /// The text is no quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let parts = Parts::split(text)?;
        let (format, power) = suffix(parts.suffix)?;
        let nanos = match format {
            Format::BinarySi => binary_nanos(parts.whole, parts.fraction, power as u32),
            _ => decimal_nanos(parts.whole, parts.fraction, power),
        };
        let format = match format {
            Format::BinarySi if nanos > 0 && nanos < NANO => Format::DecimalSi,
            other => other,
        };
        Ok(Self { nanos: if parts.negative { -nanos } else { nanos }, format })
    }

    /// The text that the API server gives back for `text` outside resource lists: canonical, except
    /// where apimachinery reuses a text that looks canonical.
    ///
    /// # Errors
    /// The text is no quantity.
    pub fn canonical(text: &str) -> Result<String, QuantityError> {
        let text = text.trim();
        let quantity = Self::parse(text)?;
        Ok(if reuses_text(text) { text.to_owned() } else { quantity.to_string() })
    }

    /// The text that the API server gives back for `text` in a resource list: rounded up to
    /// thousandths, canonical, except where apimachinery reuses a text that looks canonical.
    ///
    /// # Errors
    /// The text is no quantity.
    pub fn served(text: &str) -> Result<String, QuantityError> {
        let text = text.trim();
        let quantity = Self::parse(text)?;
        let rounded = quantity.rounded_to_milli();
        if rounded.nanos == quantity.nanos && reuses_text(text) {
            return Ok(text.to_owned());
        }
        Ok(rounded.to_string())
    }

    /// This quantity rounded away from zero to thousandths, as every resource list is.
    pub fn rounded_to_milli(self) -> Self {
        let unit = NANO / 1_000;
        let nanos = div_away(self.nanos, unit).saturating_mul(unit);
        Self { nanos, ..self }
    }

    /// Whole units, rounded away from zero, saturating.
    pub fn value(self) -> i64 {
        saturate(div_away(self.nanos, NANO))
    }

    /// Thousandths, rounded away from zero, saturating.
    pub fn milli_value(self) -> i64 {
        saturate(div_away(self.nanos, NANO / 1_000))
    }

    /// Whether the value is a whole number of units.
    pub fn is_whole(self) -> bool {
        self.nanos % NANO == 0
    }

    /// Whether the value is 0.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Whether the value is below 0.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The suffix family in which the quantity prints.
    pub fn format(self) -> Format {
        self.format
    }

    /// The sum, saturating; a zero takes the family of the other side.
    pub fn plus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// The difference, saturating; a zero takes the family of the other side.
    pub fn minus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_sub(other.nanos), format }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl fmt::Display for Quantity {
    /// The canonical text: no fraction, the largest suffix of the family that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1_024 * NANO;
        if self.format == Format::BinarySi && !small && self.is_whole() {
            return fmt_binary(self.nanos / NANO, f);
        }
        fmt_decimal(self.nanos, self.format == Format::DecimalExponent, f)
    }
}

/// A quantity's text taken apart.
struct Parts<'a> {
    negative: bool,
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            None => return Err(QuantityError::Format),
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
        };
        let (whole, rest) = split_digits(rest);
        let (fraction, rest, dotted) = match rest.strip_prefix('.') {
            Some(after) => {
                let (fraction, rest) = split_digits(after);
                (fraction, rest, true)
            }
            None => ("", rest, false),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(if dotted { QuantityError::Numeric } else { QuantityError::Format });
        }
        let letters = rest.bytes().take_while(|b| b"eEinumkKMGTP".contains(b)).count();
        let tail = &rest[letters..];
        let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
        if !tail.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        Ok(Self { negative, whole: whole.trim_start_matches('0'), fraction, suffix: rest })
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().take_while(u8::is_ascii_digit).count())
}

/// The family and the power (of 10, or of 2 in the binary family) that a suffix stands for.
fn suffix(text: &str) -> Result<(Format, i32), QuantityError> {
    if let Some(&(_, power)) = DECIMAL_SUFFIXES.iter().find(|(name, _)| *name == text) {
        return Ok((Format::DecimalSi, power));
    }
    if let Some(at) = BINARY_SUFFIXES.iter().position(|name| *name == text) {
        return Ok((Format::BinarySi, (at as i32 + 1) * 10));
    }
    let exponent = text.strip_prefix(['e', 'E']).ok_or(QuantityError::Suffix)?;
    let power: i64 = exponent.parse().map_err(|_| QuantityError::Suffix)?;
    Ok((Format::DecimalExponent, power.clamp(-10_000, 10_000) as i32))
}

/// `whole.fraction * 10^power` in nanos, rounded up.
fn decimal_nanos(whole: &str, fraction: &str, power: i32) -> i128 {
    let digits: String =
        whole.bytes().chain(fraction.bytes()).map(char::from).skip_while(|c| *c == '0').collect();
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return 0;
    }
    let dropped = digits.len() - significant.len();
    let exponent = power as i64 + 9 - fraction.len() as i64 + dropped as i64;
    let kept = &significant[..significant.len().min(DIGITS_MAX)];
    let exponent = exponent + (significant.len() - kept.len()) as i64;
    let sticky = kept.len() < significant.len();
    let Ok(mut number) = kept.parse::<i128>() else { return NANOS_MAX };
    if exponent >= 0 {
        for _ in 0..exponent.min(64) {
            number = number.saturating_mul(10);
        }
        return number.saturating_add(i128::from(sticky)).min(NANOS_MAX);
    }
    let mut lost = sticky;
    for _ in 0..(-exponent).min(64) {
        lost |= number % 10 != 0;
        number /= 10;
    }
    (number + i128::from(lost)).min(NANOS_MAX)
}

/// `whole.fraction * 2^power` in nanos, rounded up and capped.
fn binary_nanos(whole: &str, fraction: &str, power: u32) -> i128 {
    const FRACTION_DIGITS: usize = 18;
    let units = if whole.len() > 19 { i128::MAX } else { whole.parse().unwrap_or(0) };
    let kept = &fraction[..fraction.len().min(FRACTION_DIGITS)];
    let padded = format!("{kept:0<FRACTION_DIGITS$}");
    // Below 10^18 * 2^60, which fits an i128.
    let parts = padded.parse::<i128>().unwrap_or(0) << power;
    let sticky = fraction[kept.len()..].bytes().any(|b| b != b'0');
    let fraction_nanos = div_away(parts, NANO) + i128::from(sticky);
    let whole_nanos = units.saturating_mul(1 << power).saturating_mul(NANO);
    whole_nanos.saturating_add(fraction_nanos).min(BINARY_NANOS_MAX)
}

/// Whether apimachinery keeps the text as written: its cheap test for "already canonical", which
/// also passes for a few texts that are not (`1.500`).
fn reuses_text(text: &str) -> bool {
    let Ok(parts) = Parts::split(text) else { return false };
    let Ok((format, power)) = suffix(parts.suffix) else { return false };
    let digits = format!("{}{}", parts.whole, parts.fraction);
    if digits.len() > 18 || digits.is_empty() {
        return false;
    }
    match format {
        Format::BinarySi => {
            let few = digits.len() as i32 + power * 3 / 10 < 15;
            let odd = digits.parse::<u64>().is_ok_and(|value| value & 7 != 0);
            parts.fraction.is_empty() && few && odd
        }
        _ => {
            let scale = power - parts.fraction.len() as i32;
            scale >= -9 && scale % 3 == 0 && !digits.ends_with("000") && !digits.starts_with('0')
        }
    }
}

fn fmt_binary(mut units: i128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut suffix = "";
    for name in BINARY_SUFFIXES {
        if units % 1_024 != 0 {
            break;
        }
        units /= 1_024;
        suffix = name;
    }
    write!(f, "{units}{suffix}")
}

fn fmt_decimal(nanos: i128, exponent_form: bool, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let (mut number, mut power) = (nanos, -9);
    while number % 1_000 == 0 && power < 18 {
        number /= 1_000;
        power += 3;
    }
    if exponent_form {
        return if power == 0 { write!(f, "{number}") } else { write!(f, "{number}e{power}") };
    }
    let name = DECIMAL_SUFFIXES.iter().find(|(_, p)| *p == power).map_or("", |(name, _)| name);
    write!(f, "{number}{name}")
}

/// Division rounding away from zero.
fn div_away(number: i128, by: i128) -> i128 {
    let quotient = number / by;
    if number % by == 0 { quotient } else { quotient + number.signum() }
}

fn saturate(number: i128) -> i64 {
    number.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_texts() {
        for (text, expected) in [
            ("0", "0"),
            ("0.0", "0"),
            ("-0", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("+1.5k", "1500"),
            ("1024Ki", "1Mi"),
            ("1024Mi", "1Gi"),
            ("1500Mi", "1500Mi"),
            ("1048576", "1048576"),
            ("1000000", "1M"),
            ("0.5Ki", "512"),
            ("1000Ki", "1000Ki"),
            ("1.5Gi", "1536Mi"),
            ("0.0000000001", "1n"),
            ("-0.0000000001", "-1n"),
            ("1.0000000001", "1000000001n"),
            ("100Ei", "9223372036854775807"),
            ("9223372036854775808", "9223372036854775808"),
            ("1e3", "1e3"),
            ("12E", "12E"),
            ("1E2", "100"),
            ("12e-3", "12e-3"),
            ("0.1Mi", "104857600m"),
            ("00010", "10"),
            ("-1.5Gi", "-1536Mi"),
            ("100n", "100n"),
            ("3000u", "3m"),
        ] {
            let quantity = Quantity::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(quantity.to_string(), expected, "{text}");
        }
    }

    #[test]
    fn refused_texts() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("1x", QuantityError::Format),
            ("1 ", QuantityError::Format),
            ("1KM", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1i", QuantityError::Suffix),
            ("１", QuantityError::Format),
        ] {
            assert_eq!(Quantity::parse(text).err(), Some(error), "{text}");
        }
    }

    #[test]
    fn served_texts_round_to_milli() {
        for (text, expected) in [
            ("1024Mi", "1Gi"),
            ("0.5", "500m"),
            ("1048576", "1048576"),
            ("0.0001", "1m"),
            ("1.500", "1.500"),
            ("1000", "1k"),
            (" 2 ", "2"),
            ("100000001n", "101m"),
        ] {
            assert_eq!(Quantity::served(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn arithmetic() {
        let parse = |text| Quantity::parse(text).expect("valid");
        assert_eq!(parse("1Gi").plus(parse("1Gi")).to_string(), "2Gi");
        assert_eq!(Quantity::ZERO.plus(parse("1Gi")).to_string(), "1Gi");
        assert_eq!(parse("1").minus(parse("250m")).to_string(), "750m");
        assert_eq!(parse("1001m").value(), 2);
        assert_eq!(parse("1.0001").milli_value(), 1001);
        assert_eq!(parse("-1001m").value(), -2);
        assert!(parse("1Gi") > parse("1G"));
        assert_eq!(parse("1Ki"), parse("1.024k"));
        assert_eq!(parse("1e40").value(), i64::MAX);
    }

    #[test]
    fn any_text_is_read_or_refused() {
        let alphabet = b"0123456789.+-eEinumkKMGTP ";
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..20_000 {
            let mut text = String::new();
            for _ in 0..seed % 48 {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                text.push(char::from(alphabet[seed as usize % alphabet.len()]));
            }
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let Ok(quantity) = Quantity::parse(&text) else { continue };
            let printed = quantity.to_string();
            let again = Quantity::parse(&printed).expect("canonical text is a quantity");
            assert_eq!(again.to_string(), printed, "{text}");
        }
    }
}
