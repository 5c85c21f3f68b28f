//! One sequence of a sampling site while it runs: tokens, text, statistics, and whether it has ended.

use super::rules::History;
use crate::grammar::Matcher;
use crate::model::SeqId;
use crate::value::EndReason;
use std::time::Instant;

/// A live sequence.
#[derive(Clone)]
pub(super) struct Sequence {
    /// Index in its site.
    pub(super) index: u32,
    /// Number that its draws are keyed by: the index, or a hash of the path of branches.
    pub(super) key: u32,
    /// The model's sequence.
    pub(super) seq: SeqId,
    /// Tokens that the next step appends.
    pub(super) pending: Vec<u32>,
    /// Sampled tokens.
    pub(super) tokens: Vec<u32>,
    /// Their log-probabilities.
    pub(super) logprobs: Vec<f32>,
    /// Sum of the entropies they were drawn from.
    pub(super) entropy: f64,
    /// Text so far.
    pub(super) text: Detokenised,
    /// Statistics for token rules.
    pub(super) history: History,
    /// State of an enforced format.
    pub(super) matcher: Option<Matcher>,
    /// Tokens it shares with the sequence it forked from.
    pub(super) inherited: usize,
    /// When it started.
    pub(super) started: Instant,
}

impl Sequence {
    /// Takes a token; returns the reason when the sequence ends by it.
    pub(super) fn take(&mut self, token: Taken, limits: &Ending<'_>) -> Option<EndReason> {
        self.tokens.push(token.id);
        self.logprobs.push(token.logprob);
        self.entropy += f64::from(token.entropy);
        self.pending.clear();
        self.pending.push(token.id);
        if limits.ends.contains(&token.id) {
            self.text.finish();
            return Some(EndReason::End);
        }
        let before = self.text.text.len();
        self.text.push(token.bytes);
        if let Some(cut) = stop_position(&self.text.text, before, limits.stops) {
            self.text.text.truncate(cut);
            self.text.tail.clear();
            return Some(EndReason::StopText);
        }
        if self.matcher.as_ref().is_some_and(Matcher::is_complete) {
            self.text.finish();
            return Some(EndReason::Format);
        }
        let ended = if self.tokens.len() >= limits.max {
            EndReason::Max
        } else if limits.prompt + self.tokens.len() >= limits.context {
            EndReason::Context
        } else {
            return None;
        };
        self.text.finish();
        Some(ended)
    }
}

/// A chosen token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken<'a> {
    pub(super) id: u32,
    pub(super) logprob: f32,
    pub(super) entropy: f32,
    pub(super) bytes: &'a [u8],
}

/// What ends sequences of a site.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ending<'a> {
    pub(super) ends: &'a [u32],
    pub(super) stops: &'a [String],
    pub(super) max: usize,
    pub(super) prompt: usize,
    pub(super) context: usize,
}

/// Where a stop text begins, given that the first `before` bytes held none: the leftmost.
fn stop_position(text: &str, before: usize, stops: &[String]) -> Option<usize> {
    let find = |stop: &String| {
        // A stop text may begin in what was there before.
        let mut from = before.saturating_sub(stop.len());
        while !text.is_char_boundary(from) {
            from -= 1;
        }
        text[from..].find(stop.as_str()).map(|at| from + at)
    };
    stops.iter().filter(|s| !s.is_empty()).filter_map(find).min()
}

/// Text from the bytes of tokens, in pieces that are whole characters.
#[derive(Clone, Debug, Default)]
pub(super) struct Detokenised {
    /// Whole characters so far.
    pub(super) text: String,
    tail: Vec<u8>,
}

impl Detokenised {
    /// Adds bytes; bytes that are no UTF-8 become U+FFFD.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        loop {
            match std::str::from_utf8(&self.tail) {
                Ok(whole) => {
                    self.text.push_str(whole);
                    self.tail.clear();
                    return;
                }
                Err(e) => {
                    let good = e.valid_up_to();
                    self.text.push_str(&String::from_utf8_lossy(&self.tail[..good]));
                    let Some(bad) = e.error_len() else {
                        // The rest may become a character.
                        self.tail.drain(..good);
                        return;
                    };
                    self.text.push('\u{FFFD}');
                    self.tail.drain(..good + bad);
                }
            }
        }
    }

    /// Nothing more comes: an unfinished character becomes U+FFFD.
    pub(super) fn finish(&mut self) {
        if !self.tail.is_empty() {
            self.text.push('\u{FFFD}');
            self.tail.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_may_span_tokens() {
        let mut text = Detokenised::default();
        let euro = "€".as_bytes();
        text.push(&[b'a', euro[0]]);
        assert_eq!(text.text, "a");
        text.push(&euro[1..2]);
        text.push(&euro[2..]);
        assert_eq!(text.text, "a€");
        text.push(&[0xFF, b'b']);
        assert_eq!(text.text, "a€\u{FFFD}b");
        text.push(&euro[..1]);
        text.finish();
        assert_eq!(text.text, "a€\u{FFFD}b\u{FFFD}");
    }

    #[test]
    fn stop_texts_may_span_tokens() {
        let stops = ["\n\n".to_owned(), "€END".to_owned()];
        assert_eq!(stop_position("ab\n\ncd", 3, &stops), Some(2));
        assert_eq!(stop_position("a€END", 5, &stops), Some(1));
        assert_eq!(stop_position("a€EN", 5, &stops), None);
    }
}
