//! Times in bodies: which texts Go's `time.Parse(time.RFC3339, ...)` refuses, and its words.

/// Why Go refuses `text` under `layout`; `None` when it reads it.
pub(super) fn refusal(text: &str, layout: &str) -> Option<String> {
    let cannot = |rest: &str, wanted: &str| {
        format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {wanted:?}")
    };
    let out_of_range = |what: &str| format!("parsing time {text:?}: {what} out of range");
    let mut rest = text;
    let mut numbers = [0u32; 6];
    // Each number as the layout writes it, what follows it, its range and its name in errors.
    let parts: [(&str, &str, u32, u32, &str); 6] = [
        ("2006", "-", 0, 9999, "year"),
        ("01", "-", 1, 12, "month"),
        ("02", "T", 1, 31, "day"),
        ("15", ":", 0, 23, "hour"),
        ("04", ":", 0, 59, "minute"),
        ("05", "", 0, 59, "second"),
    ];
    for (number, (wanted, then, low, high, name)) in numbers.iter_mut().zip(parts) {
        let digits = rest.get(..wanted.len()).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        let Some(value) = digits.and_then(|digits| digits.parse().ok()) else {
            return Some(cannot(rest, wanted));
        };
        if name != "day" && !(low..=high).contains(&value) {
            return Some(out_of_range(name));
        }
        *number = value;
        rest = &rest[wanted.len()..];
        match rest.strip_prefix(then) {
            Some(after) => rest = after,
            None => return Some(cannot(rest, then)),
        }
    }
    if let Some(fraction) = rest.strip_prefix(['.', ',']) {
        let after = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
        if after.len() < fraction.len() {
            rest = after;
        }
    }
    match zone_bytes(rest) {
        Some(zone) if zone == rest.len() => {}
        Some(zone) => {
            return Some(format!("parsing time {text:?}: extra text: {:?}", &rest[zone..]));
        }
        None => return Some(cannot(rest, "Z07:00")),
    }
    let [year, month, day, ..] = numbers;
    let fits = day >= 1 && day <= days_in_month(year, month);
    (!fits).then(|| out_of_range("day"))
}

/// Length of `Z` or `+07:00` at the start of `rest`.
fn zone_bytes(rest: &str) -> Option<usize> {
    if rest.starts_with('Z') {
        return Some(1);
    }
    let zone = rest.as_bytes().get(..6)?;
    let digit = |at: usize| zone[at].is_ascii_digit();
    let shaped =
        matches!(zone[0], b'+' | b'-') && zone[3] == b':' && [1, 2, 4, 5].into_iter().all(digit);
    shaped.then_some(6)
}

fn days_in_month(year: u32, month: u32) -> u32 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::Timestamp;

    const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";

    #[test]
    fn refusals_have_go_words() {
        let cannot = |text: &str, rest: &str, wanted: &str| {
            let said =
                format!("parsing time {text:?} as {LAYOUT:?}: cannot parse {rest:?} as {wanted:?}");
            assert_eq!(refusal(text, LAYOUT), Some(said));
        };
        cannot("x", "x", "2006");
        cannot("", "", "2006");
        cannot("2026-11-22", "", "T");
        cannot("2026-11-22 10:00:00Z", " 10:00:00Z", "T");
        cannot("2026-1-22T10:00:00Z", "1-22T10:00:00Z", "01");
        cannot("2026-11-22T10:00:00", "", "Z07:00");
        cannot("2026-11-22T10:00:00.Z", ".Z", "Z07:00");
        for (text, what) in [
            ("2026-13-01T00:00:00Z", "month"),
            ("2026-02-29T00:00:00Z", "day"),
            ("2026-01-01T24:00:00Z", "hour"),
            ("2026-01-01T00:60:00Z", "minute"),
            ("2026-01-01T00:00:60Z", "second"),
        ] {
            let said = format!("parsing time {text:?}: {what} out of range");
            assert_eq!(refusal(text, LAYOUT), Some(said));
        }
        let said = "parsing time \"2026-01-01T00:00:00Zx\": extra text: \"x\"";
        assert_eq!(refusal("2026-01-01T00:00:00Zx", LAYOUT).as_deref(), Some(said));
    }

    #[test]
    fn what_go_reads_we_read() {
        for text in [
            "2026-11-22T07:16:17Z",
            "2024-02-29T23:59:59.123456789Z",
            "2026-11-22T08:16:17+01:00",
            "0001-01-01T00:00:00Z",
            "2026-11-22T07:16:17,5-07:30",
        ] {
            assert_eq!(refusal(text, LAYOUT), None);
        }
        assert!(Timestamp::parse("2026-11-22T08:16:17.5+01:00").is_some());
    }
}
