//! Text to token ids and back, as a GGUF file describes it: takes the file's metadata, returns a [`Tokenizer`].
//!
//! Kinds `gpt2` (byte-level BPE with the pre-tokenizer named in the file) and `llama` (SentencePiece merges by score).
//! Special texts are split off first, the longest that begins at a place; control tokens only where the caller says that
//! the text is trusted ([`Tokenizer::encode`], [`Tokenizer::encode_rendered`]). Nothing is normalised or cleaned up.

mod bpe;
mod error;
mod pre;
mod sentence;
mod vocab;

pub use error::{TokenizerError, TokenizerFault};
pub use vocab::{MAX_SPECIALS, MAX_TOKEN_BYTES, MAX_TOKENS, TokenKind};

use crate::chat::Rendered;
use crate::gguf::{Fault, Gguf, printable};
use bpe::ByteLevel;
use sentence::Sentence;
use std::path::PathBuf;
use vocab::{Spelling, Vocab};

/// Control tokens that end a turn or a text, whatever the file's `eos_token_id` says.
const ENDS: &[&str] = &[
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end_of_text|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<EOT>",
    "</s>",
];

/// Text without special tokens to ids.
enum Encoder {
    ByteLevel(Box<ByteLevel>),
    Sentence(Box<Sentence>),
}

/// A model's tokenizer.
pub struct Tokenizer {
    file: PathBuf,
    vocab: Vocab,
    encoder: Encoder,
    bos: Option<u32>,
    ends: Vec<u32>,
    add_bos: bool,
    add_eos: bool,
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tokenizer({} tokens)", self.vocab.len())
    }
}

impl Tokenizer {
    /// Reads the tokenizer of a file. Takes about as long as hashing its tokens and merges (a tenth of a second for
    /// 150,000): worth a thread of its own beside the weights.
    ///
    /// # Errors
    /// [`TokenizerError`] naming the key, for a kind or pre-tokenizer that is not supported and for metadata that are
    /// missing, of another type, of unequal lengths, or name tokens that do not exist.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        const MODEL: &str = "tokenizer.ggml.model";
        let model = gguf.str(MODEL)?.ok_or_else(|| gguf.key_error(MODEL, Fault::Missing))?;
        let spelling = match model {
            "gpt2" => Spelling::ByteLevel,
            "llama" => Spelling::Sentence,
            other => {
                let (file, place) = (gguf.path().to_path_buf(), format!("key `{MODEL}`"));
                return Err(TokenizerError { file, place, fault: TokenizerFault::Model(printable(other)) });
            }
        };
        let vocab = Vocab::read(gguf, spelling)?;
        let encoder = match spelling {
            Spelling::ByteLevel => Encoder::ByteLevel(Box::new(ByteLevel::read(gguf, &vocab)?)),
            Spelling::Sentence => Encoder::Sentence(Box::new(Sentence::read(gguf, &vocab.kinds)?)),
        };
        let usual_bos = match &encoder {
            Encoder::ByteLevel(b) => b.usual_bos(),
            Encoder::Sentence(_) => true,
        };
        let id = |key: &str| -> Result<Option<u32>, TokenizerError> {
            let key = format!("tokenizer.ggml.{key}_token_id");
            match gguf.u32(&key)? {
                Some(id) if id as usize >= vocab.len() => {
                    let fault = TokenizerFault::Id { id, vocab: vocab.len() };
                    Err(TokenizerError { file: gguf.path().to_path_buf(), place: format!("key `{key}`"), fault })
                }
                id => Ok(id),
            }
        };
        let bos = id("bos")?;
        // The file's own end token comes first: it is the one that ends a prompt where one is added.
        let mut ends: Vec<u32> = [id("eos")?, id("eot")?, id("eom")?].into_iter().flatten().collect();
        ends.extend(vocab.controls.iter().filter(|(t, _)| ENDS.contains(&t.as_str())).map(|(_, id)| *id));
        let mut seen = Vec::new();
        ends.retain(|e| {
            !seen.contains(e) && {
                seen.push(*e);
                true
            }
        });
        let add_bos = gguf.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(usual_bos) && bos.is_some();
        let add_eos = gguf.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        Ok(Self { file: gguf.path().to_path_buf(), vocab, encoder, bos, ends, add_bos, add_eos })
    }

    /// Tokens of the vocabulary.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// The beginning-of-sequence token, if the file names one.
    #[must_use]
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// Tokens that end a generation, the file's own first.
    #[must_use]
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// Whether a token ends a generation.
    #[must_use]
    pub fn is_end(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// What a token is for; `None` outside the vocabulary.
    #[must_use]
    pub fn kind(&self, id: u32) -> Option<TokenKind> {
        self.vocab.kinds.get(id as usize).copied()
    }

    /// The bytes a token stands for: of control tokens their name, of ids outside the vocabulary nothing.
    #[must_use]
    pub fn token_bytes(&self, id: u32) -> &[u8] {
        self.vocab.bytes(id)
    }

    /// The control token with this text.
    #[must_use]
    pub fn control(&self, text: &str) -> Option<u32> {
        self.vocab.controls.iter().find(|(t, _)| t == text).map(|(_, id)| *id)
    }

    /// Control tokens: text and id.
    pub fn controls(&self) -> impl Iterator<Item = (&str, u32)> {
        self.vocab.controls.iter().map(|(t, id)| (t.as_str(), *id))
    }

    /// The ids of a text, without beginning or end added. With `specials` the names of control tokens in it become
    /// those tokens: only for text that no user wrote.
    ///
    /// # Errors
    /// When the tokenizer library refuses the text; byte-level vocabularies encode every text.
    pub fn encode(&self, text: &str, specials: bool) -> Result<Vec<u32>, TokenizerError> {
        self.encode_where(text, |_, _| specials)
    }

    /// The ids of a plain prompt: a user's text, with beginning and end tokens as the file asks.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = self.with_bos(self.encode(text, false)?);
        if self.add_eos {
            ids.extend(self.ends.first());
        }
        Ok(ids)
    }

    /// The ids of a rendered chat: control tokens come from the template alone, never from what messages hold.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_rendered(&self, rendered: &Rendered) -> Result<Vec<u32>, TokenizerError> {
        let breaks = rendered.breaks();
        let ids = self.encode_where(&rendered.text, |at, len| {
            // The first break after the beginning; a token that spans it has a user's text in it.
            let next = breaks.partition_point(|b| *b <= at);
            breaks.get(next).is_none_or(|b| *b >= at + len)
        })?;
        Ok(self.with_bos(ids))
    }

    fn with_bos(&self, mut ids: Vec<u32>) -> Vec<u32> {
        if let Some(bos) = self.bos.filter(|b| self.add_bos && ids.first() != Some(b)) {
            ids.insert(0, bos);
        }
        ids
    }

    /// Splits special texts off and encodes what is between them. `allow` says whether a control token may begin at a
    /// byte with a length.
    fn encode_where(&self, text: &str, allow: impl Fn(usize, usize) -> bool) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::with_capacity(text.len() / 3 + 2);
        let (mut begin, mut at) = (0, 0);
        let plain = |from: usize, to: usize, ids: &mut Vec<u32>| -> Result<(), TokenizerError> {
            if from == to {
                return Ok(());
            }
            match &self.encoder {
                Encoder::ByteLevel(b) => b.encode(&self.vocab, &text[from..to], ids),
                Encoder::Sentence(s) => s.encode(&text[from..to], ids).map_err(|fault| TokenizerError {
                    file: self.file.clone(),
                    place: "text".to_owned(),
                    fault,
                })?,
            }
            Ok(())
        };
        while at < text.len() {
            match self.vocab.specials.at(text, at, |len, control| !control || allow(at, len)) {
                Some((len, id)) => {
                    plain(begin, at, &mut ids)?;
                    ids.push(id);
                    at += len;
                    begin = at;
                }
                None => at += 1,
            }
        }
        plain(begin, at, &mut ids)?;
        Ok(ids)
    }

    /// The text of ids; control tokens appear by name with `specials` and not at all without. Bytes that are no UTF-8
    /// become U+FFFD.
    #[must_use]
    pub fn decode(&self, ids: &[u32], specials: bool) -> String {
        let mut stream = Detokenizer::new(specials);
        let mut text = String::new();
        for id in ids {
            text.push_str(&stream.push(self, *id));
        }
        text.push_str(&stream.finish());
        // SentencePiece puts a space in front of every text; it is not part of it.
        if let Encoder::Sentence(s) = &self.encoder
            && s.space_prefix
            && text.starts_with(' ')
        {
            text.remove(0);
        }
        text
    }
}

/// Ids to text, one at a time: gives out whole characters only.
#[derive(Clone, Debug, Default)]
pub struct Detokenizer {
    pending: Vec<u8>,
    specials: bool,
}

impl Detokenizer {
    /// A stream; with `specials` control tokens appear by name.
    #[must_use]
    pub fn new(specials: bool) -> Self {
        Self { pending: Vec::new(), specials }
    }

    /// Takes a token, returns the text that is complete with it. Bytes of an unfinished character wait for the next.
    pub fn push(&mut self, tokenizer: &Tokenizer, id: u32) -> String {
        if self.specials || !matches!(tokenizer.kind(id), Some(TokenKind::Control | TokenKind::Unknown)) {
            self.pending.extend_from_slice(tokenizer.token_bytes(id));
        }
        let mut text = String::new();
        loop {
            match std::str::from_utf8(&self.pending) {
                Ok(whole) => {
                    text.push_str(whole);
                    self.pending.clear();
                    return text;
                }
                Err(e) => {
                    let valid = e.valid_up_to();
                    text.push_str(std::str::from_utf8(&self.pending[..valid]).expect("checked up to here"));
                    match e.error_len() {
                        // Cut off: the rest may come with the next token.
                        None => {
                            self.pending.drain(..valid);
                            return text;
                        }
                        Some(bad) => {
                            text.push(char::REPLACEMENT_CHARACTER);
                            self.pending.drain(..valid + bad);
                        }
                    }
                }
            }
        }
    }

    /// Ends the stream: what was left of an unfinished character, as U+FFFD.
    #[must_use]
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}
