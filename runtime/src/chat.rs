//! Chat templates: takes messages, returns the text a model was trained to continue, with the places remembered at which
//! a user's text must not become a control token.
//!
//! Templates are Jinja programs out of model files, so they run with limits: [`MAX_TEMPLATE`] bytes of source, a fuel
//! that grows with the number of messages, [`MAX_INPUT`] and [`MAX_OUTPUT`] bytes of text, only the filters listed in
//! `sandbox`, no macros, includes or inheritance, and no assignment that could double a value each time it runs
//! (`guard`). Tools are not passed to templates.
//!
//! **Control tokens.** Messages are rendered as they are, with a character that occurs nowhere else put inside whatever
//! could become a control token; afterwards that character is taken out and its places are the *breaks* of
//! [`Rendered`], which no control token may span. So text without such names is tokenised exactly as a whole.

mod guard;
mod sandbox;

use crate::gguf::{Gguf, printable};
use crate::tokenizer::{Tokenizer, TokenizerError};
use minijinja::{Environment, context};
use std::io::Write;
use std::path::PathBuf;

/// Bytes of a template.
pub const MAX_TEMPLATE: usize = 1 << 16;
/// Bytes of all messages of a chat together.
pub const MAX_INPUT: usize = 1 << 22;
/// Bytes of a rendered chat.
pub const MAX_OUTPUT: usize = 1 << 23;
/// Messages of a chat.
pub const MAX_MESSAGES: usize = 1 << 12;

/// Roles a message may have. The list is closed: some templates make control tokens of the role's name.
pub const ROLES: &[&str] = &["system", "developer", "user", "assistant", "tool", "function"];

/// Instructions a template may run, and how many more for each message.
const FUEL: (u64, u64) = (3_000, 500);

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
                      {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
const PLAIN: &str = "{% for m in messages %}{{ m.content + '\n' }}{% endfor %}";

/// A message of a chat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// One of [`ROLES`].
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A message.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

/// A chat as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// Ascending byte offsets in `text` that no control token may span.
    breaks: Vec<usize>,
}

impl Rendered {
    pub(crate) fn breaks(&self) -> &[usize] {
        &self.breaks
    }
}

/// A refused template or chat.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}: {place}: {fault}; {}", file.display(), fault.remedy())]
pub struct ChatError {
    /// The model file.
    pub file: PathBuf,
    /// `tokenizer.chat_template` or `messages[i]`.
    pub place: String,
    /// What is wrong.
    pub fault: ChatFault,
}

/// What is wrong with a template or a chat.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ChatFault {
    /// The metadata cannot be read.
    #[error("{0}")]
    Metadata(String),
    /// More than a limit of this module.
    #[error("{what} of {found} is above the limit of {cap}")]
    TooLarge {
        /// What is counted.
        what: &'static str,
        /// How much there is.
        found: usize,
        /// The limit.
        cap: usize,
    },
    /// The template uses what is not allowed here.
    #[error("line {line}: {what}")]
    Refused {
        /// Line of the template.
        line: usize,
        /// What is not allowed.
        what: String,
    },
    /// The template is no Jinja, or failed.
    #[error("{0}")]
    Template(String),
    /// The template called `raise_exception`.
    #[error("the template refuses this chat: {0}")]
    Raised(String),
    /// The template ran longer or wrote more than its limits.
    #[error("the template exceeded its {0}")]
    Exhausted(&'static str),
    /// A role that is not in [`ROLES`].
    #[error("unknown role `{0}`")]
    Role(String),
    /// No message at all.
    #[error("no messages")]
    Empty,
}

impl ChatFault {
    /// What a person can do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } | Self::Exhausted("output limit") => "shorten the chat",
            Self::Role(_) => "use system, developer, user, assistant, tool or function",
            Self::Empty => "give at least one message",
            Self::Raised(_) => "order the messages as the model expects",
            Self::Metadata(_) | Self::Refused { .. } | Self::Template(_) | Self::Exhausted(_) => {
                "give a template of your own in place of the model's"
            }
        }
    }
}

/// A compiled chat template.
pub struct ChatTemplate {
    file: PathBuf,
    env: Environment<'static>,
    controls: Vec<String>,
    bos: String,
    eos: String,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ChatTemplate({})", self.file.display())
    }
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// The template of a file. Without one: ChatML when the vocabulary has `<|im_start|>` and `<|im_end|>`, else the
    /// messages' texts line by line.
    ///
    /// # Errors
    /// [`ChatError`] when the template is larger than [`MAX_TEMPLATE`], is no Jinja, or uses what is not allowed.
    pub fn from_gguf(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        let source = gguf.str("tokenizer.chat_template").map_err(|e| ChatError {
            file: e.file,
            place: e.place,
            fault: ChatFault::Metadata(e.fault.to_string()),
        })?;
        let chatml = ["<|im_start|>", "<|im_end|>"].iter().all(|t| tokenizer.control(t).is_some());
        let source = source.unwrap_or(if chatml { CHATML } else { PLAIN });
        Self::new(source, tokenizer).map_err(|e| ChatError { file: gguf.path().to_path_buf(), ..e })
    }

    /// A template given as text, for the vocabulary of `tokenizer`.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_gguf`].
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<Self, ChatError> {
        let file = PathBuf::from("chat template");
        let fail = |fault| ChatError { file: file.clone(), place: "tokenizer.chat_template".to_owned(), fault };
        if source.len() > MAX_TEMPLATE {
            let (what, found) = ("a template size", source.len());
            return Err(fail(ChatFault::TooLarge { what, found, cap: MAX_TEMPLATE }));
        }
        guard::check(source).map_err(|(line, what)| fail(ChatFault::Refused { line, what }))?;
        let mut env = sandbox::environment();
        env.add_template_owned(NAME, source.to_owned())
            .map_err(|e| fail(ChatFault::Template(printable(&e.to_string()))))?;
        let name = |id: Option<u32>| {
            id.map_or_else(String::new, |id| String::from_utf8_lossy(tokenizer.token_bytes(id)).into_owned())
        };
        Ok(Self {
            file: file.clone(),
            env,
            controls: tokenizer.controls().map(|(t, _)| t.to_ascii_lowercase()).filter(|t| !t.is_empty()).collect(),
            bos: name(tokenizer.bos()),
            eos: name(tokenizer.ends().first().copied()),
        })
    }

    /// Renders a chat; with `add_generation_prompt` up to where the assistant's turn begins.
    ///
    /// # Errors
    /// [`ChatError`] for an unknown role, too much text, or a template that fails, refuses the chat, or runs out of its
    /// limits.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Rendered, ChatError> {
        let fail = |place: &str, fault| ChatError { file: self.file.clone(), place: place.to_owned(), fault };
        if messages.is_empty() {
            return Err(fail("messages", ChatFault::Empty));
        }
        let size = messages.iter().map(|m| m.content.len()).sum::<usize>();
        for (what, found, cap) in
            [("a number of messages", messages.len(), MAX_MESSAGES), ("a chat size", size, MAX_INPUT)]
        {
            if found > cap {
                return Err(fail("messages", ChatFault::TooLarge { what, found, cap }));
            }
        }
        if let Some((i, m)) = messages.iter().enumerate().find(|(_, m)| !ROLES.contains(&m.role.as_str())) {
            return Err(fail(&format!("messages[{i}].role"), ChatFault::Role(printable(&m.role))));
        }
        let mark = unused_char(messages);
        let marked: Vec<minijinja::Value> = messages
            .iter()
            .map(|m| context! { role => m.role, content => mark_controls(&m.content, &self.controls, mark) })
            .collect();
        let text = self.run(marked, add_generation_prompt).map_err(|f| fail("tokenizer.chat_template", f))?;
        Ok(unmark(&text, mark))
    }

    fn run(&self, messages: Vec<minijinja::Value>, add_generation_prompt: bool) -> Result<String, ChatFault> {
        let mut env = self.env.clone();
        env.set_fuel(Some(FUEL.0 + FUEL.1 * messages.len() as u64));
        let template = env.get_template(NAME).map_err(|e| ChatFault::Template(printable(&e.to_string())))?;
        let values = context! {
            messages,
            add_generation_prompt,
            bos_token => self.bos,
            eos_token => self.eos,
            tools => (),
            documents => (),
        };
        let mut out = Capped { bytes: Vec::new(), full: false };
        let result = template.render_captured_to(values, &mut out);
        if out.full {
            return Err(ChatFault::Exhausted("output limit"));
        }
        result.map_err(|e| match (e.kind(), sandbox::raised(&e)) {
            (minijinja::ErrorKind::OutOfFuel, _) => ChatFault::Exhausted("instruction limit"),
            (_, Some(message)) => ChatFault::Raised(printable(&message)),
            _ => ChatFault::Template(printable(&e.to_string())),
        })?;
        String::from_utf8(out.bytes).map_err(|_| ChatFault::Template("the output is not UTF-8".to_owned()))
    }
}

/// A writer that stops at [`MAX_OUTPUT`].
struct Capped {
    bytes: Vec<u8>,
    full: bool,
}

impl Write for Capped {
    fn write(&mut self, b: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + b.len() > MAX_OUTPUT {
            self.full = true;
            return Err(std::io::Error::other("output limit"));
        }
        self.bytes.extend_from_slice(b);
        Ok(b.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A character of a private-use plane that no message holds. There are 65,534 in it; a chat that holds all of them loses
/// the last one from its text.
fn unused_char(messages: &[Message]) -> char {
    let mut used: Vec<char> =
        messages.iter().flat_map(|m| m.content.chars()).filter(|c| ('\u{100000}'..='\u{10fffd}').contains(c)).collect();
    used.sort_unstable();
    ('\u{100000}'..='\u{10fffd}').find(|c| used.binary_search(c).is_err()).unwrap_or('\u{10fffd}')
}

/// Puts `mark` inside everything in `content` that is a control token, begins one at its end, or ends one at its
/// beginning, whatever the letters' case.
fn mark_controls(content: &str, controls: &[String], mark: char) -> String {
    let lower = content.to_ascii_lowercase();
    let mut places = Vec::new();
    for t in controls {
        let first = t.chars().next().map_or(0, char::len_utf8);
        places.extend(lower.match_indices(t.as_str()).map(|(at, _)| at + first));
        let cuts = t.char_indices().map(|(i, _)| i).skip(1);
        for cut in cuts {
            if lower.ends_with(&t[..cut]) {
                places.push(lower.len() - cut + first);
            }
            if lower.starts_with(&t[cut..]) {
                places.push(0);
            }
        }
    }
    places.sort_unstable();
    places.dedup();
    let mut out = String::with_capacity(content.len() + places.len() * mark.len_utf8());
    let mut from = 0;
    for p in places {
        out.push_str(&content[from..p]);
        out.push(mark);
        from = p;
    }
    out.push_str(&content[from..]);
    out
}

/// Takes the marks out and remembers where they were.
fn unmark(text: &str, mark: char) -> Rendered {
    let mut out = Rendered { text: String::with_capacity(text.len()), breaks: Vec::new() };
    for (i, part) in text.split(mark).enumerate() {
        if i > 0 {
            out.breaks.push(out.text.len());
        }
        out.text.push_str(part);
    }
    out
}

impl From<TokenizerError> for ChatError {
    fn from(e: TokenizerError) -> Self {
        Self { file: e.file, place: e.place, fault: ChatFault::Metadata(e.fault.to_string()) }
    }
}
