//! Byte-level BPE (`gpt2`) built from GGUF metadata: takes words, returns ids.
//!
//! Works on bytes themselves, not on their printable stand-ins, and keeps ids only: a vocabulary of 150,000 tokens is
//! ready in a tenth of a second. Of two merges with equal rank the left one goes first; a word takes time in proportion
//! to its length times the logarithm of it, whatever it holds.

use super::error::{TokenizerError, TokenizerFault, merge_fault};
use super::pre::Pre;
use super::vocab::{TokenKind, Vocab, byte_of_char, required_array, unspell};
use crate::gguf::{Gguf, printable};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};

const PRE: &str = "tokenizer.ggml.pre";
const MERGES: &str = "tokenizer.ggml.merges";

/// Merge rules and words of a byte-level vocabulary.
pub(super) struct ByteLevel {
    pre: Pre,
    index: Index,
    /// The token of a byte, where there is one.
    bytes: [Option<u32>; 256],
    /// Left id and right id to rank and merged id.
    merges: HashMap<(u32, u32), (u32, u32)>,
}

/// Ids by the bytes they stand for: open addressing over the vocabulary's own bytes.
struct Index {
    state: RandomState,
    slots: Vec<u32>,
}

/// A free slot; no id is that large.
const FREE: u32 = u32::MAX;

impl Index {
    /// Text that is no control token. Of equal tokens the last is found, as in other readers.
    fn new(vocab: &Vocab) -> Self {
        let size = (vocab.len() * 2).next_power_of_two();
        let mut index = Self { state: RandomState::new(), slots: vec![FREE; size] };
        for (id, kind) in (0u32..).zip(&vocab.kinds) {
            if !matches!(kind, TokenKind::Control | TokenKind::Unknown) {
                let slot = index.slot(vocab, vocab.bytes(id));
                index.slots[slot] = id;
            }
        }
        index
    }

    /// Where `bytes` are or would be.
    fn slot(&self, vocab: &Vocab, bytes: &[u8]) -> usize {
        let mask = self.slots.len() - 1;
        #[allow(clippy::cast_possible_truncation, reason = "the mask takes the low bits anyway")]
        let mut slot = self.state.hash_one(bytes) as usize & mask;
        // At most half of the slots are taken, so a free one ends the search.
        while self.slots[slot] != FREE && vocab.bytes(self.slots[slot]) != bytes {
            slot = (slot + 1) & mask;
        }
        slot
    }

    fn find(&self, vocab: &Vocab, bytes: &[u8]) -> Option<u32> {
        Some(self.slots[self.slot(vocab, bytes)]).filter(|id| *id != FREE)
    }
}

impl ByteLevel {
    /// Reads pre-tokenizer and merges of a file.
    pub(super) fn read(gguf: &Gguf, vocab: &Vocab) -> Result<Self, TokenizerError> {
        let at =
            |key: &str, fault| TokenizerError { file: gguf.path().to_path_buf(), place: format!("key `{key}`"), fault };
        let name = gguf.str(PRE)?.unwrap_or("default");
        let pre = Pre::named(name).ok_or_else(|| at(PRE, TokenizerFault::Pre(printable(name))))?;
        let index = Index::new(vocab);
        let rules = required_array(gguf, MERGES)?;
        let metadata = |f| at(MERGES, TokenizerFault::Metadata(f));
        let table = byte_of_char();
        let mut merges = HashMap::with_capacity(rules.len());
        let mut pair = Vec::new();
        for (rank, rule) in (0u32..).zip(rules.strings().map_err(metadata)?) {
            let rule = rule.map_err(metadata)?;
            let fail = |what| at(MERGES, merge_fault(rank as usize, rule, what));
            // The first part may itself begin with a space.
            let cut = rule.bytes().skip(1).position(|b| b == b' ').ok_or_else(|| fail("not two parts"))? + 1;
            pair.clear();
            unspell(&table, &rule[..cut], &mut pair);
            let middle = pair.len();
            unspell(&table, &rule[cut + 1..], &mut pair);
            let find = |bytes: &[u8]| index.find(vocab, bytes).ok_or_else(|| fail("names a text that is no token"));
            let (left, right, merged) = (find(&pair[..middle])?, find(&pair[middle..])?, find(&pair)?);
            // The first rule of a pair is the one that counts.
            merges.entry((left, right)).or_insert((rank, merged));
        }
        let bytes = std::array::from_fn(|b| index.find(vocab, &[u8::try_from(b).expect("an index below 256")]));
        Ok(Self { pre, index, bytes, merges })
    }

    /// Whether a beginning-of-sequence token is usual.
    pub(super) fn usual_bos(&self) -> bool {
        self.pre.add_bos
    }

    /// Appends the ids of `text`. Bytes that no token stands for are left out.
    pub(super) fn encode(&self, vocab: &Vocab, text: &str, ids: &mut Vec<u32>) {
        let mut work = Work::default();
        self.pre.words(text, &mut |word| {
            if self.pre.whole_words
                && let Some(id) = self.index.find(vocab, word.as_bytes())
            {
                ids.push(id);
                return;
            }
            work.symbols.clear();
            work.symbols.extend(word.bytes().filter_map(|b| self.bytes[usize::from(b)]).map(|id| Symbol {
                id,
                prev: 0,
                next: 0,
            }));
            self.merge(&mut work);
            ids.extend(work.symbols.iter().map(|s| s.id).filter(|id| *id != FREE));
        });
    }

    /// Merges neighbours, lowest rank first, until no rule fits. Merged-away symbols are left [`FREE`].
    fn merge(&self, work: &mut Work) {
        let Work { symbols, queue } = work;
        let n = symbols.len();
        for (i, s) in symbols.iter_mut().enumerate() {
            (s.prev, s.next) = (i.wrapping_sub(1), i + 1);
        }
        queue.clear();
        let offer = |symbols: &[Symbol], queue: &mut Queue, left: usize, right: usize| {
            if let Some((rank, merged)) = self.merges.get(&(symbols[left].id, symbols[right].id)) {
                queue.push(Reverse((*rank, left, symbols[left].id, symbols[right].id, *merged)));
            }
        };
        for i in 1..n {
            offer(symbols, queue, i - 1, i);
        }
        while let Some(Reverse((_, left, a, b, merged))) = queue.pop() {
            let right = symbols[left].next;
            // Either side may have changed since the pair was seen.
            if symbols[left].id != a || right >= n || symbols[right].id != b {
                continue;
            }
            let after = symbols[right].next;
            symbols[left] = Symbol { id: merged, next: after, ..symbols[left] };
            symbols[right].id = FREE;
            if after < n {
                symbols[after].prev = left;
                offer(symbols, queue, left, after);
            }
            let before = symbols[left].prev;
            if before < n {
                offer(symbols, queue, before, left);
            }
        }
    }
}

/// Rank, position, left id, right id, merged id.
type Queue = BinaryHeap<Reverse<(u32, usize, u32, u32, u32)>>;

/// Buffers that words share.
#[derive(Default)]
struct Work {
    symbols: Vec<Symbol>,
    queue: Queue,
}

/// A token in the making and its living neighbours (out of range at the ends).
#[derive(Clone, Copy)]
struct Symbol {
    id: u32,
    prev: usize,
    next: usize,
}
