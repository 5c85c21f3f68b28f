//! The cost of a piece of program: maxima of tokens, calls, live sequences and KV, and how they come about.
//!
//! Arithmetic saturates: the largest count means "too many", and is refused by the caller.

use ir::strategy::Bounds;
use std::fmt::Write as _;

/// Products kept for the explanation.
const MAX_TERMS: usize = 12;

/// A product in the explanation: `for 0..32 (32) × max 256tok = 8 192`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) factors: Vec<String>,
    /// Tokens of all times together.
    pub(crate) tokens: u64,
    /// How often the same product stands in the sequence.
    pub(crate) times: u32,
}

impl Term {
    /// A product that stands once.
    pub(crate) fn new(factors: Vec<String>, tokens: u64) -> Self {
        Self { factors, tokens, times: 1 }
    }
}

/// Maxima.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) bounds: Bounds,
    /// Tokens that all rounds of a loop share, by loop: a pool that was split.
    pub(crate) pooled: Vec<(u32, u64)>,
    pub(crate) terms: Vec<Term>,
}

impl Cost {
    /// So many model calls.
    pub(crate) fn calls(n: u64) -> Self {
        Self { bounds: Bounds { calls: n, ..Bounds::default() }, ..Self::default() }
    }

    /// All tokens, pools included.
    pub(crate) fn tokens(&self) -> u64 {
        self.pooled.iter().fold(self.bounds.tokens, |sum, (_, pool)| sum.saturating_add(*pool))
    }

    pub(crate) fn is_free(&self) -> bool {
        self.tokens() == 0 && self.bounds.calls == 0
    }

    /// First this, then that.
    pub(crate) fn then(&mut self, next: Self) {
        self.bounds.tokens = self.bounds.tokens.saturating_add(next.bounds.tokens);
        self.bounds.calls = self.bounds.calls.saturating_add(next.bounds.calls);
        self.bounds.live = self.bounds.live.max(next.bounds.live);
        self.bounds.kv_tokens = self.bounds.kv_tokens.max(next.bounds.kv_tokens);
        self.pooled.extend(next.pooled);
        self.add_terms(next.terms);
    }

    /// Both at the same time.
    pub(crate) fn beside(&mut self, other: Self) {
        let live = self.bounds.live.saturating_add(other.bounds.live);
        let kv_tokens = self.bounds.kv_tokens.saturating_add(other.bounds.kv_tokens);
        self.then(other);
        self.bounds.live = live;
        self.bounds.kv_tokens = kv_tokens;
    }

    /// One of both.
    pub(crate) fn or(self, other: Self) -> Self {
        let (mut more, less) = if self.tokens() >= other.tokens() { (self, other) } else { (other, self) };
        more.bounds.calls = more.bounds.calls.max(less.bounds.calls);
        more.bounds.live = more.bounds.live.max(less.bounds.live);
        more.bounds.kv_tokens = more.bounds.kv_tokens.max(less.bounds.kv_tokens);
        more
    }

    /// `n` rounds, one after the other; pools of this loop count once.
    pub(crate) fn repeated(mut self, n: u64, id: u32, what: &str) -> Self {
        let mut tokens = self.bounds.tokens.saturating_mul(n);
        for (pool, size) in std::mem::take(&mut self.pooled) {
            let times = if pool == id { 1 } else { n };
            tokens = tokens.saturating_add(size.saturating_mul(times));
        }
        self.bounds.tokens = tokens;
        self.bounds.calls = self.bounds.calls.saturating_mul(n);
        for term in &mut self.terms {
            if term.factors.first().is_some_and(|f| f.starts_with("pool ")) {
                continue;
            }
            term.tokens = term.tokens.saturating_mul(n);
            term.factors.insert(0, format!("{what} ({})", spaced(n)));
        }
        self
    }

    /// `n` rounds at the same time.
    pub(crate) fn parallel(self, n: u64, id: u32, what: &str) -> Self {
        let (live, kv_tokens) = (self.bounds.live.saturating_mul(n), self.bounds.kv_tokens.saturating_mul(n));
        let mut cost = self.repeated(n, id, what);
        cost.bounds.live = live;
        cost.bounds.kv_tokens = kv_tokens;
        cost
    }

    /// Under a guard: never more than the limits.
    pub(crate) fn capped(mut self, tokens: Option<u64>, calls: Option<u64>) -> Self {
        if let Some(limit) = tokens.filter(|limit| *limit < self.tokens()) {
            self.pooled.clear();
            self.bounds.tokens = limit;
            self.bounds.kv_tokens = self.bounds.kv_tokens.min(limit);
            self.terms = vec![Term::new(vec![format!("within {}", tokens_text(limit))], limit)];
        }
        if let Some(limit) = calls {
            self.bounds.calls = self.bounds.calls.min(limit);
        }
        self
    }

    fn add_terms(&mut self, terms: Vec<Term>) {
        for term in terms {
            if let Some(same) = self.terms.iter_mut().find(|t| t.factors == term.factors) {
                same.tokens = same.tokens.saturating_add(term.tokens);
                same.times = same.times.saturating_add(term.times);
            } else if term.tokens > 0 && self.terms.len() < MAX_TERMS {
                self.terms.push(term);
            }
        }
    }

    /// The explanation, one product a line.
    pub(crate) fn derivation(&self) -> Vec<String> {
        self.terms
            .iter()
            .map(|t| {
                let mut line = t.factors.join(" × ");
                if t.times > 1 {
                    let _ = write!(line, ", {} times", t.times);
                }
                let _ = write!(line, " = {}", spaced(t.tokens));
                line
            })
            .collect()
    }
}

/// `131 072`
pub(crate) fn spaced(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// `4ktok`, `256tok`
pub(crate) fn tokens_text(n: u64) -> String {
    if n >= 1000 && n.is_multiple_of(1000) { format!("{}ktok", n / 1000) } else { format!("{n}tok") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped() {
        assert_eq!(spaced(0), "0");
        assert_eq!(spaced(131_072), "131 072");
        assert_eq!(spaced(1_000_000), "1 000 000");
    }
}
