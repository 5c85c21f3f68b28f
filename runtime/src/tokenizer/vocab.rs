//! The vocabulary of a GGUF file: takes metadata, returns tokens with their kinds and bytes, special texts and flags.
//!
//! Text of normal tokens stays in the file; what is kept are the bytes each token stands for.

use super::error::{TokenizerError, TokenizerFault};
use crate::gguf::{Array, Fault, Gguf};

/// Tokens a vocabulary may have.
pub const MAX_TOKENS: usize = 1 << 22;
/// Bytes of one token.
pub const MAX_TOKEN_BYTES: usize = 1 << 16;

/// Tokens of a vocabulary that are special: looked for one by one.
pub const MAX_SPECIALS: usize = 1 << 13;

/// What a token is for (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// Text.
    Normal,
    /// Stands for what cannot be encoded.
    Unknown,
    /// Steers the model: turns, ends, padding. Never made from text that a user wrote.
    Control,
    /// Text that is always one token.
    UserDefined,
    /// Reserved.
    Unused,
    /// One byte (`<0x0A>`).
    Byte,
}

impl TokenKind {
    fn from_code(code: i32) -> Option<Self> {
        Some(match code {
            1 => Self::Normal,
            2 => Self::Unknown,
            3 => Self::Control,
            4 => Self::UserDefined,
            5 => Self::Unused,
            6 => Self::Byte,
            _ => return None,
        })
    }
}

/// How token text stands for bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Spelling {
    /// GPT-2's printable stand-ins for bytes.
    ByteLevel,
    /// SentencePiece: `▁` for a space, `<0x0A>` for bytes.
    Sentence,
}

/// Texts that are one token wherever they occur, and where to look for them.
pub(super) struct Specials {
    /// Text, id, whether it is a control token; longest first per first byte.
    by_first_byte: Vec<Vec<(String, u32, bool)>>,
}

impl Specials {
    /// The longest special text that begins at byte `at` and that `accept`s (its length, whether it is control).
    pub(super) fn at(&self, text: &str, at: usize, accept: impl Fn(usize, bool) -> bool) -> Option<(usize, u32)> {
        let candidates = &self.by_first_byte[usize::from(*text.as_bytes().get(at)?)];
        let rest = &text.as_bytes()[at..];
        candidates
            .iter()
            .find(|(s, _, control)| rest.starts_with(s.as_bytes()) && accept(s.len(), *control))
            .map(|(s, id, _)| (s.len(), *id))
    }
}

/// The tokens of a model.
pub(super) struct Vocab {
    pub(super) kinds: Vec<TokenKind>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
    pub(super) specials: Specials,
    /// Texts of the control tokens with ids, in order of id.
    pub(super) controls: Vec<(String, u32)>,
}

impl Vocab {
    pub(super) fn len(&self) -> usize {
        self.kinds.len()
    }

    /// The bytes a token stands for; nothing for an id outside the vocabulary.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let i = id as usize;
        match self.ends.get(i) {
            Some(end) => &self.bytes[if i == 0 { 0 } else { self.ends[i - 1] }..*end],
            None => &[],
        }
    }

    /// Reads tokens and their kinds.
    pub(super) fn read(gguf: &Gguf, spelling: Spelling) -> Result<Self, TokenizerError> {
        const TOKENS: &str = "tokenizer.ggml.tokens";
        let tokens = required_array(gguf, TOKENS)?;
        let at =
            |key: &str, fault| TokenizerError { file: gguf.path().to_path_buf(), place: format!("key `{key}`"), fault };
        if tokens.len() == 0 || tokens.len() > MAX_TOKENS {
            return Err(at(
                TOKENS,
                TokenizerFault::TooLarge { what: "vocabulary", found: tokens.len(), cap: MAX_TOKENS },
            ));
        }
        let kinds = kinds(gguf, tokens.len())?;
        let table = byte_of_char();
        let (mut bytes, mut ends, mut controls) = (Vec::new(), Vec::with_capacity(tokens.len()), Vec::new());
        let mut by_first_byte: Vec<Vec<(String, u32, bool)>> = vec![Vec::new(); 256];
        let metadata = |f| at(TOKENS, TokenizerFault::Metadata(f));
        for (i, token) in tokens.strings().map_err(metadata)?.enumerate() {
            let token = token.map_err(metadata)?;
            if token.len() > MAX_TOKEN_BYTES {
                let fault =
                    TokenizerFault::TooLarge { what: "length of a token,", found: token.len(), cap: MAX_TOKEN_BYTES };
                return Err(at(TOKENS, fault));
            }
            let id = u32::try_from(i).expect("MAX_TOKENS is below 2^32");
            match (kinds[i], spelling) {
                (kind @ (TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown), _) => {
                    bytes.extend_from_slice(token.as_bytes());
                    if let Some(first) = token.as_bytes().first() {
                        let control = kind != TokenKind::UserDefined;
                        by_first_byte[usize::from(*first)].push((token.to_owned(), id, control));
                        if control {
                            controls.push((token.to_owned(), id));
                        }
                    }
                }
                (TokenKind::Byte, _) => match hex_byte(token) {
                    Some(b) => bytes.push(b),
                    None => bytes.extend_from_slice(token.as_bytes()),
                },
                (_, Spelling::ByteLevel) => unspell(&table, token, &mut bytes),
                (_, Spelling::Sentence) => bytes.extend_from_slice(token.replace('\u{2581}', " ").as_bytes()),
            }
            ends.push(bytes.len());
        }
        let specials = by_first_byte.iter().map(Vec::len).sum::<usize>();
        if specials > MAX_SPECIALS {
            let fault =
                TokenizerFault::TooLarge { what: "number of special tokens,", found: specials, cap: MAX_SPECIALS };
            return Err(at("tokenizer.ggml.token_type", fault));
        }
        for all in &mut by_first_byte {
            all.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then(a.1.cmp(&b.1)));
        }
        Ok(Self { kinds, bytes, ends, specials: Specials { by_first_byte }, controls })
    }
}

/// An array that must be there.
pub(super) fn required_array<'a>(gguf: &'a Gguf, key: &str) -> Result<Array<'a>, TokenizerError> {
    Ok(gguf.array(key)?.ok_or_else(|| gguf.key_error(key, Fault::Missing))?)
}

fn kinds(gguf: &Gguf, tokens: usize) -> Result<Vec<TokenKind>, TokenizerError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let at = |fault| TokenizerError { file: gguf.path().to_path_buf(), place: format!("key `{KEY}`"), fault };
    let Some(types) = gguf.array(KEY)? else { return Ok(vec![TokenKind::Normal; tokens]) };
    if types.len() != tokens {
        return Err(at(TokenizerFault::Length { expected: tokens, found: types.len() }));
    }
    let types = types.i32s().map_err(|f| at(TokenizerFault::Metadata(f)))?;
    // 0 is "undefined" in the format; readers take it for text.
    let kind = |(i, t): (usize, i32)| {
        TokenKind::from_code(if t == 0 { 1 } else { t }).ok_or_else(|| at(TokenizerFault::Type(i, t)))
    };
    types.into_iter().enumerate().map(kind).collect()
}

/// `<0x0A>` to 10.
fn hex_byte(token: &str) -> Option<u8> {
    u8::from_str_radix(token.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

/// Appends the bytes that printable stand-ins stand for; other characters stand for themselves.
pub(super) fn unspell(table: &[Option<u8>], token: &str, bytes: &mut Vec<u8>) {
    for c in token.chars() {
        match table.get(c as usize).copied().flatten() {
            Some(b) => bytes.push(b),
            None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
}

/// GPT-2's table: the byte that each of the first 324 characters stands for.
pub(super) fn byte_of_char() -> Vec<Option<u8>> {
    let mut table = vec![None; 256 + 68];
    let mut next = 256;
    for b in 0..=255u8 {
        if matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            table[usize::from(b)] = Some(b);
        } else {
            table[next] = Some(b);
            next += 1;
        }
    }
    table
}
