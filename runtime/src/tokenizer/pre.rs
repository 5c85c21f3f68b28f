//! Pre-tokenizers: takes a text, cuts it into the words that merges stay inside of.
//!
//! The patterns are those the models were trained with, by the name in `tokenizer.ggml.pre`. Their one look-ahead,
//! `\s+(?!\S)`, is done by hand, which leaves patterns that match in linear time.

use regex::Regex;

/// The look-ahead of all patterns here: white space up to the last blank before a word, then that blank.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";

/// A compiled pattern, and how its `\s+` behaves.
struct Step {
    pattern: Regex,
    blanks: Blanks,
}

/// Which matches of white space leave their last character to the word after them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blanks {
    /// The pattern matches none.
    None,
    /// All.
    Yield,
    /// Those that do not end a line: runs up to line ends have a rule of their own.
    YieldInLine,
}

/// A pre-tokenizer.
pub(super) struct Pre {
    steps: Vec<Step>,
    /// A word that is a token is that token, whatever the merges say.
    pub(super) whole_words: bool,
    /// Whether a beginning-of-sequence token is added unless the file says otherwise.
    pub(super) add_bos: bool,
}

impl Pre {
    /// The pre-tokenizer of a name; `None` when it is not known.
    pub(super) fn named(name: &str) -> Option<Self> {
        use Blanks::{None as No, Yield, YieldInLine};
        let (patterns, llama3): (&[(&str, Blanks)], bool) = match name {
            // What readers fall back to when a file names none.
            "default" => {
                (&[(r"[\p{P}\$\+<=>\^~\|]+", No), (GPT2, Yield), (r"\p{N}+", No), ("[0-9][0-9][0-9]", No)], false)
            }
            "gpt-2" | "phi-2" | "mpt" | "olmo" => (&[(GPT2, Yield)], false),
            "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" => (&[(r"\p{N}", No), (GPT2, Yield)], false),
            "qwen2" | "deepseek-r1-qwen" | "stablelm2" => (&[(QWEN2, YieldInLine)], false),
            "smaug-bpe" | "dbrx" => (&[(LLAMA3, YieldInLine)], false),
            "llama-bpe" | "llama3" | "llama-v3" => (&[(LLAMA3, YieldInLine)], true),
            _ => return None,
        };
        let step = |&(p, blanks): &(&str, Blanks)| Step {
            pattern: Regex::new(p).expect("the patterns of this file compile"),
            blanks,
        };
        Some(Self { steps: patterns.iter().map(step).collect(), whole_words: llama3, add_bos: llama3 })
    }

    /// Calls `word` with every word of `text` in order. Together they are the text.
    pub(super) fn words(&self, text: &str, word: &mut dyn FnMut(&str)) {
        self.split(0, text, word);
    }

    fn split(&self, step: usize, text: &str, word: &mut dyn FnMut(&str)) {
        let Some(s) = self.steps.get(step) else { return word(text) };
        let mut at = 0;
        while let Some(m) = s.pattern.find_at(text, at) {
            if m.start() > at {
                self.split(step + 1, &text[at..m.start()], word);
            }
            let end = s.blanks.end(text, m.as_str(), m.end());
            self.split(step + 1, &text[m.start()..end], word);
            at = end;
        }
        if at < text.len() {
            self.split(step + 1, &text[at..], word);
        }
    }
}

impl Blanks {
    /// Where a match ends once the look-ahead is applied: a run of several blanks in front of a word gives back its last.
    fn end(self, text: &str, run: &str, end: usize) -> usize {
        let mut chars = run.chars();
        let Some(last) = chars.next_back().filter(|c| self != Self::None && c.is_whitespace()) else { return end };
        let line_end = self == Self::YieldInLine && matches!(last, '\r' | '\n');
        let single = chars.as_str().is_empty();
        if line_end || single || end == text.len() || !run.chars().all(char::is_whitespace) {
            return end;
        }
        end - last.len_utf8()
    }
}

#[cfg(test)]
mod tests {
    use super::Pre;

    fn words(pre: &str, text: &str) -> Vec<String> {
        let mut all = Vec::new();
        Pre::named(pre).unwrap().words(text, &mut |w| all.push(w.to_owned()));
        all
    }

    #[test]
    fn words_are_cut_as_in_training() {
        assert_eq!(
            words("gpt-2", "Hello  world's 123\n\n x \n"),
            ["Hello", " ", " world", "'s", " 123", "\n\n", " x", " \n"]
        );
        assert_eq!(words("smollm", "a 123"), ["a", " ", "1", "2", "3"]);
        assert_eq!(
            words("qwen2", "x  12!?\n\n  y'LL \t\n z"),
            ["x", " ", " ", "1", "2", "!?\n\n", " ", " y", "'LL", " \t\n", " z"]
        );
        assert_eq!(words("llama-bpe", "1234 (a)"), ["123", "4", " (", "a", ")"]);
        assert_eq!(words("default", "1234 <a>"), ["123", "4", " ", "<", "a", ">"]);
        assert_eq!(words("gpt-2", ""), [""; 0]);
        assert_eq!(words("gpt-2", "\n\na"), ["\n", "\n", "a"]);
        assert_eq!(words("gpt-2", "a\u{a0}\u{2003}b"), ["a", "\u{a0}", "\u{2003}", "b"]);
    }
}
