//! Which board gets another binary next: workers, then masters that do not vote, voters, the leader.

use model::upgrade::{BoardBuildV1, OutcomeV1, UpgradeAskV1, UpgradeFileV1};

/// What a board is among the masters, in the order in which boards are exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It holds no log.
    Worker,
    /// It has no vote.
    Learner,
    /// It votes.
    Voter,
    /// It leads.
    Leader,
}

/// A board of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Board {
    /// Its name.
    pub name: String,
    /// What it is.
    pub standing: Standing,
    /// Whether it is ready, and not far behind if it holds the log.
    pub sound: bool,
}

/// What is to be done with a board.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict<'a> {
    /// It shall try this file.
    Try(&'a UpgradeFileV1),
    /// It tries this file at this moment.
    OnTrial(&'a UpgradeFileV1),
    /// It runs its file already.
    Runs,
    /// It is left as it is, because of this.
    LeaveOut(String),
    /// It went back: nobody else shall try that file.
    WentBack(&'a OutcomeV1),
}

/// Brings boards into the order in which they are exchanged.
pub fn order(boards: &mut [Board]) {
    boards.sort_by(|a, b| (a.standing, &a.name).cmp(&(b.standing, &b.name)));
}

/// What is to be done with a board that runs `build`.
pub fn judge<'a>(build: &'a BoardBuildV1, ask: &'a UpgradeAskV1) -> Verdict<'a> {
    let Some(file) = ask.files.iter().find(|file| file.arch == build.arch) else {
        return Verdict::LeaveOut(format!(
            "there is no file for its architecture ({})",
            build.arch
        ));
    };
    match &build.last {
        _ if build.on_trial && build.sha256 == file.sha256 => Verdict::OnTrial(file),
        _ if build.on_trial => Verdict::LeaveOut("another binary is on trial there".to_owned()),
        _ if build.sha256 == file.sha256 => Verdict::Runs,
        Some(last) if !last.kept && last.attempt == ask.attempt && last.sha256 == file.sha256 => {
            Verdict::WentBack(last)
        }
        _ => Verdict::Try(file),
    }
}

/// How a trial stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof<'a> {
    /// It is under way, or has not begun.
    Open,
    /// The board runs the file for good; so many milliseconds after the exchange, where it says so.
    Kept(Option<u64>),
    /// It went back.
    WentBack(&'a OutcomeV1),
}

/// How the trial of `file` stands on a board that runs `build`. Without `attempt` it is the trial of
/// whichever run of the command: the board was found in the middle of it.
pub fn proof<'a>(
    build: &'a BoardBuildV1,
    file: &UpgradeFileV1,
    attempt: Option<&str>,
) -> Proof<'a> {
    if build.on_trial {
        return Proof::Open;
    }
    let last = build.last.as_ref().filter(|last| last.sha256 == file.sha256);
    if build.sha256 == file.sha256 {
        return Proof::Kept(last.map(|last| last.millis));
    }
    let is_this = |last: &&OutcomeV1| attempt.is_none_or(|attempt| last.attempt == attempt);
    last.filter(|last| !last.kept).filter(is_this).map_or(Proof::Open, Proof::WentBack)
}

/// Why a board that runs version `own` does not try version `new`: what the newer one has written the
/// older one may not read, and it would then have nothing to go back to.
pub fn is_too_old(own: &str, new: &str) -> Option<String> {
    (numbers(new) < numbers(own)).then(|| {
        format!(
            "it is version {new}, older than {own} that runs here: what {own} has written it may not \
             read, so boards only go forward"
        )
    })
}

/// The numbers of a version; what comes behind them, as in `0.3.0-rc.1`, does not count.
fn numbers(version: &str) -> Vec<u64> {
    let plain = version.split(['-', '+']).next().unwrap_or_default();
    plain.split('.').map(|part| part.parse().unwrap_or(0)).collect()
}

/// Who keeps a board from being restarted: voters without which those that are left could not decide.
pub fn in_the_way<'a>(boards: &'a [Board], next: &Board) -> Vec<&'a str> {
    if next.standing < Standing::Voter {
        return Vec::new();
    }
    let others = boards.iter().filter(|it| it.standing >= Standing::Voter && it.name != next.name);
    let others: Vec<&Board> = others.collect();
    let sound = others.iter().filter(|it| it.sound).count();
    // The only voter takes everything with it whatever the others are.
    if others.is_empty() || sound * 2 > others.len() + 1 {
        return Vec::new();
    }
    others.into_iter().filter(|it| !it.sound).map(|it| it.name.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(name: &str, standing: Standing, sound: bool) -> Board {
        Board { name: name.to_owned(), standing, sound }
    }

    #[test]
    fn the_leader_comes_last() {
        use Standing::{Leader, Learner, Voter, Worker};
        let mut boards: Vec<Board> = [
            ("a", Leader),
            ("d", Voter),
            ("c", Worker),
            ("b", Voter),
            ("e", Learner),
            ("f", Worker),
        ]
        .map(|(name, standing)| board(name, standing, true))
        .into();
        order(&mut boards);
        let names: String = boards.iter().map(|board| board.name.as_str()).collect();
        assert_eq!(names, "cfebda");
    }

    #[test]
    fn a_voter_waits_for_those_who_decide_without_it() {
        use Standing::{Leader, Voter, Worker};
        let three = |sound| {
            vec![board("a", Leader, true), board("b", Voter, sound), board("c", Voter, true)]
        };
        assert!(in_the_way(&three(true), &board("c", Voter, true)).is_empty());
        assert_eq!(in_the_way(&three(false), &board("c", Voter, true)), ["b"]);
        assert!(in_the_way(&three(false), &board("d", Worker, true)).is_empty());
        // The one that is away may come back with the new binary.
        assert!(in_the_way(&three(false), &board("b", Voter, false)).is_empty());
        let alone = [board("a", Leader, true), board("b", Worker, false)];
        assert!(in_the_way(&alone, &alone[0]).is_empty());
        let five: Vec<_> =
            "abcde".chars().map(|c| board(&c.to_string(), Voter, c != 'b')).collect();
        assert!(in_the_way(&five, &five[3]).is_empty(), "three of five are enough");
    }

    #[test]
    fn a_board_is_judged_by_the_file_that_it_runs() {
        let file = |arch: &str| UpgradeFileV1 { sha256: "new".into(), arch: arch.into(), bytes: 1 };
        let ask = UpgradeAskV1 {
            attempt: "one".into(),
            files: vec![file("x86_64")],
            ..UpgradeAskV1::default()
        };
        let mut build =
            BoardBuildV1 { arch: "x86_64".into(), sha256: "old".into(), ..BoardBuildV1::default() };
        assert_eq!(judge(&build, &ask), Verdict::Try(&ask.files[0]));
        build.last = Some(OutcomeV1 {
            attempt: "one".into(),
            sha256: "new".into(),
            why: "it ended".into(),
            ..OutcomeV1::default()
        });
        assert!(matches!(judge(&build, &ask), Verdict::WentBack(last) if last.why == "it ended"));
        let again = UpgradeAskV1 { attempt: "two".into(), ..ask.clone() };
        assert_eq!(judge(&build, &again), Verdict::Try(&again.files[0]), "a person tries again");
        build.on_trial = true;
        assert!(matches!(judge(&build, &ask), Verdict::LeaveOut(_)));
        build.sha256 = "new".into();
        assert_eq!(judge(&build, &ask), Verdict::OnTrial(&ask.files[0]));
        build.on_trial = false;
        assert_eq!(judge(&build, &ask), Verdict::Runs);
        build.arch = "arm".into();
        assert!(matches!(judge(&build, &ask), Verdict::LeaveOut(_)));
    }

    #[test]
    fn a_trial_that_another_run_began_is_judged_by_its_file() {
        let file = UpgradeFileV1 { sha256: "new".into(), ..UpgradeFileV1::default() };
        let outcome = |attempt: &str, kept| OutcomeV1 {
            attempt: attempt.into(),
            sha256: "new".into(),
            kept,
            millis: 7,
            ..OutcomeV1::default()
        };
        let mut build =
            BoardBuildV1 { sha256: "new".into(), on_trial: true, ..BoardBuildV1::default() };
        assert_eq!(proof(&build, &file, None), Proof::Open);
        build.on_trial = false;
        build.last = Some(outcome("one", true));
        for attempt in [None, Some("one"), Some("two")] {
            assert_eq!(proof(&build, &file, attempt), Proof::Kept(Some(7)), "{attempt:?}");
        }
        build.sha256 = "old".into();
        let back = outcome("one", false);
        build.last = Some(back.clone());
        assert_eq!(proof(&build, &file, None), Proof::WentBack(&back));
        assert_eq!(proof(&build, &file, Some("one")), Proof::WentBack(&back));
        assert_eq!(proof(&build, &file, Some("two")), Proof::Open, "it has not been restarted yet");
        build.last = Some(OutcomeV1 { sha256: "other".into(), ..back });
        assert_eq!(proof(&build, &file, None), Proof::Open);
    }

    #[test]
    fn boards_only_go_forward() {
        for new in ["0.3.0", "0.3.1", "0.10.0", "1.0.0", "0.3.0-rc.1", "9.9.9"] {
            assert_eq!(is_too_old("0.3.0", new), None, "{new}");
        }
        for new in ["0.2.9", "0.2.0", "0.2.0+local", "no version"] {
            assert!(is_too_old("0.3.0", new).is_some(), "{new}");
        }
    }
}
