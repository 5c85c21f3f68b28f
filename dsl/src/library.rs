//! The standard library: its modules as source texts, in the language itself.
//!
//! [`std_source`] gives the text of one module by its path, [`std_files`] all of them. Boundaries and formats that are
//! part of decoding are built in and only mentioned there.

/// Path and source of every module, sorted by path.
const FILES: &[(&str, &str)] = &[
    ("std::answer", include_str!("../std/answer.infer")),
    ("std::prompts", include_str!("../std/prompts.infer")),
    ("std::steps", include_str!("../std/steps.infer")),
];

/// The source of a module, such as `std::prompts`.
#[must_use]
pub fn std_source(path: &str) -> Option<&'static str> {
    FILES.iter().find(|(known, _)| *known == path).map(|(_, source)| *source)
}

/// Path and source of every module, sorted by path.
#[must_use]
pub fn std_files() -> &'static [(&'static str, &'static str)] {
    FILES
}
