//! What happens to a sequence at a row: token rules, masks of formats, the draw that is asked for.
//!
//! A row is looked at once; what is to be drawn is drawn for all rows of a step together, and the look is settled with the
//! answer.

use super::interp::Interp;
use super::rules::{self, Outside, Scalar};
use super::sequence::Sequence;
use super::site::Site;
use crate::model::Row;
use crate::sample::{Choice, Draw, Key, top_tokens};
use ir::rule::Capture;
use ir::strategy::{Action, Generate, Level, Rule};

/// What happens to a sequence at a row.
pub(super) enum Decision {
    Failed(String),
    /// Stopped by a rule, and whether it is dropped from the result.
    Stopped(bool),
    /// Tokens with their log-probabilities: one, or one per child of a branch; and the entropy of the row.
    Tokens(Vec<(u32, f32)>, f32),
}

/// What a look at a row came to, but for the draw: what is left to say once the token is known.
pub(super) enum Pending {
    Decided(Decision),
    /// The entropy of the row, and whether a format limits what may come.
    Drawn(f32, bool),
}

impl Pending {
    /// The decision, with what was drawn.
    pub(super) fn settle(self, choice: Option<Choice>) -> Decision {
        match (self, choice) {
            (Self::Decided(decision), _) => decision,
            (Self::Drawn(entropy, _), Some(choice)) => Decision::Tokens(vec![(choice.token, choice.logprob)], entropy),
            (Self::Drawn(_, true), None) => {
                Decision::Failed("no token of the vocabulary continues the format".to_owned())
            }
            (Self::Drawn(_, false), None) => Decision::Failed("no token could be drawn".to_owned()),
        }
    }
}

impl<'a> Interp<'a> {
    /// Chooses what happens to a sequence at a row; with the draw, if a token is to be drawn.
    pub(super) fn decide(
        &self,
        site: &Site<'a>,
        sequence: &mut Sequence,
        row: &Row<'_>,
        room: &mut u32,
    ) -> (Pending, Option<Draw>) {
        let decided = |decision: Decision| (Pending::Decided(decision), None);
        let failed = |cause: String| decided(Decision::Failed(cause));
        if !row.is_sound() {
            return failed("the model produced logits that are no numbers".to_owned());
        }
        sequence.history.push(row);
        let mut how = site.sampling;
        let mut branch = None;
        for (number, rule) in token_rules(site.generate) {
            match self.look(site, sequence, number, rule) {
                Err(cause) => return failed(cause),
                Ok(None) => continue,
                Ok(Some(temperature)) => {
                    if let Some(temperature) = temperature {
                        how.temperature = temperature;
                    }
                }
            }
            self.fired(site, number, Some(sequence));
            let dropped = rule.actions.contains(&Action::Drop);
            if dropped || rule.actions.contains(&Action::Stop) {
                return decided(Decision::Stopped(dropped));
            }
            let children = rule.actions.iter().find_map(|a| if let Action::Branch(k) = a { Some(*k) } else { None });
            branch = branch.or(children);
        }
        let allowed = match sequence.matcher.as_mut().map(|matcher| matcher.allowed()).transpose() {
            Ok(allowed) => allowed,
            Err(cause) => return failed(cause),
        };
        let key = Key {
            seed: site.seed,
            stream: site.generate.stream,
            sequence: sequence.key,
            position: sequence.tokens.len() as u32,
            draw: self.path,
        };
        let draw = Draw { how, uniform: key.uniform(), allowed };
        if let Some(k) = branch
            && *room > 0
            && k > 1
        {
            let children = k.min(room.saturating_add(1));
            let possible = |token: usize| row.logits[token] > f32::NEG_INFINITY && draw.allows(token);
            let tops = top_tokens(row, children as usize, possible);
            if tops.len() > 1 {
                *room -= tops.len() as u32 - 1;
                return decided(Decision::Tokens(tops, row.entropy));
            }
        }
        (Pending::Drawn(row.entropy, draw.allowed.is_some()), Some(draw))
    }

    /// Looks at a token rule: `None` when it does not fire, else the temperature it sets, if any.
    fn look(
        &self,
        site: &Site<'a>,
        sequence: &Sequence,
        number: u32,
        rule: &Rule,
    ) -> Result<Option<Option<f32>>, String> {
        let stat = |field, window| sequence.history.value(field, window);
        let variable = |var| self.peek(var).and_then(Scalar::of);
        let tunable = |i: u32| self.run.tunables.get(i as usize).and_then(Scalar::of);
        if let Some(compiled) = self.run.rules.and_then(|r| r.rule(site.generate.site, number).map(|c| (r, c))) {
            let (rules, compiled) = compiled;
            let stats: Vec<f32> = compiled.stats.iter().map(|(f, w)| stat(*f, *w)).collect();
            let capture = |capture: &Capture| {
                let scalar = match capture {
                    Capture::Var(var) => variable(*var),
                    Capture::Tunable(i) => tunable(*i),
                };
                match scalar {
                    Some(Scalar::Number(x)) => Ok(x),
                    Some(Scalar::Truth(b)) => Ok(f32::from(u8::from(b))),
                    None => Err(format!("{capture:?} of a compiled rule is no number")),
                }
            };
            let captures = compiled.captures.iter().map(capture).collect::<Result<Vec<_>, _>>()?;
            let fired = rules.fire(compiled, &stats, &captures);
            let sets = rule.actions.iter().any(|a| matches!(a, Action::Temperature(_)));
            return Ok(fired.fires.then_some(sets.then_some(fired.temperature)));
        }
        let outside = Outside { stat: &stat, variable: &variable, tunable: &tunable };
        if let Some(region) = &rule.when {
            match rules::scalar(region, &outside)? {
                Scalar::Truth(true) => {}
                Scalar::Truth(false) => return Ok(None),
                Scalar::Number(_) => return Err("a rule's condition is a number".to_owned()),
            }
        }
        let mut temperature = None;
        for action in &rule.actions {
            if let Action::Temperature(region) = action {
                match rules::scalar(region, &outside)? {
                    Scalar::Number(x) => temperature = Some(x),
                    Scalar::Truth(_) => return Err("a rule's temperature is a truth value".to_owned()),
                }
            }
        }
        Ok(Some(temperature))
    }
}

fn token_rules(generate: &Generate) -> impl Iterator<Item = (u32, &Rule)> {
    (0u32..).zip(&generate.rules).filter(|(_, r)| r.level == Level::Token)
}
