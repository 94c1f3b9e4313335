//! The service accounts' tokens that the pods of a board have: which to ask for, and when.
//!
//! ```text
//!  pod appears ─▶ wanted ──asked──▶ held ──80 % of its life, or a day──▶ asked again, held meanwhile
//!                   │  └─▶ refused, asked again later
//!                   └─ waited for WAIT_MILLIS before the pod's volumes are filled; without a master they
//!                      are filled without it, and the file follows
//! ```
//! Pure: cluster time decides when a token is to be renewed (a jump makes it due at once), the ticks of
//! the board when to ask again. Nothing is asked while no master is heard; what is held stays, however
//! old: an expired token is as good as none. Bounded by [`TOKENS_PER_BOARD_MAX`].

use std::collections::BTreeMap;

use model::ids::Uid;
use model::limits::{TOKEN_ASKS_MAX, TOKENS_PER_BOARD_MAX};
use model::timestamp::Timestamp;
use model::wire::{TokenAnswerV1, TokenV1, TokenWantV1};

use super::spec::{Pod, TokenFile};

/// How long volumes wait for a token.
pub const WAIT_MILLIS: u64 = 3_000;
/// First and longest wait before a token is asked for again.
const AGAIN_MILLIS: (u64, u64) = (2_000, 60_000);
/// A token that lives longer than this is renewed after it (kubelet's `maxTTL`).
const RENEW_MILLIS_MAX: i64 = 24 * 3_600_000;
/// What a token lives when its volume does not say (the API's default).
const SECONDS_DEFAULT: u64 = 3_600;

/// A token with the audience and the life, in seconds, that were asked for.
pub type TokenText = (String, u64, String);

/// What is known of one token.
#[derive(Clone, Debug, Default)]
struct Entry {
    token: Option<TokenV1>,
    refused: Option<String>,
    asked_ticks: Option<u64>,
    /// Wait after the last time that it was asked for.
    again_millis: u64,
    /// What is held is good no more, whatever its dates say.
    is_void: bool,
}

/// Whether the volumes of a pod can be filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outlook {
    /// All its tokens are held, or it has none.
    Ready,
    /// They are expected: not yet.
    Wait,
    /// No master is there to ask: the pod starts without.
    Without,
    /// There are none, and why.
    Refused(String),
}

/// The tokens of a board.
#[derive(Debug, Default)]
pub struct TokenBook {
    entries: BTreeMap<TokenWantV1, Entry>,
    /// Pods whose volumes wait, and since when.
    waiting: BTreeMap<Uid, u64>,
}

/// The tokens that the volumes of a pod ask for.
pub fn wants(pod: &Pod) -> impl Iterator<Item = TokenWantV1> {
    let projected = pod.spec.volumes.iter().filter_map(|volume| volume.projected.as_ref());
    let sources = projected.flat_map(|projected| &projected.sources);
    sources.filter_map(|source| source.service_account_token.as_ref()).map(|file| TokenWantV1 {
        pod: pod.uid(),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        audience: file.audience.clone(),
        seconds: life_seconds(file),
    })
}

/// How long the token of a file is to live.
pub fn life_seconds(file: &TokenFile) -> u64 {
    file.expiration_seconds.unwrap_or(SECONDS_DEFAULT)
}

impl TokenBook {
    /// A pod is there whose tokens are to be had.
    pub fn follow(&mut self, pod: &Pod) {
        for want in wants(pod) {
            if self.entries.len() >= TOKENS_PER_BOARD_MAX {
                return;
            }
            self.entries.entry(want).or_default();
        }
    }

    /// A token that was found where an earlier agent had put it.
    pub fn adopt(&mut self, want: TokenWantV1, token: TokenV1) {
        if let Some(entry) = self.entries.get_mut(&want) {
            entry.token = Some(token);
        }
    }

    /// What is held is good no more: the key that signed it counts no longer. It stays until another comes.
    pub fn renew(&mut self) {
        for entry in self.entries.values_mut() {
            (entry.is_void, entry.asked_ticks, entry.again_millis) = (true, None, 0);
        }
    }

    /// The pod needs none any more.
    pub fn forget(&mut self, pod: Uid) {
        self.waiting.remove(&pod);
        self.entries.retain(|want, _| want.pod != pod);
    }

    /// Takes an answer over; `true` when there is a token that the pod has not had.
    pub fn take(&mut self, answer: TokenAnswerV1) -> bool {
        let TokenAnswerV1 { want, token } = answer;
        let Some(entry) = self.entries.get_mut(&want) else { return false };
        match token {
            Ok(token) => {
                let is_new = entry.token.as_ref() != Some(&token);
                *entry = Entry { token: Some(token), ..Entry::default() };
                is_new
            }
            Err(why) => {
                entry.refused = Some(why);
                false
            }
        }
    }

    /// A pod's tokens.
    pub fn texts(&self, pod: Uid) -> Vec<TokenText> {
        let held = self.of(pod).filter_map(|(want, entry)| Some((want, entry.token.as_ref()?)));
        held.map(|(want, token)| (want.audience.clone(), want.seconds, token.text.clone()))
            .collect()
    }

    /// Whether the pod's volumes can be filled; remembers since when they wait.
    pub fn outlook(&mut self, pod: &Pod, is_led: bool, ticks: u64) -> Outlook {
        let uid = pod.uid();
        let missing = |want: &TokenWantV1| match self.entries.get(want) {
            Some(entry) if entry.token.is_some() => None,
            Some(entry) => Some(entry.refused.clone()),
            None => Some(Some("too many tokens on this board".to_owned())),
        };
        let lacking: Vec<Option<String>> = wants(pod).filter_map(|want| missing(&want)).collect();
        let outlook = match lacking.into_iter().reduce(Option::or) {
            None => Outlook::Ready,
            Some(Some(why)) => Outlook::Refused(why),
            Some(None) => {
                let since = *self.waiting.entry(uid).or_insert(ticks);
                match (ticks < since + WAIT_MILLIS, is_led) {
                    (true, _) => return Outlook::Wait,
                    (false, false) => Outlook::Without,
                    (false, true) => Outlook::Refused("the master has not answered yet".to_owned()),
                }
            }
        };
        self.waiting.remove(&uid);
        outlook
    }

    /// Pods whose volumes wait.
    pub fn waiting(&self) -> Vec<Uid> {
        self.waiting.keys().copied().collect()
    }

    /// The tokens to ask for now, which count as asked for.
    pub fn due(&mut self, is_led: bool, now: Timestamp, ticks: u64) -> Vec<TokenWantV1> {
        let mut due = Vec::new();
        for (want, entry) in self.entries.iter_mut().filter(|_| is_led) {
            if due.len() < TOKEN_ASKS_MAX && entry.due_ticks(want, now, ticks) <= ticks {
                entry.asked_ticks = Some(ticks);
                entry.again_millis = (entry.again_millis * 2).clamp(AGAIN_MILLIS.0, AGAIN_MILLIS.1);
                due.push(want.clone());
            }
        }
        due
    }

    /// They were not sent: they are to be asked for again soon.
    pub fn not_sent(&mut self, wants: &[TokenWantV1], ticks: u64) {
        for want in wants {
            if let Some(entry) = self.entries.get_mut(want) {
                (entry.asked_ticks, entry.again_millis) = (Some(ticks), AGAIN_MILLIS.0);
            }
        }
    }

    /// When something is to be done.
    pub fn wake_ticks(&self, is_led: bool, now: Timestamp, ticks: u64) -> Option<u64> {
        let entries = self.entries.iter().filter(|_| is_led);
        let due = entries.map(|(want, entry)| entry.due_ticks(want, now, ticks));
        due.chain(self.waiting.values().map(|since| since + WAIT_MILLIS)).min()
    }

    fn of(&self, pod: Uid) -> impl Iterator<Item = (&TokenWantV1, &Entry)> {
        self.entries.iter().filter(move |(want, _)| want.pod == pod)
    }
}

impl Entry {
    /// When it is to be asked for.
    fn due_ticks(&self, want: &TokenWantV1, now: Timestamp, ticks: u64) -> u64 {
        let good = self.token.as_ref().filter(|_| !self.is_void);
        let renewal = good.map_or(0, |token| {
            let left = renew_at(want.pod, token).millis() - now.millis();
            ticks.saturating_add_signed(left.max(0))
        });
        renewal.max(self.asked_ticks.map_or(0, |at| at + self.again_millis))
    }
}

/// When a token is to be renewed: after four fifths of its life, and up to a twentieth earlier, so that
/// pods that were made together do not ask together.
fn renew_at(pod: Uid, token: &TokenV1) -> Timestamp {
    let life = (token.expires.millis() - token.issued.millis()).max(0);
    let earlier = life / 20 * i64::from(pod.0[0]) / 256;
    token.issued.plus_millis((life / 5 * 4).min(RENEW_MILLIS_MAX) - earlier)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

    fn pod() -> Pod {
        let json = r#"{"metadata":{"name":"p","namespace":"n",
            "uid":"00000000-0000-4000-8000-000000000001"},"spec":{"containers":[],"volumes":[
            {"name":"v","projected":{"sources":[{"serviceAccountToken":{"path":"token",
            "expirationSeconds":1000}},{"serviceAccountToken":{"path":"vault","audience":"vault"}}]}}]}}"#;
        Pod::parse(json.as_bytes()).expect("a pod")
    }

    fn answer(want: &TokenWantV1, issued: Timestamp, text: &str) -> TokenAnswerV1 {
        let expires = issued.plus_millis(want.seconds as i64 * 1_000);
        let token = TokenV1 { text: text.to_owned(), issued, expires };
        TokenAnswerV1 { want: want.clone(), token: Ok(token) }
    }

    fn followed() -> (TokenBook, Pod) {
        let (mut book, pod) = (TokenBook::default(), pod());
        book.follow(&pod);
        (book, pod)
    }

    fn at(seconds: i64) -> Timestamp {
        NOW.plus_millis(seconds * 1_000)
    }

    #[test]
    fn tokens_are_asked_for_once_and_again_when_nobody_answers() {
        let (mut book, pod) = followed();
        assert_eq!(book.due(false, NOW, 0), [], "nobody is there to ask");
        let wants = book.due(true, NOW, 0);
        let lives: Vec<u64> = wants.iter().map(|want| want.seconds).collect();
        assert_eq!(lives, [1000, 3600]);
        assert_eq!(book.due(true, NOW, 1_999), []);
        assert!(book.take(answer(&wants[0], NOW, "a")));
        assert!(!book.take(answer(&wants[0], NOW, "a")), "the same again");
        assert_eq!(book.due(true, NOW, 2_000), wants[1..]);
        assert_eq!(book.due(true, NOW, 5_999), [], "each wait is twice as long");
        assert_eq!(book.wake_ticks(true, NOW, 2_000), Some(6_000));
        assert!(book.take(answer(&wants[1], NOW, "b")));
        let texts: Vec<String> = book.texts(pod.uid()).into_iter().map(|it| it.2).collect();
        assert_eq!(texts, ["a", "b"]);
        book.forget(pod.uid());
        assert_eq!((book.texts(pod.uid()).len(), book.wake_ticks(true, NOW, 0)), (0, None));
    }

    #[test]
    fn a_token_is_renewed_before_it_expires_and_when_time_jumps() {
        let (mut book, pod) = followed();
        let wants = book.due(true, NOW, 0);
        for want in &wants {
            book.take(answer(want, NOW, "a"));
        }
        // Its uid begins with a zero: nothing earlier than four fifths.
        assert_eq!(book.due(true, at(799), 0), []);
        assert_eq!(book.wake_ticks(true, at(799), 5), Some(1_005));
        assert_eq!(book.due(true, at(800), 0), wants[..1]);
        assert_eq!(book.due(true, at(86_400), 1), wants[1..], "a jump makes the other due as well");
        assert_eq!(book.texts(pod.uid()).len(), 2, "held meanwhile");
        assert_eq!(book.wake_ticks(false, at(86_400), 1), None, "nobody is there to ask");
        book.take(answer(&wants[0], at(86_400), "b"));
        assert_eq!(book.texts(pod.uid())[0].2, "b");
        let long = TokenV1 { text: String::new(), issued: NOW, expires: at(10 * 86_400) };
        assert_eq!(renew_at(pod.uid(), &long), at(86_400));
        assert!(renew_at(Uid([255; 16]), &long) >= at(86_400 / 2 - 1));
    }

    #[test]
    fn volumes_wait_a_little_and_go_on_without_a_master() {
        let (mut book, pod) = followed();
        assert_eq!(book.outlook(&pod, false, 100), Outlook::Wait);
        assert_eq!(book.waiting(), [pod.uid()]);
        assert_eq!(book.wake_ticks(false, NOW, 100), Some(100 + WAIT_MILLIS));
        assert_eq!(book.outlook(&pod, false, 100 + WAIT_MILLIS), Outlook::Without);
        assert_eq!(book.waiting(), []);
        assert_eq!(book.outlook(&pod, true, 9_000), Outlook::Wait);
        let late = book.outlook(&pod, true, 9_000 + WAIT_MILLIS);
        assert!(matches!(late, Outlook::Refused(_)), "a master that is there has to answer");
        let wants = book.due(true, NOW, 0);
        book.take(TokenAnswerV1 { want: wants[0].clone(), token: Err("no account".into()) });
        assert_eq!(book.outlook(&pod, true, 0), Outlook::Refused("no account".into()));
        for want in &wants {
            book.take(answer(want, NOW, "a"));
        }
        assert_eq!(book.outlook(&pod, true, 0), Outlook::Ready);
    }

    #[test]
    fn a_board_holds_so_many_and_no_more() {
        let mut book = TokenBook::default();
        let numbered = |number: usize| {
            let mut pod = pod();
            pod.metadata.uid = format!("00000000-0000-4000-8000-{number:012x}");
            pod
        };
        (0..TOKENS_PER_BOARD_MAX).for_each(|number| book.follow(&numbered(number)));
        assert_eq!(book.entries.len(), TOKENS_PER_BOARD_MAX);
        let last = numbered(TOKENS_PER_BOARD_MAX - 1);
        assert!(matches!(book.outlook(&last, true, 0), Outlook::Refused(_)));
        assert_eq!(book.due(true, NOW, 0).len(), TOKEN_ASKS_MAX, "the rest in the next message");
    }

    #[test]
    fn a_token_that_is_good_no_more_is_asked_for_at_once_and_stays_until_then() {
        let (pod, mut book) = (pod(), TokenBook::default());
        book.follow(&pod);
        for want in book.due(true, NOW, 0) {
            assert!(book.take(answer(&want, NOW, "old")));
        }
        assert_eq!(book.due(true, NOW, 10), []);
        book.renew();
        assert_eq!(book.wake_ticks(true, NOW, 10), Some(0));
        assert_eq!(book.texts(pod.uid()).len(), 2, "nothing better is there yet");
        let due = book.due(true, NOW, 10);
        assert_eq!(due.len(), 2);
        assert_eq!(book.due(true, NOW, 11), [], "asked for already");
        for want in due {
            assert!(book.take(answer(&want, NOW, "new")));
        }
        assert_eq!(book.due(true, NOW, 100_000), []);
    }
}
