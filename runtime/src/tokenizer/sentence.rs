//! SentencePiece merges (`llama`) built from GGUF metadata: takes text, returns ids.
//!
//! Two neighbours merge when their text is a token, best score first; what no token covers becomes byte tokens.

use super::error::{TokenizerError, TokenizerFault};
use super::vocab::{TokenKind, required_array};
use crate::gguf::{Gguf, printable};
use std::collections::HashSet;
use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Merges, Vocab as Words};

const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";

/// Longest token that merges are made for; trained vocabularies stay below a hundred bytes.
const MAX_PIECE_BYTES: usize = 1024;

/// Merges of a SentencePiece vocabulary.
pub(super) struct Sentence {
    model: BPE,
    /// Whether a space goes in front of text.
    pub(super) space_prefix: bool,
}

impl Sentence {
    /// Reads tokens and scores of a file.
    pub(super) fn read(gguf: &Gguf, kinds: &[TokenKind]) -> Result<Self, TokenizerError> {
        let at =
            |key: &str, fault| TokenizerError { file: gguf.path().to_path_buf(), place: format!("key `{key}`"), fault };
        let metadata = |key: &'static str| move |f| at(key, TokenizerFault::Metadata(f));
        let tokens = required_array(gguf, TOKENS)?;
        let scores = required_array(gguf, SCORES)?;
        if scores.len() != tokens.len() {
            return Err(at(SCORES, TokenizerFault::Length { expected: tokens.len(), found: scores.len() }));
        }
        let scores = scores.f32s().map_err(metadata(SCORES))?;
        let mut words = Words::with_capacity(tokens.len());
        let mut pieces: Vec<(&str, f32)> = Vec::new();
        let mut unknown = None;
        for ((token, kind), id) in tokens.strings().map_err(metadata(TOKENS))?.zip(kinds).zip(0u32..) {
            let token = token.map_err(metadata(TOKENS))?;
            match kind {
                TokenKind::Control => continue,
                TokenKind::Unknown => unknown = Some(token.to_owned()),
                TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused => {
                    if token.len() > MAX_PIECE_BYTES {
                        let what = "length of a token,";
                        let fault = TokenizerFault::TooLarge { what, found: token.len(), cap: MAX_PIECE_BYTES };
                        return Err(at(TOKENS, fault));
                    }
                    pieces.push((token, scores[id as usize]));
                }
                TokenKind::Byte => {}
            }
            words.insert(token.to_owned(), id);
        }
        let mut builder = BPE::builder().vocab_and_merges(words, merges(&pieces)).byte_fallback(true).fuse_unk(true);
        if let Some(unknown) = unknown {
            builder = builder.unk_token(unknown);
        }
        let model = builder.build().map_err(|e| at(TOKENS, TokenizerFault::Library(printable(&e.to_string()))))?;
        Ok(Self { model, space_prefix: gguf.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true) })
    }

    /// Appends the ids of a text that is first or follows a special token.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerFault> {
        let prefix = if self.space_prefix { "\u{2581}" } else { "" };
        let spelled = format!("{prefix}{}", text.replace(' ', "\u{2581}"));
        let tokens = self.model.tokenize(&spelled).map_err(|e| TokenizerFault::Library(printable(&e.to_string())))?;
        ids.extend(tokens.iter().map(|t| t.id));
        Ok(())
    }
}

/// Every way to put a token together from two others, best score of the whole first; equal scores keep the order of the
/// vocabulary.
fn merges(pieces: &[(&str, f32)]) -> Merges {
    let known: HashSet<&str> = pieces.iter().map(|(p, _)| *p).collect();
    let mut rules: Vec<(f32, &str, &str)> = Vec::new();
    for (piece, score) in pieces {
        for (cut, _) in piece.char_indices().skip(1) {
            let (a, b) = piece.split_at(cut);
            if known.contains(a) && known.contains(b) {
                rules.push((*score, a, b));
            }
        }
    }
    rules.sort_by(|a, b| b.0.total_cmp(&a.0));
    rules.into_iter().map(|(_, a, b)| (a.to_owned(), b.to_owned())).collect()
}
