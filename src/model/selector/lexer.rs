//! The words of a label selector's text.

/// One word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// `)`
    Close,
    /// `,`
    Comma,
    /// `!`
    Not,
    /// `==`
    DoubleEquals,
    /// End of the text.
    End,
    /// `=`
    Equals,
    /// `>`
    Greater,
    /// A key or a value.
    Identifier,
    /// `in`
    In,
    /// `<`
    Less,
    /// `!=`
    NotEquals,
    /// `notin`
    NotIn,
    /// `(`
    Open,
    /// Something else made of special characters.
    Error,
}

/// Splits `text` into words; the last one is always [`Token::End`].
pub(super) fn scan(text: &str) -> Vec<(Token, &str)> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while let Some(first) = rest.chars().next() {
        let length = if is_symbol(first) {
            symbol_length(rest)
        } else {
            rest.find(|c| is_symbol(c) || is_space(c)).unwrap_or(rest.len())
        };
        let (word, after) = rest.split_at(length);
        tokens.push((token(word), word));
        rest = after.trim_start_matches(is_space);
    }
    tokens.push((Token::End, ""));
    tokens
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_symbol(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

/// The longest run of special characters that begins with an operator.
fn symbol_length(text: &str) -> usize {
    let run = text.bytes().take_while(|b| is_symbol(char::from(*b))).count();
    for length in [2, 1] {
        if length <= run && token(&text[..length]) != Token::Error {
            return length;
        }
    }
    run
}

fn token(word: &str) -> Token {
    match word {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::Not,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::Greater,
        "in" => Token::In,
        "<" => Token::Less,
        "!=" => Token::NotEquals,
        "notin" => Token::NotIn,
        "(" => Token::Open,
        _ if word.chars().all(is_symbol) => Token::Error,
        _ => Token::Identifier,
    }
}
