//! What sites cost: generations with their rules, particles, shares of budgets.

use super::cost::{Cost, Term, tokens_text};
use super::unbounded;
use super::value::{Budget, Value};
use super::walk::{Fact, Walk};
use crate::codes;
use crate::hir::{Action, ActionKind, Expr, Generate, GenerateKind, Level};
use ir::diagnostic::{Diagnostic, Span};
use ir::strategy::Bounds;
use std::collections::BTreeMap;
use std::rc::Rc;

const RANGE_HELP: &str = "write a number, a constant, or a parameter with a range: `n: Int = 8 in 1..=32`";

impl<'p> Walk<'p> {
    pub(super) fn generate(&mut self, e: &'p Expr, g: &'p Generate) -> Value<'p> {
        self.eval(&g.model);
        self.eval(&g.input);
        let mut known: BTreeMap<&'static str, (Value<'p>, Span)> = BTreeMap::new();
        for (name, setting) in &g.settings {
            let value = self.eval(setting);
            known.insert(name, (value, setting.span));
        }
        let max = self.setting_upper(&known, "max", e.span);
        let (live, what) = match g.kind {
            GenerateKind::Many => {
                let n = self.setting_upper(&known, "n", e.span);
                if known.contains_key("live") {
                    let live = self.setting_upper(&known, "live", e.span);
                    if live < n {
                        let span = known.get("live").map_or(e.span, |k| k.1);
                        self.report(
                            Diagnostic::error(
                                codes::E0303,
                                span,
                                format!("`live` is at most {live}, but `n` may be {n}"),
                                "the first sequences may be more already",
                            )
                            .help("raise `live`, or lower the upper end of `n`"),
                        );
                    }
                    (live, Some(format!("live {live}")))
                } else {
                    (n, Some(format!("n ({n})")))
                }
            }
            _ => (1, None),
        };
        self.fact(e, Fact { live, max, rounds: 0 });
        let redo = g.rules.iter().flat_map(|r| &r.actions).any(|a| matches!(a.kind, ActionKind::Later("redo", _)));
        let per_sequence = max.saturating_mul(if redo { 2 } else { 1 });
        let tokens = live.saturating_mul(per_sequence);
        let mut factors: Vec<String> = what.into_iter().collect();
        factors.push(format!("max {}", tokens_text(max)));
        if redo {
            factors.push("2 (every step rewritten)".to_owned());
        }
        let mut cost = Cost {
            bounds: Bounds { tokens, calls: live, live, kv_tokens: tokens },
            pooled: Vec::new(),
            terms: vec![Term::new(factors, tokens)],
        };
        if redo {
            cost.bounds.calls = cost.bounds.calls.saturating_add(live.saturating_mul(max));
        }
        for rule in &g.rules {
            let item = Value::Any;
            let var = if rule.level == Level::Set { Value::List(Some(live), Box::new(item)) } else { item };
            let env = Rc::clone(&self.env);
            self.set(rule.var, var);
            let ((), once) = self.apart(|w| {
                if let Some(when) = &rule.when {
                    w.eval(when);
                }
                rule.actions.iter().for_each(|a| w.action(a));
            });
            self.env = env;
            // A step has at least one token, a set changes at most once per sequence.
            let times = if rule.level == Level::Step { live.saturating_mul(max) } else { live };
            self.next_loop += 1;
            cost.then(once.repeated(times, self.next_loop, "rule"));
        }
        self.spend(cost);
        match g.kind {
            GenerateKind::Many => Value::List(Some(live), Box::new(Value::Any)),
            _ => Value::Any,
        }
    }

    fn action(&mut self, action: &'p Action) {
        if let ActionKind::Temperature(e) | ActionKind::Later(_, e) = &action.kind {
            self.eval(e);
        }
    }

    fn setting_upper(&mut self, known: &BTreeMap<&'static str, (Value<'p>, Span)>, name: &str, site: Span) -> u64 {
        let (value, span) = known.get(name).map_or((&Value::Any, site), |(v, s)| (v, *s));
        match value.upper() {
            Some(n) => n.max(1),
            None => {
                self.report(unbounded(span, &format!("`{name}`"), RANGE_HELP));
                1
            }
        }
    }

    pub(super) fn later(&mut self, e: &'p Expr, name: &str, operands: &'p [(&'static str, Expr)]) -> Value<'p> {
        let mut values: BTreeMap<&'static str, (Value<'p>, Span)> = BTreeMap::new();
        for (operand, value) in operands {
            let known = self.eval(value);
            values.insert(operand, (known, value.span));
        }
        match name {
            "begin" | "resample" => {
                let n = self.setting_upper(&values, "n", e.span);
                let item = values.remove("xs").map_or(Value::Any, |(v, _)| v.list().1);
                Value::List(Some(n), Box::new(item))
            }
            "split" => {
                let of = |name: &str| match values.get(name) {
                    Some((Value::Budget(b), _)) => *b,
                    _ => Budget::default(),
                };
                let (whole, keep) = (of("b"), of("keep"));
                let Some(total) = whole.tokens else {
                    self.report(unbounded(e.span, "the split budget", "declare `tokens` in `within`"));
                    return Value::Any;
                };
                // What is spent before the split is counted already; the rest is what can be shared.
                let pool = total.saturating_sub(self.spent).saturating_sub(keep.tokens.unwrap_or(0));
                let length = values.remove("weights").and_then(|(v, _)| v.list().0);
                let share = Budget { tokens: Some(pool), calls: None, share: true, index: None };
                Value::List(length, Box::new(Value::Budget(share)))
            }
            "classify" | "nearest" | "per-step scores" => {
                self.spend(Cost::calls(1));
                Value::Any
            }
            _ => Value::Any,
        }
    }
}
