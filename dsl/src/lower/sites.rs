//! Sites: generations with their rules, scores, choices, expectations.
//!
//! Every site gets a number, every generation a random stream of its own; the static maxima come from the walk of the
//! bounds.

use super::{Lower, NOWHERE, later};
use crate::codes;
use crate::hir::{ActionKind, Capability, Expr, ExprKind, Format, Generate, GenerateKind, Level, Rule};
use ir::strategy::{self as ir_strategy, Action, Op, Region, Var};

impl<'p> Lower<'p> {
    pub(super) fn site_of(&mut self, e: &'p Expr) -> Option<Var> {
        if self.test.is_some() {
            self.refuse(
                codes::E0904,
                e.span,
                "a call of a model in a test",
                "put it into a strategy and call that: the mocks answer there",
            );
            return Some(NOWHERE);
        }
        let op = match &e.kind {
            ExprKind::Generate(g) => self.generate(e, g)?,
            ExprKind::Score(v, s, calibrated) => {
                let (v, s) = (self.operand(v), self.operand(s));
                Op::Score(self.next_site()?, v, s, *calibrated)
            }
            ExprKind::LogProb(m, c, t) => {
                let (m, c, t) = (self.operand(m), self.operand(c), self.operand(t));
                Op::LogProb(self.next_site()?, m, c, t)
            }
            ExprKind::Choose(m, c, l) => {
                let (m, c, l) = (self.operand(m), self.operand(c), self.operand(l));
                Op::Choose(self.next_site()?, m, c, l)
            }
            ExprKind::Expect(m, c, lo, hi) => {
                let (m, c) = (self.operand(m), self.operand(c));
                Op::Expect(self.next_site()?, m, c, *lo, *hi)
            }
            _ => return None,
        };
        Some(self.emit(op))
    }

    /// The next site number, unless nothing is written any more.
    fn next_site(&mut self) -> Option<u32> {
        if self.closed() { None } else { Some(self.site()) }
    }

    fn generate(&mut self, e: &'p Expr, g: &'p Generate) -> Option<Op> {
        if g.kind == GenerateKind::Step {
            self.refuse(codes::E0902, e.span, "`advance`", "generate whole answers with `gen` or `sample`");
            return None;
        }
        if let Some(span) = g.step {
            self.refuse(codes::E0901, span, "`step:`", "leave it out, together with the `step` rules");
        }
        let format = match &g.format {
            Format::Ready(format) => format.clone(),
            Format::Grammar(span) => {
                self.refuse(codes::E0902, *span, "`grammar(…)`", "use `regex(\"…\")` or `json(T)`");
                return None;
            }
        };
        let model = self.operand(&g.model);
        let ctx = self.operand(&g.input);
        self.needs_logits(g, model);
        let mut settings = std::collections::BTreeMap::new();
        for (name, value) in &g.settings {
            settings.insert(*name, self.operand(value));
        }
        let site = self.next_site()?;
        self.streams += 1;
        let stream = self.streams - 1;
        let fact = self.fact(e);
        let rules = g.rules.iter().filter_map(|r| self.rule(r)).collect();
        let mut take = |name: &str| settings.remove(name);
        Some(Op::Generate(Box::new(ir_strategy::Generate {
            site,
            stream,
            model,
            ctx,
            n: take("n"),
            live: take("live"),
            live_max: fact.live,
            max: take("max").unwrap_or(NOWHERE),
            max_bound: fact.max,
            temp: take("temp"),
            top_p: take("top_p"),
            top_k: take("top_k"),
            min_p: take("min_p"),
            stop: take("stop"),
            seed: take("seed"),
            format,
            rules,
        })))
    }

    /// A model that came in through a parameter is known only here: token rules need its distributions.
    fn needs_logits(&mut self, g: &Generate, model: Var) {
        let Some(role) = self.models.get(&model).map(|i| &self.program.roles[*i]) else { return };
        let Some(rule) = g.rules.iter().find(|r| r.level == Level::Token) else { return };
        if role.needs.contains(&Capability::Logits) || matches!(g.model.kind, ExprKind::Role(_)) {
            return;
        }
        let message = format!("`{}` does not promise token distributions", role.name);
        let text = if role.needs.is_empty() { " needs logits" } else { ", logits" };
        let insert = ir::diagnostic::Span { start: role.needs_end.end, ..role.needs_end };
        let d = ir::diagnostic::Diagnostic::error(
            codes::E0207,
            rule.span,
            message,
            "this rule needs the capability `logits`",
        )
        .related(role.span, "declared here")
        .help("ask for it in the declaration")
        .fix("ask for the capability", insert, text);
        self.errors.push(d);
    }

    fn rule(&mut self, rule: &'p Rule) -> Option<ir_strategy::Rule> {
        if rule.level == Level::Step {
            self.refuse(
                codes::E0901,
                rule.span,
                "a `step` rule",
                "look at whole answers with `end` rules, or at tokens with `token` rules",
            );
            return None;
        }
        let leave = self.deeper();
        let when = rule.when.as_ref().map(|w| self.rule_region(rule, w));
        let mut actions = Vec::new();
        for action in &rule.actions {
            actions.push(match &action.kind {
                ActionKind::Branch(k) => Action::Branch(*k),
                ActionKind::Grow(k) => Action::Grow(*k),
                ActionKind::Stop => Action::Stop,
                ActionKind::Drop => Action::Drop,
                ActionKind::Temperature(x) => Action::Temperature(self.rule_region(rule, x)),
                ActionKind::Later(name, _) => {
                    let (what, help) = later::words(name);
                    self.refuse(codes::E0901, action.span, what, help);
                    continue;
                }
            });
        }
        self.leave = leave;
        Some(ir_strategy::Rule { level: rule.level, when, actions })
    }

    /// A region over the rule's variable.
    fn rule_region(&mut self, rule: &Rule, e: &'p Expr) -> Region {
        let env = std::rc::Rc::clone(&self.env);
        let var = self.rule_var(rule.var);
        let region = self.region(vec![var], |l| Some(l.operand(e)));
        self.env = env;
        region
    }
}
