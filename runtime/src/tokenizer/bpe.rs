//! Merge models built from GGUF metadata: byte-level BPE (`gpt2`) and score-driven merges (`llama`, SentencePiece).
//!
//! Takes metadata and token kinds, returns a function from text without special tokens to ids. Pre-tokenizer patterns
//! are those the models were trained with, by the name in `tokenizer.ggml.pre`; text is never normalised, as readers of
//! GGUF agree.

use super::error::{TokenizerError, TokenizerFault, merge_fault};
use super::vocab::{TokenKind, required_array};
use crate::gguf::{Gguf, printable};
use std::collections::HashMap;
use tokenizers::models::bpe::{BPE, Merges, Vocab as Words};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    DecoderWrapper, Model, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, SplitDelimiterBehavior,
    TokenizerImpl,
};

const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const MERGES: &str = "tokenizer.ggml.merges";
const SCORES: &str = "tokenizer.ggml.scores";

/// Longest SentencePiece token that merges are made for; trained vocabularies stay below a hundred bytes.
const MAX_PIECE_BYTES: usize = 1024;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What a pre-tokenizer's name means.
struct Pre {
    /// Applied one after the other; matches and what is between them are kept apart.
    patterns: &'static [&'static str],
    /// A word that is a token is that token, whatever the merges say.
    whole_words: bool,
    /// Whether a beginning-of-sequence token is added unless the file says otherwise.
    add_bos: bool,
}

fn pre(name: &str) -> Option<Pre> {
    let plain = |patterns| Some(Pre { patterns, whole_words: false, add_bos: false });
    match name {
        // What readers fall back to when a file names none.
        "default" => plain(&[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
        "gpt-2" | "phi-2" | "mpt" | "olmo" => plain(&[GPT2]),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => plain(&[r"\p{N}", GPT2]),
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" => plain(&[QWEN2]),
        "smaug-bpe" | "dbrx" => plain(&[LLAMA3]),
        "llama-bpe" | "llama3" | "llama-v3" => Some(Pre { patterns: &[LLAMA3], whole_words: true, add_bos: true }),
        _ => None,
    }
}

type ByteLevelBpe = TokenizerImpl<BPE, NormalizerWrapper, PreTokenizerWrapper, PostProcessorWrapper, DecoderWrapper>;

/// Text to ids.
pub(super) enum Encoder {
    /// Byte-level BPE with its pre-tokenizer.
    ByteLevel(Box<ByteLevelBpe>),
    /// SentencePiece merges; whether a space goes in front of text.
    Sentence { model: Box<BPE>, space_prefix: bool },
}

impl Encoder {
    /// Appends the ids of `text`. `fresh`: the text is first or follows a special token.
    pub(super) fn encode(&self, text: &str, fresh: bool, ids: &mut Vec<u32>) -> Result<(), TokenizerFault> {
        let library = |e: tokenizers::Error| TokenizerFault::Library(printable(&e.to_string()));
        match self {
            Self::ByteLevel(t) => ids.extend_from_slice(t.encode_fast(text, false).map_err(library)?.get_ids()),
            Self::Sentence { model, space_prefix } => {
                let prefix = if fresh && *space_prefix { "\u{2581}" } else { "" };
                let spelled = format!("{prefix}{}", text.replace(' ', "\u{2581}"));
                ids.extend(model.tokenize(&spelled).map_err(library)?.iter().map(|t| t.id));
            }
        }
        Ok(())
    }
}

fn at(gguf: &Gguf, key: &str) -> impl Fn(TokenizerFault) -> TokenizerError {
    let (file, place) = (gguf.path().to_path_buf(), format!("key `{key}`"));
    move |fault| TokenizerError { file: file.clone(), place: place.clone(), fault }
}

/// Byte-level BPE, and whether a beginning-of-sequence token is usual for it.
pub(super) fn byte_level(gguf: &Gguf, kinds: &[TokenKind]) -> Result<(Encoder, bool), TokenizerError> {
    let name = gguf.str(PRE)?.unwrap_or("default");
    let pre = pre(name).ok_or_else(|| at(gguf, PRE)(TokenizerFault::Pre(printable(name))))?;
    let metadata = |key| move |f| at(gguf, key)(TokenizerFault::Metadata(f));
    let tokens = required_array(gguf, TOKENS)?;
    // Control tokens are left out: no merge and no whole word can become one.
    let mut vocab: Words = Words::with_capacity(tokens.len());
    let mut longest = 0;
    for ((token, kind), id) in tokens.strings().map_err(metadata(TOKENS))?.zip(kinds).zip(0u32..) {
        let token = token.map_err(metadata(TOKENS))?;
        if !matches!(kind, TokenKind::Control | TokenKind::Unknown) {
            longest = longest.max(token.len());
            vocab.insert(token.to_owned(), id);
        }
    }
    let rules = required_array(gguf, MERGES)?;
    let mut merges: Merges = Vec::with_capacity(rules.len());
    for (i, rule) in rules.strings().map_err(metadata(MERGES))?.enumerate() {
        let rule = rule.map_err(metadata(MERGES))?;
        let fail = |what| at(gguf, MERGES)(merge_fault(i, rule, what));
        // The first part may itself begin with a space.
        let cut = rule.bytes().skip(1).position(|b| b == b' ').ok_or_else(|| fail("not two parts"))? + 1;
        let (a, b) = (&rule[..cut], &rule[cut + 1..]);
        // The library indexes a buffer as long as the longest token.
        if b.is_empty() || a.len() + b.len() > longest {
            return Err(fail("names no tokens"));
        }
        merges.push((a.to_owned(), b.to_owned()));
    }
    let bpe = BPE::builder().vocab_and_merges(vocab, merges).ignore_merges(pre.whole_words).build();
    let bpe = bpe.map_err(|e| at(gguf, MERGES)(TokenizerFault::Library(printable(&e.to_string()))))?;
    let mut steps = Vec::new();
    for p in pre.patterns {
        let split = Split::new(SplitPattern::Regex((*p).to_owned()), SplitDelimiterBehavior::Isolated, false);
        let split = split.map_err(|e| at(gguf, PRE)(TokenizerFault::Library(printable(&e.to_string()))))?;
        steps.push(PreTokenizerWrapper::Split(split));
    }
    steps.push(PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)));
    let mut t = ByteLevelBpe::new(bpe);
    t.with_pre_tokenizer(Some(PreTokenizerWrapper::Sequence(Sequence::new(steps))));
    Ok((Encoder::ByteLevel(Box::new(t)), pre.add_bos))
}

/// SentencePiece BPE: two neighbours merge when their text is a token, best score first.
pub(super) fn sentence(gguf: &Gguf, kinds: &[TokenKind]) -> Result<Encoder, TokenizerError> {
    let metadata = |key| move |f| at(gguf, key)(TokenizerFault::Metadata(f));
    let tokens = required_array(gguf, TOKENS)?;
    let scores = required_array(gguf, SCORES)?;
    if scores.len() != tokens.len() {
        return Err(at(gguf, SCORES)(TokenizerFault::Length { expected: tokens.len(), found: scores.len() }));
    }
    let scores = scores.f32s().map_err(metadata(SCORES))?;
    let mut vocab: Words = Words::with_capacity(tokens.len());
    let mut pieces: Vec<(&str, f32)> = Vec::new();
    let mut unknown = None;
    for (i, token) in tokens.strings().map_err(metadata(TOKENS))?.enumerate() {
        let token = token.map_err(metadata(TOKENS))?;
        let id = u32::try_from(i).expect("the vocabulary's limit is below 2^32");
        match kinds[i] {
            TokenKind::Control => continue,
            TokenKind::Unknown => unknown = Some(token.to_owned()),
            TokenKind::Normal | TokenKind::UserDefined | TokenKind::Unused => {
                if token.len() > MAX_PIECE_BYTES {
                    let what = "length of a token,";
                    return Err(at(gguf, TOKENS)(TokenizerFault::TooLarge {
                        what,
                        found: token.len(),
                        cap: MAX_PIECE_BYTES,
                    }));
                }
                pieces.push((token, scores[i]));
            }
            TokenKind::Byte => {}
        }
        vocab.insert(token.to_owned(), id);
    }
    let known: HashMap<&str, ()> = pieces.iter().map(|(p, _)| (*p, ())).collect();
    let mut rules: Vec<(f32, &str, &str)> = Vec::new();
    for (piece, score) in &pieces {
        for (cut, _) in piece.char_indices().skip(1) {
            let (a, b) = piece.split_at(cut);
            if known.contains_key(a) && known.contains_key(b) {
                rules.push((*score, a, b));
            }
        }
    }
    // Stable: equal scores keep the order of the vocabulary.
    rules.sort_by(|a, b| b.0.total_cmp(&a.0));
    let merges: Merges = rules.into_iter().map(|(_, a, b)| (a.to_owned(), b.to_owned())).collect();
    let mut builder = BPE::builder().vocab_and_merges(vocab, merges).byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = unknown {
        builder = builder.unk_token(unknown);
    }
    let model = builder.build().map_err(|e| at(gguf, TOKENS)(TokenizerFault::Library(printable(&e.to_string()))))?;
    let space_prefix = gguf.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    Ok(Encoder::Sentence { model: Box::new(model), space_prefix })
}
