//! Rules: `token(d) when … => branch(2);`. Levels, conditions, actions, and the limit that branching needs.

use super::{Checker, types};
use crate::ast::{self, ExprKind as A, RuleLevel};
use crate::builtins::{self, Kind};
use crate::codes;
use crate::hir::{Action, ActionKind, Const, Expr, ExprKind, Generate, GenerateKind, Level, Prim, RoleKind, Rule, Ty};
use ir::diagnostic::{Diagnostic, Span};

impl Checker<'_> {
    /// The rules of a site. `call` is the call they belong to.
    pub(super) fn rules(&mut self, site: &Generate, call: &ast::Expr, rules: &[ast::Rule]) -> Vec<Rule> {
        let sample = match &call_type(site) {
            Some(ty) => ty.clone(),
            None => Ty::Sample(Box::new(Ty::Never)),
        };
        let checked: Vec<Rule> = rules.iter().map(|r| self.rule(site, &sample, r)).collect();
        self.growth(site, call, &checked);
        checked
    }

    fn rule(&mut self, site: &Generate, sample: &Ty, rule: &ast::Rule) -> Rule {
        let (level, name, ty) = match rule.level {
            RuleLevel::Token => (Level::Token, "token", Ty::Dist),
            RuleLevel::Step => (Level::Step, "step", sample.clone()),
            RuleLevel::End => (Level::End, "end", sample.clone()),
            RuleLevel::Set => (Level::Set, "set", Ty::List(Box::new(sample.clone()), None)),
        };
        if level == Level::Set && site.kind != GenerateKind::Many {
            self.report(
                Diagnostic::error(
                    codes::E0213,
                    rule.level_span,
                    "`set` rules belong to `sample`",
                    "there is no set here",
                )
                .help("one sequence has `token`, `step` and `end` rules"),
            );
        }
        if level == Level::Step && site.step.is_none() {
            self.report(
                Diagnostic::error(codes::E0213, rule.level_span, "nothing says where a step ends", "no `step:` given")
                    .help("give the call a boundary: `step: \"\\n\\n\"`"),
            );
        }
        let mark = self.scope.len();
        let mut vars = rule.vars.iter();
        let var = match vars.next() {
            Some(first) => self.bind(first, ty),
            None => self.fresh(),
        };
        for extra in vars {
            let message = format!("`{name}` binds one name");
            self.error(codes::E0205, extra.span, message, "one too many");
        }
        let outer = self.place.level.replace(level);
        let loops = std::mem::take(&mut self.place.loops);
        let result = self.place.result.take();
        let when = rule.when.as_ref().map(|w| self.check_as(w, &Ty::Bool));
        if let (Some(when), Level::Token) = (&when, level) {
            self.token_pure(when);
        }
        let actions = rule.actions.iter().filter_map(|a| self.action(a, level, name)).collect();
        self.place.level = outer;
        self.place.loops = loops;
        self.place.result = result;
        self.leave_silently(mark);
        Rule { level, var, when, actions, span: rule.span }
    }

    fn action(&mut self, e: &ast::Expr, level: Level, level_name: &str) -> Option<Action> {
        let span = e.span;
        let (name, args) = match &e.kind {
            A::Path(path) if path.len() == 1 => (&path[0], &[][..]),
            A::Call(callee, args) => match &callee.kind {
                A::Path(path) if path.len() == 1 => (&path[0], args.as_slice()),
                _ => return self.not_an_action(span),
            },
            A::Error => return None,
            _ => return self.not_an_action(span),
        };
        let Some(builtin) = builtins::find(Kind::Action, &name.text) else {
            self.unknown_entry(name, Kind::Action, "action");
            return None;
        };
        let levels: &[Level] = match builtin.name {
            "branch" => &[Level::Token, Level::Step],
            "temperature" | "switch" => &[Level::Token],
            "stop" => &[Level::Token, Level::Step, Level::End, Level::Set],
            "drop" => &[Level::Token, Level::Step, Level::End],
            "redo" => &[Level::Step],
            "grow" => &[Level::Set],
            _ => &[Level::Token, Level::Step, Level::End],
        };
        if !levels.contains(&level) {
            let allowed: Vec<String> =
                levels.iter().map(|l| format!("`{}`", format!("{l:?}").to_lowercase())).collect();
            self.report(
                Diagnostic::error(
                    codes::E0213,
                    span,
                    format!("`{}` is not an action of `{level_name}` rules", builtin.name),
                    "not at this level",
                )
                .help(format!("it belongs to {} rules", allowed.join(", "))),
            );
        }
        let bound = self.arguments(builtin.name, &builtin.params(), args, span)?;
        let kind = match (builtin.name, bound.one(0)) {
            ("stop", _) => ActionKind::Stop,
            ("drop", _) => ActionKind::Drop,
            ("branch", Some(k)) => ActionKind::Branch(self.count(k, 2)?),
            ("grow", Some(k)) => ActionKind::Grow(self.count(k, 1)?),
            ("temperature", Some(x)) => {
                let value = self.check_as(x, &Ty::Float);
                self.token_pure(&value);
                ActionKind::Temperature(value)
            }
            ("switch" | "redo", Some(m)) => {
                let model = self.model(m, &[RoleKind::Generator]);
                if builtin.name == "switch" {
                    self.needs_logits(&model, m.span, "switching on the distribution");
                }
                ActionKind::Later(builtin.name, model)
            }
            (_, Some(text)) => ActionKind::Later(builtin.name, self.check_as(text, &Ty::Text)),
            _ => return None,
        };
        Some(Action { kind, span })
    }

    fn not_an_action(&mut self, span: Span) -> Option<Action> {
        let known: Vec<&str> = builtins::names(Kind::Action).collect();
        self.report(
            Diagnostic::error(codes::E0213, span, "an action is needed", "not an action")
                .help(format!("actions are {}", known.join(", "))),
        );
        None
    }

    fn count(&mut self, e: &ast::Expr, least: i64) -> Option<u32> {
        match self.constant(e, Some(&Ty::Int))? {
            Const::Int(k) if k >= least && k <= 4096 => u32::try_from(k).ok(),
            _ => {
                let message = format!("the count must be in {least}..=4096");
                self.error(codes::E0215, e.span, message, "outside");
                None
            }
        }
    }

    /// A rule that reads the distribution: in its condition, in a temperature, or by branching on it.
    pub(super) fn looks(&self, rule: &Rule) -> bool {
        rule.when.as_ref().is_some_and(reads_dist)
            || rule.actions.iter().any(|a| match &a.kind {
                ActionKind::Temperature(x) => reads_dist(x),
                ActionKind::Branch(_) => true,
                _ => false,
            })
    }

    /// Branching and growing need a limit.
    fn growth(&mut self, site: &Generate, call: &ast::Expr, rules: &[Rule]) {
        if site.setting("live").is_some() {
            return;
        }
        let growing = rules
            .iter()
            .flat_map(|r| &r.actions)
            .find(|a| matches!(a.kind, ActionKind::Branch(_) | ActionKind::Grow(_)));
        let Some(action) = growing else { return };
        let what = match action.kind {
            ActionKind::Grow(_) => "every match enlarges the set",
            _ => "every match doubles the set",
        };
        let A::Call(callee, args) = &call.kind else { return };
        let d = Diagnostic::error(codes::E0310, action.span, "branching has no upper limit", what)
            .related(callee.span, "nothing says how many sequences may be alive")
            .note("without it the token and KV bounds are infinite; `inferc explain E0310`");
        if site.kind != GenerateKind::Many {
            self.report(d.help("one sequence cannot branch: use `sample(…, n: 1, live: 16, …)`"));
            return;
        }
        let before = args.iter().find(|a| a.name.as_ref().is_some_and(|n| n.text == "max"));
        let at = before.and_then(|a| a.name.as_ref()).map_or(call.span.end.max(1) - 1, |n| n.span.start);
        let text = if before.is_some() { "live: 16, " } else { ", live: 16" };
        let place = Span { start: at, end: at, ..call.span };
        self.report(d.help("say how many may be alive at once").fix("say how many may be alive at once", place, text));
    }

    /// Token rules run inside the sampler: arithmetic over the distribution and names from outside, nothing else.
    fn token_pure(&mut self, e: &Expr) {
        let blamed = match &e.kind {
            ExprKind::Const(_) | ExprKind::Tunable(_) | ExprKind::ConstItem(_) | ExprKind::Error => None,
            ExprKind::Dist(..) => None,
            ExprKind::Later("p", _) => None,
            ExprKind::Local(_) if matches!(e.ty, Ty::Int | Ty::Float | Ty::Prob | Ty::Bool | Ty::Never) => None,
            ExprKind::Local(_) => Some("a number or truth value is needed"),
            ExprKind::And(a, b) | ExprKind::Or(a, b) => {
                self.token_pure(a);
                self.token_pure(b);
                None
            }
            ExprKind::Prim(prim, operands) => {
                let fine = match prim {
                    Prim::Add | Prim::Sub | Prim::Mul | Prim::Div | Prim::Neg | Prim::Not => true,
                    Prim::Eq | Prim::Ne | Prim::Lt | Prim::Le | Prim::Gt | Prim::Ge => true,
                    Prim::Call(name) => {
                        matches!(name.as_str(), "exp" | "log" | "sqrt" | "abs" | "min" | "max" | "float")
                    }
                    _ => false,
                };
                if fine {
                    operands.iter().for_each(|o| self.token_pure(o));
                    None
                } else {
                    Some("this is no arithmetic")
                }
            }
            _ => Some("this is no arithmetic"),
        };
        if let Some(blamed) = blamed {
            self.report(
                Diagnostic::error(codes::E0213, e.span, "not allowed in a token rule", blamed)
                    .help("compute it before the call and use its name here, or use an `end` or `set` rule"),
            );
        }
        if types::quantity(&e.ty) {
            self.error(codes::E0213, e.span, "quantities are not allowed in a token rule", "use plain numbers");
        }
    }
}

/// The type of the sequences of a site.
fn call_type(site: &Generate) -> Option<Ty> {
    use crate::hir::Format;
    use ir::strategy::Format as Ready;
    Some(Ty::Sample(Box::new(match &site.format {
        Format::Ready(Ready::Json(ty)) => ty.clone(),
        Format::Ready(_) | Format::Grammar(_) => Ty::Text,
    })))
}

fn reads_dist(e: &Expr) -> bool {
    match &e.kind {
        ExprKind::Dist(..) | ExprKind::Later("p", _) => true,
        ExprKind::And(a, b) | ExprKind::Or(a, b) => reads_dist(a) || reads_dist(b),
        ExprKind::Prim(_, operands) => operands.iter().any(reads_dist),
        _ => false,
    }
}
