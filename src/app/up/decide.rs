//! What `kumquat up` does at a start: come back, join, or found a cluster.
//!
//! ```text
//!  identity on disk ───────────────▶ come back as what it is
//!  none, --token kq1... ───────────▶ join, and nothing else
//!  none, --token kq0... ───────────▶ join; with --expect N found with the others, if there is none
//!  none, --join ───────────────────▶ wait at a cluster until a person approves
//!  none, --role worker or --peers ─▶ refuse: a token is needed
//!  none ─▶ listen ─ hears a cluster▶ refuse: a token is needed
//!                 └ hears nothing ─▶ found
//! ```

use anyhow::{Context, Result, bail};
use model::leader::SignedRecord;
use model::token::{AnyToken, BootstrapToken, Token};

use crate::app::cli::Role as Wanted;
use crate::app::config::Config;
use crate::app::identity::{Identity, Role};

/// The first decision.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// As this board.
    ComeBack(Identity),
    /// With this token.
    Join(Token),
    /// With the others that have this token.
    Gather(BootstrapToken),
    /// At a cluster, for a person's word.
    Wait,
    /// Unless a cluster is heard.
    Found,
}

/// Decides from what lies on the disk and what the user says.
///
/// # Errors
/// What cannot be, with what to do instead.
pub(super) fn start(identity: Option<Identity>, config: &Config) -> Result<Start> {
    match (identity, &config.token) {
        (Some(identity), token) => {
            // The founder comes back with the command line that all of them had.
            let for_one = token.as_deref().is_some_and(|token| !is_bootstrap(token));
            check_known(&identity, for_one, config.role)?;
            Ok(Start::ComeBack(identity))
        }
        (None, Some(_)) if config.join => bail!(
            "--join is for a board without a token, which a person lets in: leave --join or --token \
             away"
        ),
        (None, Some(token)) => with_token(token, config),
        (None, None) if config.expect.is_some_and(|boards| boards > 1) => bail!(
            "--expect needs a token that all these boards have: make one with `kumquat token create \
             --bootstrap`, then start each with `kumquat up --token kq0... --expect N`"
        ),
        (None, None) if config.join => Ok(Start::Wait),
        (None, None) if config.role == Wanted::Worker => bail!(
            "a worker needs a cluster to join: run `kumquat token create` on the master board, then \
             `kumquat up --role worker --token TOKEN` here; or `kumquat up --role worker --join`, and \
             let it in there with `kumquat board approve`"
        ),
        (None, None) if !config.peers.is_empty() => bail!(
            "--peers is for joining a cluster, which needs its token: run `kumquat token create` on \
             the master board, then `kumquat up --peers ... --token TOKEN` here; leave --peers away \
             to found a cluster"
        ),
        (None, None) => Ok(Start::Found),
    }
}

fn with_token(text: &str, config: &Config) -> Result<Start> {
    let token: AnyToken = text.parse().context(
        "--token: copy the whole line that `kumquat token create` prints on the master board",
    )?;
    match token {
        AnyToken::Cluster(_) if config.expect.is_some_and(|boards| boards > 1) => bail!(
            "--expect is for boards that found a cluster with a token kq0..., and this token is of a \
             cluster that there is: leave --expect away"
        ),
        AnyToken::Cluster(token) => Ok(Start::Join(token)),
        AnyToken::Bootstrap(_) if config.role == Wanted::Worker && config.expect.is_some() => {
            bail!(
                "a worker founds no cluster: leave --expect away to join the one that others found"
            )
        }
        AnyToken::Bootstrap(token) => Ok(Start::Gather(token)),
    }
}

fn is_bootstrap(text: &str) -> bool {
    matches!(text.parse(), Ok(AnyToken::Bootstrap(_)))
}

/// A token is for the first start; a member that has it in its start script comes back all the same.
fn check_known(identity: &Identity, has_token: bool, wanted: Wanted) -> Result<()> {
    let cluster = &identity.cluster;
    match (identity.role, wanted) {
        (Role::Founder, _) if has_token => bail!(
            "this board has founded cluster {cluster} and leads it: leave --token away; to join \
             another cluster, use an empty --data-dir"
        ),
        (Role::Founder, Wanted::Worker) => bail!(
            "this board has founded cluster {cluster} and is its master: leave --role worker away; \
             to make it a worker of another cluster, use an empty --data-dir and a token"
        ),
        _ => Ok(()),
    }
}

/// Whether a board that has heard these may found a cluster.
///
/// # Errors
/// A cluster is there, and the user does not ask for another one.
pub(super) fn may_found(heard: &[SignedRecord], config: &Config) -> Result<()> {
    let ours = |record: &&SignedRecord| {
        config.cluster.as_ref().is_none_or(|cluster| *cluster == record.record().cluster)
    };
    let Some(record) = heard.iter().find(ours) else { return Ok(()) };
    let record = record.record();
    let cluster = &record.cluster;
    bail!(
        "cluster {cluster} is led by board {}: run `kumquat token create` there, then \
         `kumquat up --token TOKEN` here; to found a cluster of its own: `kumquat up --cluster \
         OTHERNAME`",
        record.name
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::cli::{Cli, Command};
    use crate::app::config::load;
    use clap::Parser;
    use model::leader::LeaderRecord;

    fn config(words: &[&str]) -> Config {
        let words = [&["kumquat", "up", "--config", "/dev/null", "--name", "a"], words].concat();
        let Command::Up(flags) = Cli::try_parse_from(words).expect("known flags").command else {
            unreachable!("`up` was parsed")
        };
        load(&flags).expect("a configuration")
    }

    fn identity(role: Role) -> Option<Identity> {
        let founder = Identity::found(&config(&[])).expect("founded");
        Some(Identity { role, ..founder })
    }

    fn tokens() -> (Token, BootstrapToken) {
        let (id, secret) = (model::token::TokenId([1; 5]), [2; 16]);
        (Token { id, secret, pin: [3; 32] }, BootstrapToken { id, secret })
    }

    #[test]
    fn a_first_start() {
        let check = |words: &[&str]| start(None, &config(words)).map_err(|e| e.to_string());
        assert_eq!(check(&[]), Ok(Start::Found));
        assert_eq!(check(&["--role", "master"]), Ok(Start::Found));
        let (one, first) = tokens();
        let (kq1, kq0) = (one.to_string(), first.to_string());
        let join = Ok(Start::Join(one));
        for words in [&[][..], &["--role", "worker", "--peers", "pi-1"], &["--role", "master"]] {
            assert_eq!(check(&[&["--token", &kq1], words].concat()), join, "{words:?}");
        }
        let gather = Ok(Start::Gather(first));
        for words in [&["--expect", "3"][..], &["--expect", "1", "--role", "master"], &[]] {
            assert_eq!(check(&[&["--token", &kq0], words].concat()), gather, "{words:?}");
        }
        for words in [&["--join"][..], &["--join", "--role", "worker", "--peers", "pi-1"]] {
            assert_eq!(check(words), Ok(Start::Wait), "{words:?}");
        }
        for (words, remedy) in [
            (&["--role", "worker"][..], "kumquat token create"),
            (&["--peers", "pi-1"], "kumquat token create"),
            (&["--token", "t"], "copy the whole line"),
            (&["--expect", "3"], "token create --bootstrap"),
            (&["--token", &kq1, "--expect", "3"], "leave --expect away"),
            (&["--token", &kq0, "--expect", "3", "--role", "worker"], "leave --expect away"),
            (&["--token", &kq1, "--join"], "leave --join or --token"),
        ] {
            let refusal = check(words).expect_err("refused");
            assert!(refusal.contains(remedy), "{words:?}: {refusal}");
        }
    }

    #[test]
    fn coming_back() {
        let check = |role: Role, words: &[&str]| {
            start(identity(role), &config(words)).map_err(|error| error.to_string())
        };
        for words in [&[][..], &["--token", "t"], &["--role", "worker", "--peers", "pi-1"]] {
            assert!(matches!(check(Role::Member, words), Ok(Start::ComeBack(_))), "{words:?}");
        }
        let (one, first) = tokens();
        let (kq1, kq0) = (one.to_string(), first.to_string());
        let first = ["--token", &kq0, "--expect", "3"];
        for words in [&[][..], &["--role", "master"], &["--peers", "pi-1"], &first] {
            assert!(matches!(check(Role::Founder, words), Ok(Start::ComeBack(_))), "{words:?}");
            assert!(matches!(check(Role::Member, words), Ok(Start::ComeBack(_))), "{words:?}");
        }
        for (role, words, remedy) in [
            (Role::Founder, ["--token", "t"], "leave --token away"),
            (Role::Founder, ["--token", &kq1], "leave --token away"),
            (Role::Founder, ["--role", "worker"], "empty --data-dir"),
        ] {
            let refusal = check(role, &words).expect_err("refused");
            assert!(refusal.contains(remedy), "{words:?}: {refusal}");
        }
    }

    #[test]
    fn founding_beside_another_cluster_needs_another_name() {
        let record = LeaderRecord {
            cluster: "lab".into(),
            epoch: 1,
            term: 1,
            name: "pi-1".into(),
            addresses: vec![std::net::Ipv4Addr::new(192, 0, 2, 1)],
            api_port: 6443,
            mqtt_port: 8883,
            peer_port: 7443,
            ca: [0; 16],
        };
        let heard = [SignedRecord::sign(record, |_| vec![1]).expect("valid")];
        may_found(&[], &config(&[])).expect("nobody is there");
        may_found(&heard, &config(&["--cluster", "other"])).expect("another name");
        for words in [&[][..], &["--cluster", "lab"]] {
            let refusal = may_found(&heard, &config(words)).expect_err("a cluster is there");
            let refusal = refusal.to_string();
            for word in ["cluster lab", "board pi-1", "token create", "--cluster OTHERNAME"] {
                assert!(refusal.contains(word), "{word}: {refusal}");
            }
        }
    }
}
