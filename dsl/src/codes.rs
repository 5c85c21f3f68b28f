//! Every code the language may say: a title and a long text (cause, an example that fails, the same mended) for
//! `inferc explain E0310`.
//!
//! One table, in the order of the numbers. Ranges: E01xx syntax (written beside the parser), E02xx names, types and
//! capabilities, E03xx bounds, E04xx budgets, E05xx formats, E09xx checked but not executable yet, W04xx lints.
//! Codes are stable: a code is never given another meaning. It prints nothing.

use ir::diagnostic::Code;

/// A code with its words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The code.
    pub code: Code,
    /// One line.
    pub title: &'static str,
    /// Cause, an example that fails, the same mended.
    pub text: &'static str,
}

macro_rules! codes {
    ($($name:ident $title:literal $text:literal)*) => {
        $(#[doc = $title] pub const $name: Code = Code(stringify!($name));)*
        /// The codes of names, types, bounds, budgets, formats and lints, sorted.
        pub const CODES: &[Entry] = &[$(Entry { code: $name, title: $title, text: $text }),*];
    };
}

/// Looks a code up, whatever the case of its letter, the codes of the syntax included.
#[must_use]
pub fn explain(code: &str) -> Option<Entry> {
    let same = |name: &str| name.eq_ignore_ascii_case(code);
    let syntax = crate::parse::SYNTAX_CODES.iter().map(|(code, title, text)| Entry { code: *code, title, text });
    CODES.iter().copied().chain(syntax).find(|e| same(e.code.0))
}

codes! {
    E0201 "a name is not defined"
"The name stands for nothing here: no parameter, `let`, item, built-in or import has it.

Fails:
    strategy s(q: Text) -> Sample<Text> { gen(bsae, solve(q), max: 1ktok) }
Mended:
    model base : Generator;
    strategy s(q: Text) -> Sample<Text> { gen(base, solve(q), max: 1ktok) }

Models are declared with `model`, library items are brought in with `use std::prompts::solve;`."
    E0202 "a value has no such field or method"
"The type of the value decides which fields it has; `inferc explain` prints the type in the message.

Fails:
    let s = gen(base, solve(q), max: 1ktok);
    s.txt
Mended:
    s.text"
    E0203 "a quantity has the wrong unit, or none"
"Tokens, time, money and bytes are different types and carry their unit. A bare number is never a budget.

Fails:
    gen(base, solve(q), max: 1000)
Mended:
    gen(base, solve(q), max: 1000tok)

Units: tok ktok Mtok; us ms s min h d; usd; B kB MB GB TB KiB MiB GiB TiB; %. 1 k = 1000."
    E0204 "a value has another type than needed"
"There are no implicit conversions. A value of type T may stand where `T?` is needed, nothing else changes its type.

Fails:
    fn f(xs: [Sample<Text>; 4]) -> Text { best(xs, by: |s| s.logprob) }
Mended:
    fn f(xs: [Sample<Text>; 4]) -> Text { let s = best(xs, by: |s| s.logprob) ?? fail \"none\"; s.text }"
    E0205 "a call does not fit its function"
"An argument is missing, unknown, or given twice. Settings are given by name.

Fails:
    best(tries)
Mended:
    best(tries, by: |s| s.logprob)"
    E0206 "a score is not a probability"
"`Score` is uncalibrated: its order means something, its size does not. It may be compared with another `Score` only.
A threshold needs a calibrated `Prob`, which `verify` gives for a `Verifier`.

Fails:
    model orm : Scorer;
    if score(orm, s) > 0.8 { s } else { fail \"weak\" }
Mended:
    model judge : Verifier;
    if verify(judge, s) > 0.8 { s } else { fail \"weak\" }"
    E0207 "a model lacks a capability"
"A role gives text. Rules that look at the next-token distribution need more, and say so, so that a binding that cannot
give it (most served endpoints) is refused before it runs.

Fails:
    model base : Generator;
    sample(base, solve(q), n: 1, live: 8, max: 1ktok) on { token(d) when d.entropy > 2.0 => branch(2); }
Mended:
    model base : Generator needs logits;"
    E0208 "a name is defined twice"
"Items of a file share one space of names; parameters and patterns may not repeat a name either. A model role of the same
name in two files is one role and must have one kind.

Fails:
    model base : Generator;
    model base : Scorer;
Mended:
    model base : Generator;
    model orm  : Scorer;"
    E0209 "something refers to itself"
"Functions, constants, types and files may not refer to themselves, directly or in a circle: without recursion every
program has a bound.

Fails:
    fn again(q: Text) -> Text { again(q) }
Mended:
    fn again(q: Text) -> Text { for i in 0..3 carry t = q { t + \"!\" } }"
    E0210 "an import cannot be found"
"`use a::b;` reads `a.infer` next to this file (or the library for `std`), and takes the item `b` from it.

Fails:
    use std::prompts::slove;
Mended:
    use std::prompts::solve;"
    E0211 "a construct stands where it means nothing"
"`break` belongs in a `for`, `return` in a function, `mock` in a test, actions in rules; functions are values only as
arguments of calls.

Fails:
    strategy s(q: Text) -> Text { break q }
Mended:
    strategy s(q: Text) -> Text { return q }"
    E0212 "a pattern does not fit, or cases are missing"
"A `match` covers every value: every label of an enum, both truth values, or a last arm `_`.

Fails:
    match level { easy => 1, }
Mended:
    match level { easy => 1, hard => 2, }"
    E0213 "not allowed in this rule"
"A `token` rule runs inside the sampler, so its condition is arithmetic over the distribution, tunables and names from
outside: no calls of models, no loops. Every level has its own actions.

Fails:
    on { token(d) when verify(judge, s) > 0.5 => stop; }
Mended:
    on { end(s) when verify(judge, s) < 0.5 => drop; }"
    E0214 "`max` is missing"
"Every sampled sequence says how long it may become; without it no bound exists.

Fails:
    gen(base, solve(q))
Mended:
    gen(base, solve(q), max: 1ktok)"
    E0215 "a value is outside its range"
"Defaults lie in their ranges, probabilities in 0..=1, temperatures are not negative, counts are at least 1.

Fails:
    strategy s(q: Text, n: Int = 64 in 1..=32) -> …
Mended:
    strategy s(q: Text, n: Int = 16 in 1..=32) -> …"
    E0216 "operands do not go together"
"Both sides of an operator have the same type. Quantities add to their own kind and are scaled by plain numbers.

Fails:
    1ktok + 2s
Mended:
    1ktok + 500tok"
    E0217 "a type is written wrong"
"Types take the arguments of the table: `Sample<T>`, `Vote<T>`, `[T; N]` with a constant N; ranges belong to numbers.

Fails:
    fn f(s: Sample<Text, Text>) -> Text { s.text }
Mended:
    fn f(s: Sample<Text>) -> Text { s.text }"
    E0218 "a constant was expected"
"List lengths, ranges, inline bindings, defaults, counts of actions and windows are fixed when the program is compiled.

Fails:
    token(d) when d.entropy.mean(k) > tau => stop;
Mended:
    token(d) when d.entropy.mean(16) > tau => stop;"
    E0301 "something has no static maximum"
"Every loop, list and sequence has a maximum that the compiler can see: a literal, a constant, or a parameter with a range.

Fails:
    strategy s(q: Text, n: Int) -> Vote<Text> { vote(sample(base, solve(q), n: n, max: 1ktok), by: |s| s.value) }
Mended:
    strategy s(q: Text, n: Int = 8 in 1..=32) -> Vote<Text> { … }"
    E0302 "a list may be longer than its type says"
"`[T; N]` holds at most N items.

Fails:
    fn f(q: Text) -> [Sample<Text>; 4] { sample(base, solve(q), n: 8, max: 1ktok) }
Mended:
    fn f(q: Text) -> [Sample<Text>; 8] { sample(base, solve(q), n: 8, max: 1ktok) }"
    E0303 "`live` is smaller than `n`"
"`live` is the most sequences that may be alive at once; the `n` first ones already are.

Fails:
    sample(base, solve(q), n: 8, live: 4, max: 1ktok)
Mended:
    sample(base, solve(q), n: 8, live: 16, max: 1ktok)"
    E0304 "a loop or set is larger than any plan can hold"
"At most 65 536 sequences may be alive at once, and a list may have at most 1 000 000 items.

Fails:
    sample(base, solve(q), n: 1_000_000_000, max: 1ktok)
Mended:
    sample(base, solve(q), n: 64, max: 1ktok)"
    E0305 "the program is too large"
"Calls are expanded in place and types written out in full, so a short text can mean a huge program. Both are capped.
So are the checks of a verifier, those of the verifiers inside `both` included.

Fails:
    let a1 = (a0, a0); let a2 = (a1, a1); … let a20 = (a19, a19);
Mended: use lists, or loops with constant ranges, instead of doubling."
    E0310 "branching has no upper limit"
"`branch` and `grow` add sequences. `live` says how many may be alive at once; without it tokens and KV are unbounded.

Fails:
    sample(base, solve(q), n: 1, max: 4ktok) on { token(d) when d.entropy > tau => branch(2); }
Mended:
    sample(base, solve(q), n: 1, live: 16, max: 4ktok) on { token(d) when d.entropy > tau => branch(2); }"
    E0401 "a strategy may use more than it declares"
"The static maximum of tokens or calls is above the limit of `within`. The message shows how the maximum comes about.

Fails:
    strategy s(q: Text) -> Vote<Text> within { tokens: 8ktok } { vote(sample(base, solve(q), n: 16, max: 1ktok), by: |s| s.value) }
Mended:
    within { tokens: 16ktok }, or n: 8"
    E0402 "no such limit or allowance"
"`within` knows tokens, calls, kv, time and usd; `allow` knows the approximations of the reference.

Fails:
    within { token: 8ktok }
Mended:
    within { tokens: 8ktok }"
    E0501 "no such output format"
"`out:` takes text, boxed, regex(\"…\"), json(T) or grammar(\"…\").

Fails:
    gen(base, solve(q), max: 1ktok, out: boxes)
Mended:
    gen(base, solve(q), max: 1ktok, out: boxed)"
    E0502 "a pattern is malformed"
"The regular expression cannot be read: a bracket is open, or there is nothing to repeat.

Fails:
    out: regex(\"[0-9\")
Mended:
    out: regex(\"[0-9]+\")"
    E0503 "a type has no JSON form"
"`json(T)` needs records, enums, lists, texts, numbers, truth values and optionals of these.

Fails:
    out: json(Ctx)
Mended:
    type Plan { steps: [Text; 6] }   …   out: json(Plan)"
    E0901 "this rule or action does not run yet"
"The construct is part of the language and checked, but version 0.1 cannot execute it: step rules and the actions switch,
redo, insert and force. Until then, an answer-level rule (`end`, `set`) often does.

Fails:
    gen(tiny, solve(q), max: 2ktok) on { token(d) when d.entropy > hi => switch(large); }
Mended:
    let s = gen(tiny, solve(q), max: 2ktok);
    if s.entropy > hi { gen(large, solve(q), max: 2ktok) } else { s }"
    E0902 "this operation does not run yet"
"The operation is part of the language and checked, but version 0.1 cannot execute it: begin, advance, resample, mix, race,
split, nearest, classify, grammar formats and per-step scores.

Fails:
    race { gen(base, solve(q), max: 1ktok), gen(small, solve(q), max: 1ktok) }
Mended:
    gen(small, solve(q), max: 1ktok)"
    E0903 "this item does not run yet"
"Tools, precomputes and endpoint bindings are part of the language and checked, but version 0.1 cannot execute them.

Fails:
    model large : Generator = endpoint(\"http://127.0.0.1:8000/v1\", \"name\");
Mended:
    model large : Generator = gguf(\"models/large.gguf\");"
    E0904 "control flow that does not run yet"
"`return` from inside a loop or a parallel block of a called function, and strategies called inside blocks of a test.

Fails:
    fn first(xs: [Int; 4]) -> Int { for x in xs { if x > 0 { return x } }  0 }
Mended:
    fn first(xs: [Int; 4]) -> Int { for x in xs carry r = 0 { if x > 0 { break x } r } }"
    W0401 "an import is not used"
"Nothing in the file uses the imported name. Remove it."
    W0402 "a name is never used"
"Nothing reads the value; a call in it still costs tokens. Remove it, or let the name begin with `_`."
    W0403 "an arm can never be taken"
"An arm above it already takes every value that it could take, or the label is not among the labels of the choice."
    W0404 "a label has no arm"
"A label of the choice has no arm of its own, so it goes to `else`. Give it an arm if that is not meant."
    W0405 "an allowance has no effect yet"
"The approximation is known, but the planner has no such alternative yet: it changes neither results nor costs."
    W0421 "KV of one model is useless to another"
"Keys and values belong to one model. A precomputed context that is not warmed for the answering model is prefilled again
when the question arrives.

    precompute study(doc: Text) -> Ctx warm small { … }"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_sorted_and_worded() {
        assert!(CODES.windows(2).all(|w| w[0].code < w[1].code));
        for entry in CODES {
            assert!(!entry.title.ends_with('.') && entry.text.len() > 40, "{}", entry.code.0);
        }
    }

    #[test]
    fn explain_finds_codes_in_any_case() {
        assert_eq!(explain("e0310").map(|e| e.title), Some("branching has no upper limit"));
        assert_eq!(explain("E9999"), None);
    }
}
