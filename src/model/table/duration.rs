//! How old something is, in few characters.

use crate::timestamp::Timestamp;

/// A time span of `seconds` as `k8s.io/apimachinery/pkg/util/duration` prints it for people:
/// `45s`, `3m20s`, `5h12m`, `2d4h`, `40d`, `2y30d`.
pub fn human(seconds: i64) -> String {
    // Clocks of two boards differ by a moment: not yet reason to show nonsense.
    if seconds < -1 {
        return "<invalid>".into();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    let pair = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 192 => pair(days, "d", hours % 24, "h"),
        () if days < 730 => format!("{days}d"),
        () if days < 2_920 => pair(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

/// The age at `now` of something that began at `since` (RFC 3339); `<unknown>` without a time.
pub fn since(since: Option<&str>, now: Timestamp) -> String {
    let Some(began) = since.filter(|text| !text.is_empty()) else { return "<unknown>".into() };
    match Timestamp::parse(began) {
        Some(began) => human(now.0.saturating_sub(began.0) / 1_000_000),
        None => "<invalid>".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short() {
        for (seconds, expected) in [
            (-2, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (599, "9m59s"),
            (600, "10m"),
            (3_600, "60m"),
            (10_799, "179m"),
            (10_800, "3h"),
            (12_060, "3h21m"),
            (28_799, "7h59m"),
            (28_800, "8h"),
            (172_799, "47h"),
            (172_800, "2d"),
            (187_200, "2d4h"),
            (691_200, "8d"),
            (63_071_999, "729d"),
            (63_072_000, "2y"),
            (65_664_000, "2y30d"),
            (252_288_000, "8y"),
        ] {
            assert_eq!(human(seconds), expected, "{seconds}");
        }
    }

    #[test]
    fn ages_count_from_a_text() {
        let now = Timestamp::from_seconds(1_000_000_000);
        assert_eq!(since(Some("2001-09-09T01:46:10Z"), now), "30s");
        assert_eq!(since(None, now), "<unknown>");
        assert_eq!(since(Some(""), now), "<unknown>");
    }
}
