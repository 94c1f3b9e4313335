//! Topic names and filters: MQTT 3.1.1, section 4.7.

use crate::Limits;

/// Whether messages may be published to it.
pub(crate) fn is_name(topic: &str, limits: &Limits) -> bool {
    fits(topic, limits) && !topic.contains(['+', '#'])
}

/// Whether it may be subscribed to.
pub(crate) fn is_filter(filter: &str, limits: &Limits) -> bool {
    if !fits(filter, limits) {
        return false;
    }
    let mut levels = filter.split('/').peekable();
    while let Some(level) = levels.next() {
        let alone = level.len() == 1;
        let misplaced = level.contains('#') && !(alone && levels.peek().is_none());
        if misplaced || (level.contains('+') && !alone) {
            return false;
        }
    }
    true
}

fn fits(text: &str, limits: &Limits) -> bool {
    !text.is_empty()
        && text.len() <= limits.topic_bytes_max
        && !text.contains('\0')
        && text.split('/').count() <= limits.topic_levels_max
}

/// Whether a filter selects a topic. Wildcards at the first level do not select `$` topics.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        if wanted == "#" {
            return true;
        }
        match levels.next() {
            Some(level) if wanted == "+" || wanted == level => (),
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// The part of a filter before its first wildcard: what every topic that it selects starts with.
pub(crate) fn literal_start(filter: &str) -> &str {
    let end = filter.find(['+', '#']).unwrap_or(filter.len());
    // `a/#` also selects `a`.
    filter[..end].trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_select_as_the_standard_says() {
        // Examples of sections 4.7.1 and 4.7.2, then edges.
        let cases = [
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", true),
            ("sport/#", "sport", true),
            ("#", "sport/tennis", true),
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("#", "$SYS/a", false),
            ("+/monitor/clients", "$SYS/monitor/clients", false),
            ("$SYS/#", "$SYS/a", true),
            ("$SYS/monitor/+", "$SYS/monitor/clients", true),
            ("a/+/c", "a//c", true),
            ("a/#", "ab", false),
            ("a/#", "ab/c", false),
            ("a/$b/+", "a/$b/c", true),
            ("a/+", "a/$b", true),
            ("ä/+", "ä/ö", true),
            ("a", "A", false),
        ];
        for (filter, topic, expected) in cases {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
            assert!(!expected || topic.starts_with(literal_start(filter)), "{filter} {topic}");
        }
    }

    #[test]
    fn names_and_filters_are_judged() {
        let limits = Limits { topic_bytes_max: 20, topic_levels_max: 4, ..Limits::default() };
        for good in ["a", "/", "a//b", "$x/y", "ä b", "12345678901234567890", "1/2/3/4"] {
            assert!(is_name(good, &limits) && is_filter(good, &limits), "{good}");
        }
        for bad in ["", "a\0b", "123456789012345678901", "1/2/3/4/5"] {
            assert!(!is_name(bad, &limits) && !is_filter(bad, &limits), "{bad}");
        }
        for filter in ["#", "+", "a/#", "+/a/#", "/+", "+/+/#"] {
            assert!(!is_name(filter, &limits) && is_filter(filter, &limits), "{filter}");
        }
        for bad in ["a#", "#/a", "a/#/b", "a+", "+a", "a/b+/c", "##", "++", "a/##"] {
            assert!(!is_name(bad, &limits) && !is_filter(bad, &limits), "{bad}");
        }
    }
}
