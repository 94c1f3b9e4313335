//! `kumquat token`: what a board needs to join.

use anyhow::{Context, Result, anyhow};
use http::Method;
use model::token::{AnyToken, BootstrapToken, TokenId, TokenRole};
use serde_json::Value;

use super::cli::{Output, Role, TokenCommand, TokenCreateArgs};
use super::client::Ending;
use super::dirs::Dirs;
use super::qr;
use crate::io::control::Client;

/// Runs the command.
pub(super) async fn run(dirs: &Dirs, command: &TokenCommand) -> Result<Ending> {
    let client = Client::new(&dirs.socket());
    match command {
        TokenCommand::Create(arguments) => create(&client, arguments).await?,
        TokenCommand::List(output) => {
            let tokens = client.get_json("/v1/tokens").await?;
            match output.output {
                Output::Json => say!("{tokens}"),
                Output::Text => super::say::raw(&table(&tokens)),
            }
        }
        TokenCommand::Revoke { id } => {
            let uri = format!("/v1/tokens?id={id}");
            client.ask(Method::DELETE, &uri).await?;
        }
    }
    Ok(Ending::Done)
}

/// Prints the token alone, so that a script can take it.
async fn create(client: &Client, arguments: &TokenCreateArgs) -> Result<()> {
    let token = match arguments.bootstrap {
        true => bootstrap()?.to_string(),
        false => ordinary(client, arguments).await?,
    };
    say!("{token}");
    if arguments.qr {
        // Readers of such codes give back the capitals; a token is read in either case.
        eprint!("{}", qr::text(&token.to_uppercase()).context("no QR code of the token")?);
    }
    Ok(())
}

/// A token that belongs to no cluster yet: whoever founds one with it makes it one of that cluster's.
fn bootstrap() -> Result<BootstrapToken> {
    let mut token = BootstrapToken { id: TokenId([0; 5]), secret: [0; 16] };
    let fill = |bytes: &mut [u8]| {
        getrandom::fill(bytes).map_err(|error| anyhow!("the system gives no randomness: {error}"))
    };
    fill(&mut token.id.0)?;
    fill(&mut token.secret)?;
    Ok(token)
}

async fn ordinary(client: &Client, arguments: &TokenCreateArgs) -> Result<String> {
    let role = match arguments.role {
        Role::Worker => TokenRole::Worker,
        Role::Auto => TokenRole::Auto,
        Role::Master => TokenRole::Master,
    };
    // A part of a second counts as a whole one: zero means for ever.
    let seconds = arguments.ttl.as_millis().div_ceil(1000);
    let uri = format!("/v1/tokens?uses={}&ttl={seconds}&role={role}", arguments.uses);
    let made: Value = serde_json::from_slice(&client.ask(Method::POST, &uri).await?)?;
    Ok(made["token"].as_str().context("the board gave no token")?.to_owned())
}

/// An id, or the id in a whole token.
pub(super) fn id(text: &str) -> Result<TokenId, model::token::BadToken> {
    match text.parse::<AnyToken>() {
        Ok(token) => Ok(token.id()),
        Err(_) => text.parse(),
    }
}

fn table(tokens: &Value) -> String {
    let mut out =
        format!("{:<10} {:<8} {:>9}  {:<22} {}\n", "ID", "ROLE", "USES LEFT", "EXPIRES", "USED BY");
    for token in tokens.as_array().into_iter().flatten() {
        let text = |field: &str| token[field].as_str().unwrap_or("-");
        let expires = match (token["expired"].as_bool(), token["expires"].as_str()) {
            (Some(true), _) => "expired",
            (_, Some(when)) => when,
            (_, None) => "never",
        };
        let used_by: Vec<&str> = token["usedBy"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|board| board["name"].as_str())
            .collect();
        let used_by = if used_by.is_empty() { "-".to_owned() } else { used_by.join(", ") };
        out += &format!(
            "{:<10} {:<8} {:>9}  {:<22} {}\n",
            text("id"),
            text("role"),
            token["usesLeft"].as_u64().unwrap_or(0),
            expires,
            used_by,
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tokens_are_shown_without_their_secret() {
        let tokens = json!([
            { "id": "aaaaaaaa", "role": "worker", "usesLeft": 0, "expires": "2026-11-23T00:00:00Z",
              "expired": false, "usedBy": [{ "name": "pi-2" }, { "name": "pi-3" }] },
            { "id": "bbbbbbbb", "role": "master", "usesLeft": 2, "expires": null,
              "expired": false, "usedBy": [] },
        ]);
        let expected = "\
ID         ROLE     USES LEFT  EXPIRES                USED BY
aaaaaaaa   worker           0  2026-11-23T00:00:00Z   pi-2, pi-3
bbbbbbbb   master           2  never                  -
";
        assert_eq!(table(&tokens), expected);
    }

    #[test]
    fn a_token_may_be_named_by_all_of_it() {
        let token = model::token::Token { id: TokenId([1; 5]), secret: [2; 16], pin: [3; 32] };
        assert_eq!(id(&token.to_string()), Ok(token.id));
        assert_eq!(id(&token.id.to_string()), Ok(token.id));
        let made = bootstrap().expect("randomness");
        assert_eq!(id(&made.to_string()), Ok(made.id));
        assert_ne!(made, bootstrap().expect("randomness"));
        assert!(id("kq1abc").is_err());
    }
}
