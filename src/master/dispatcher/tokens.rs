//! Tokens for the pods of a board: asked for over the bus, given for pods that run there.

use model::limits::TOKEN_ASKS_MAX;
use model::wire::{MessageKind, TokenAnswerV1, TokenAskV1, TokensV1};

use super::DispatchError;
use super::session::Session;

impl Session {
    /// Answers what a board asks for its pods; asks beyond the bound are left to its next message.
    pub(super) async fn give_tokens(&mut self, ask: TokenAskV1) -> Result<(), DispatchError> {
        let Some(accounts) = self.options.accounts.clone() else { return Ok(()) };
        let board = self.name().to_owned();
        let answer = |want| {
            let token = accounts.for_board(&board, &want);
            TokenAnswerV1 { want, token }
        };
        let wants = ask.wants.into_iter().take(TOKEN_ASKS_MAX);
        let answers: Vec<TokenAnswerV1> = wants.map(answer).collect();
        for answer in &answers {
            if let Err(why) = &answer.token {
                tracing::debug!(node = board, why, "a board gets no token");
            }
        }
        self.send(MessageKind::Tokens, &TokensV1 { answers }).await.map(drop)
    }
}
