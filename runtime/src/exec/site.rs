//! A sampling site before it runs: operands evaluated and checked, the prompt as tokens, the schedule of the plan.

use super::interp::{Flow, Interp};
use super::rules;
use super::{ChatMessage, RoleState, RunError};
use crate::sample::Sampling;
use crate::value::{Context, Value};
use ir::plan::{PrefixMode, ScoreMode, SitePlan};
use ir::strategy::{Action, DistField, Generate, Speaker, Var, Window};
use std::collections::VecDeque;
use std::sync::Arc;

/// Prompt tokens per step where the plan says nothing: between steps the caller may cancel.
pub(super) const PREFILL: usize = 512;

/// A site with its operands evaluated.
pub(super) struct Site<'a> {
    pub(super) generate: &'a Generate,
    pub(super) role: &'a RoleState,
    pub(super) role_index: u32,
    pub(super) context: Arc<Context>,
    pub(super) prompt: Arc<[u32]>,
    /// Sequences asked for.
    pub(super) n: u32,
    /// Sequences that may ever be started.
    pub(super) cap: u32,
    pub(super) max: usize,
    pub(super) holds: usize,
    pub(super) sampling: Sampling,
    pub(super) stops: Vec<String>,
    pub(super) ends: Vec<u32>,
    pub(super) seed: u64,
    pub(super) statistics: Vec<(DistField, Window)>,
    pub(super) waves: VecDeque<u32>,
    /// Where the keys of its prompt are.
    pub(super) prefix: PrefixMode,
    pub(super) chunk: usize,
    /// Whether the model's sequences may share the row after the prompt.
    pub(super) shares: bool,
    /// Whether finished sequences are kept for what follows, as far as they can be.
    pub(super) keeps: bool,
    pub(super) matcher: Option<crate::grammar::Matcher>,
}

impl<'a> Interp<'a> {
    /// Evaluates a site's operands.
    pub(super) fn site(&mut self, generate: &'a Generate) -> Result<Site<'a>, Flow> {
        let (role_index, role) = self.role(generate.model)?;
        let context = self.context(generate.ctx)?;
        let n = match generate.n {
            Some(var) => self.count(var, "n")?,
            None => 1,
        };
        let live = match generate.live {
            Some(var) => self.count(var, "live")?,
            None => n,
        };
        let cap = u32::try_from(generate.live_max).unwrap_or(u32::MAX).min(live.max(n));
        let max = u64::from(self.count(generate.max, "max")?).min(generate.max_bound);
        let optional = |me: &Self, var: Option<Var>, name: &str, default: f64| match var {
            Some(var) => me.number(var, name),
            None => Ok(default),
        };
        let sampling = Sampling {
            temperature: optional(self, generate.temp, "temp", 1.0)? as f32,
            top_k: generate.top_k.map_or(Ok(0), |var| self.count(var, "top_k"))?,
            top_p: optional(self, generate.top_p, "top_p", 1.0)? as f32,
            min_p: optional(self, generate.min_p, "min_p", 0.0)? as f32,
        };
        let refuse = |cause: String| Err(Flow::from(RunError::Operation(cause)));
        let Sampling { temperature, top_p, min_p, .. } = sampling;
        if n == 0 {
            return refuse("`n` is 0: at least one sequence is needed".to_owned());
        }
        if temperature < 0.0 || top_p <= 0.0 || top_p > 1.0 || !(0.0..=1.0).contains(&min_p) {
            return refuse(format!(
                "temp {temperature}, top_p {top_p}, min_p {min_p}: temp is not negative, top_p and min_p are shares"
            ));
        }
        let seed = match generate.seed.map(|var| self.value(var)).transpose()? {
            Some(Value::Int(seed)) => seed as u64,
            _ => self.run.seed,
        };
        let prompt = encode(role, &context, role_index)?;
        let (holds, shares) = {
            let host = role.host()?;
            (host.model().info().context, !host.model().answers_differ())
        };
        if prompt.is_empty() || prompt.len() >= holds {
            let role = role.name.clone();
            return Err(Flow::from(RunError::PromptTooLong { role, tokens: prompt.len(), context: holds }));
        }
        // Written answers are taken as they are: a test may show what happens when a format is missed.
        let matcher = match &role.grammars {
            Some(grammars) if shares => grammars.matcher(&generate.format).map_err(RunError::Format)?,
            _ => None,
        };
        let branches = generate.rules.iter().flat_map(|r| &r.actions).any(|a| matches!(a, Action::Branch(_)));
        let (waves, prefix, chunk) = match self.run.site_plan(generate.site) {
            // Branches share one bound on sequences: all start together, so that who may branch is no matter of waves.
            Some(SitePlan::Generate { prefix, prefill_chunk, .. }) if branches => (Vec::new(), *prefix, *prefill_chunk),
            Some(SitePlan::Generate { waves, prefix, prefill_chunk, .. }) => (waves.clone(), *prefix, *prefill_chunk),
            _ => (Vec::new(), PrefixMode::Shared, 0),
        };
        let fused = |plan: &SitePlan| matches!(plan, SitePlan::Score { mode: ScoreMode::Fused, .. });
        Ok(Site {
            generate,
            role,
            role_index,
            context,
            prompt: prompt.into(),
            n: n.min(cap),
            cap,
            max: usize::try_from(max).unwrap_or(usize::MAX),
            holds,
            sampling,
            stops: self.stop_texts(generate.stop)?,
            ends: role.codec()?.end_tokens().to_vec(),
            seed,
            statistics: rules::statistics(generate),
            waves: waves.into(),
            prefix,
            chunk: if chunk == 0 { PREFILL } else { chunk as usize },
            shares,
            keeps: generate.n.is_none() || self.run.sites.iter().any(fused),
            matcher,
        })
    }

    fn stop_texts(&mut self, stop: Option<Var>) -> Result<Vec<String>, Flow> {
        let Some(var) = stop else { return Ok(Vec::new()) };
        match self.value(var)? {
            Value::List(items) => Ok(items.iter().map(Value::to_text).collect()),
            Value::None => Ok(Vec::new()),
            one => Ok(vec![one.to_text()]),
        }
    }
}

/// Token ids of a context for a model, with the opening of its answer; a last turn of the assistant is continued.
pub(super) fn encode(role: &RoleState, context: &Context, role_index: u32) -> Result<Vec<u32>, RunError> {
    let codec = role.codec()?;
    let refuse = |cause| RunError::Codec { role: role.name.clone(), cause };
    let (turns, partial) = match context.turns.split_last() {
        Some((last, rest)) if last.speaker == Speaker::Assistant => (rest, Some(last)),
        _ => (&context.turns[..], None),
    };
    let messages: Vec<ChatMessage<'_>> =
        turns.iter().map(|t| ChatMessage { speaker: t.speaker, text: &t.text }).collect();
    let mut tokens = codec.encode_chat(&messages, true).map_err(refuse)?;
    if let Some(partial) = partial {
        match &partial.tokens {
            Some((role, written)) if *role == role_index => {
                let open = written.iter().take_while(|t| !codec.end_tokens().contains(t));
                tokens.extend(open);
            }
            _ => tokens.extend(codec.encode(&partial.text).map_err(refuse)?),
        }
    }
    Ok(tokens)
}
