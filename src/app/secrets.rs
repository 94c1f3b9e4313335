//! `kumquat secrets`: the key of Secrets at rest.

use anyhow::Result;
use http::Method;

use super::cli::SecretsCommand;
use super::client::Ending;
use super::dirs::Dirs;
use crate::io::control::Client;

/// Runs the command.
pub(super) async fn run(dirs: &Dirs, command: &SecretsCommand) -> Result<Ending> {
    let client = Client::new(&dirs.socket());
    match command {
        SecretsCommand::Rotate => {
            let done = client.ask(Method::POST, "/v1/secrets/rotate").await?;
            let done: serde_json::Value = serde_json::from_slice(&done)?;
            let (key, count) = (&done["key"], done["secrets"].as_u64().unwrap_or(0));
            say!("key {key} seals from now on; {count} Secrets are being sealed anew");
        }
    }
    Ok(Ending::Done)
}
