//! From an artifact to something that runs: models loaded, tokenizers and chat templates read, token rules mapped.
//!
//! Roles that name the same file share its weights, and artifacts loaded from one [`Shelf`] do. Loading says what it does
//! through a callback; nothing is printed.

use anyhow::{Context as _, Result};
use ir::artifact::Artifact;
use ir::code::Code;
use ir::plan::ModelPlan;
use ir::program::Program;
use ir::rule::TokenRule;
use ir::strategy::{Binding, Speaker};
use runtime::chat::{ChatTemplate, Message};
use runtime::device::cpu::{Function, Image};
use runtime::exec::{ChatMessage, Fired, TextCodec, TokenRules};
use runtime::forward::{Loaded, LocalModel, Options};
use runtime::gguf::Gguf;
use runtime::session::{Engine, RoleModel, Session};
use runtime::tokenizer::{TokenKind, Tokenizer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// A loaded artifact.
pub struct Ready {
    /// The plan made ready; arguments are read with it.
    pub engine: Arc<Engine>,
    /// Runs requests.
    pub session: Session,
    /// Bytes of resident weights of all models.
    pub weight_bytes: u64,
    /// Tokenizers by role, for showing tokens.
    pub codecs: BTreeMap<String, Arc<Codec>>,
}

/// Tokenizer and chat template of a model.
pub struct Codec {
    tokenizer: Tokenizer,
    template: ChatTemplate,
}

impl Codec {
    /// Reads both from a file.
    ///
    /// # Errors
    /// When the file's tokenizer or template is missing, malformed or not supported.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self> {
        let tokenizer = Tokenizer::from_gguf(gguf)?;
        let template = ChatTemplate::from_gguf(gguf, &tokenizer)?;
        Ok(Self { tokenizer, template })
    }

    /// The tokenizer.
    #[must_use]
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }
}

impl TextCodec for Codec {
    fn encode_chat(&self, messages: &[ChatMessage<'_>], add_generation_prompt: bool) -> Result<Vec<u32>, String> {
        let role = |s: Speaker| match s {
            Speaker::System => "system",
            Speaker::User => "user",
            Speaker::Assistant => "assistant",
        };
        let messages: Vec<Message> = messages.iter().map(|m| Message::new(role(m.speaker), m.text)).collect();
        let rendered = self.template.render(&messages, add_generation_prompt).map_err(|e| e.to_string())?;
        self.tokenizer.encode_rendered(&rendered).map_err(|e| e.to_string())
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode(text, false).map_err(|e| e.to_string())
    }

    fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        // Control tokens are no text: a sampled one must not show in answers or count inside enforced formats.
        match self.tokenizer.kind(id) {
            Some(TokenKind::Control) => Cow::Borrowed(&[]),
            _ => Cow::Borrowed(self.tokenizer.token_bytes(id)),
        }
    }

    fn end_tokens(&self) -> &[u32] {
        self.tokenizer.ends()
    }

    fn vocabulary(&self) -> usize {
        self.tokenizer.vocab_size()
    }
}

/// Compiled token rules.
struct Rules {
    rules: Vec<(TokenRule, Function)>,
}

impl TokenRules for Rules {
    fn rule(&self, site: u32, rule: u32) -> Option<&TokenRule> {
        self.rules.iter().map(|(r, _)| r).find(|r| r.site == site && r.rule == rule)
    }

    fn fire(&self, rule: &TokenRule, stats: &[f32], captures: &[f32]) -> Fired {
        let mut out = [0.0_f32; 2];
        if let Some((_, function)) = self.rules.iter().find(|(r, _)| r.site == rule.site && r.rule == rule.rule) {
            function.call(&[stats, captures], &mut out);
        }
        Fired { fires: out[0] != 0.0, temperature: out[1] }
    }
}

/// Ways of laying out the weights of one file that a shelf keeps.
const LAYOUTS: usize = 2;

/// Model files that were opened, with their resident weights: artifacts loaded one after another share them.
#[derive(Default)]
pub struct Shelf {
    files: BTreeMap<String, File>,
    /// Files that somebody opened before, by path.
    opened: BTreeMap<String, Arc<Gguf>>,
}

struct File {
    gguf: Arc<Gguf>,
    codec: Arc<Codec>,
    identity: String,
    /// One for each layout of the weights, the one used last at the end.
    loaded: Vec<Arc<Loaded>>,
}

impl Shelf {
    /// A shelf for files that are open already, by path.
    #[must_use]
    pub fn opened(opened: BTreeMap<String, Arc<Gguf>>) -> Self {
        Self { opened, ..Self::default() }
    }

    /// Loads an artifact. `bindings` are the verifier roles', `tuned` the values of tunables, `say` gets one line per step.
    ///
    /// # Errors
    /// When a model file is missing, malformed or another one than the plan was made for, or memory is short.
    pub fn load(
        &mut self,
        artifact: Artifact,
        bindings: &[(String, Binding)],
        tuned: &[(String, String)],
        cancel: &Arc<AtomicBool>,
        say: &mut dyn FnMut(&str),
    ) -> Result<Ready> {
        let mut models = Vec::new();
        let mut codecs = BTreeMap::new();
        let mut counted: Vec<Arc<Loaded>> = Vec::new();
        for (role, plan) in artifact.plan.models.iter().enumerate() {
            let (Some(plan), Some(program)) = (plan, &artifact.programs[role]) else { continue };
            let file = self.file(plan, say)?;
            let loaded =
                file.loaded(plan, program, &artifact.code[role]).with_context(|| format!("model `{}`", plan.role))?;
            let codec = file.codec.clone();
            let kv_pages = u32::try_from(plan.kv_pages).unwrap_or(u32::MAX);
            let options = Options { threads: plan.schedule.threads as usize, kv_pages };
            let mut model =
                LocalModel::new(loaded.clone(), &options).with_context(|| format!("model `{}`", plan.role))?;
            model.set_cancel(cancel.clone());
            if counted.iter().all(|other| !other.shares_weights(&loaded)) {
                counted.push(loaded);
            }
            codecs.insert(plan.role.clone(), codec.clone());
            models.push(RoleModel { role: plan.role.clone(), model: Box::new(model), codec });
        }
        let rules = rules(&artifact)?;
        let engine = Arc::new(Engine::new(artifact.plan, tuned, rules)?);
        let session = Session::new(engine.clone(), models, bindings);
        let weight_bytes = counted.iter().map(|l| l.weight_bytes()).sum();
        Ok(Ready { engine, session, weight_bytes, codecs })
    }

    /// The file of a model, opened when it is not.
    fn file(&mut self, plan: &ModelPlan, say: &mut dyn FnMut(&str)) -> Result<&mut File> {
        let role = || format!("model `{}`", plan.role);
        let file = match self.files.entry(plan.path.clone()) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => {
                say(&format!("load {} ({})", plan.role, plan.path));
                let gguf = match self.opened.remove(&plan.path) {
                    Some(open) => open,
                    None => Arc::new(Gguf::open(Path::new(&plan.path)).with_context(role)?),
                };
                let identity = gguf.model().with_context(role)?.identity;
                let codec = Arc::new(Codec::from_gguf(&gguf)?);
                place.insert(File { gguf, codec, identity, loaded: Vec::new() })
            }
        };
        crate::artifact::same_model(&plan.role, &plan.path, &file.identity, &plan.model.identity)?;
        Ok(file)
    }
}

impl File {
    /// A program of the file's model, on resident weights that are there if it wants these.
    fn loaded(&mut self, plan: &ModelPlan, program: &Program, code: &Code) -> Result<Arc<Loaded>> {
        let threads = plan.schedule.threads as usize;
        let mut found = None;
        for at in 0..self.loaded.len() {
            if let Some(loaded) = self.loaded[at].with_program(program, code)? {
                found = Some((at, loaded));
                break;
            }
        }
        let loaded = match found {
            Some((at, loaded)) => {
                self.loaded.remove(at);
                loaded
            }
            None => Loaded::load(self.gguf.clone(), &plan.model, program, code, threads)?,
        };
        if self.loaded.len() >= LAYOUTS {
            self.loaded.remove(0);
        }
        self.loaded.push(loaded.clone());
        Ok(loaded)
    }
}

fn rules(artifact: &Artifact) -> Result<Option<Arc<dyn TokenRules>>> {
    if artifact.rules.is_empty() {
        return Ok(None);
    }
    let image = Image::load(&artifact.rule_code)?;
    let rules =
        artifact.rules.iter().map(|r| Ok((r.clone(), image.function(&r.kernel)?))).collect::<Result<Vec<_>>>()?;
    Ok(Some(Arc::new(Rules { rules })))
}
