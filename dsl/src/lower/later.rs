//! What to say about constructs that are checked but do not run yet: the words by construct.
//!
//! One table, so that the construct that is made executable loses exactly one row.

/// Construct, how it is called in messages, what to do instead.
const LATER: &[(&str, &str, &str)] = &[
    ("begin", "`begin`", "sample whole answers: `sample(m, c, n: …, max: …)`"),
    ("resample", "`resample`", "select whole answers with `top` or `vote`"),
    ("mix", "`mix`", "generate with one of the models"),
    ("split", "`split`", "give each part its own `within { tokens: … }`"),
    ("classify", "`classify`", "let a generator choose: `choose(m, c, [\"a\", \"b\"])`"),
    ("nearest", "`nearest`", "let a generator choose: `choose(m, c, [\"a\", \"b\"])`"),
    ("per-step scores", "a score of each step", "judge whole answers with a `Verifier` or `Scorer`"),
    ("windows of a sample", "a running mean over a sample", "use the mean over the whole sample: `s.entropy`"),
    ("p", "`d.p(…)`", "use `d.top1`, `d.margin` or `d.entropy`"),
    ("switch", "`switch`", "decide after the generation: `if s.entropy > hi { gen(large, …) } else { s }`"),
    ("redo", "`redo`", "generate again after the answer: `if verify(v, s) < ok { gen(large, …) } else { s }`"),
    ("insert", "`insert`", "put the text into the context and generate again: `c.add(s).add(\"…\")`"),
    ("force", "`force`", "put the text into the context and generate again: `c.add(s).add(\"…\")`"),
];

/// The words for a construct.
pub(super) fn words(name: &str) -> (&'static str, &'static str) {
    LATER
        .iter()
        .find(|(known, _, _)| *known == name)
        .map_or(("this construct", "leave it out"), |(_, what, help)| (*what, *help))
}
