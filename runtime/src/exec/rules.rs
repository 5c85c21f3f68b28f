//! Token rules: statistics of the next-token distribution over windows, and the conditions over them.
//!
//! Conditions are evaluated in `f32`. [`evaluate`] defines their meaning; compiled conditions ([`TokenRules`]) agree
//! with it and are used where the artifact has them. Regions of token rules are pure and loop-free: constants,
//! tunables, statistics, numbers from outside, arithmetic, comparison, `if`.

use crate::model::Row;
use crate::sample;
use crate::value::Value;
use ir::rule::TokenRule;
use ir::strategy::{Action, Bind, Const, DistField, Generate, Level, Op, Prim, Region, Var, Window};
use std::collections::VecDeque;

/// What a compiled condition answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fired {
    /// Whether the rule fires.
    pub fires: bool,
    /// Temperature it sets, if it has that action.
    pub temperature: f32,
}

/// Compiled conditions of token rules.
pub trait TokenRules: Send + Sync {
    /// The compiled form of a site's rule, if there is one: which statistics and outer variables it reads.
    fn rule(&self, site: u32, rule: u32) -> Option<&TokenRule>;

    /// Evaluates it on the statistics and captures in the order that [`TokenRules::rule`] gave.
    fn fire(&self, rule: &TokenRule, stats: &[f32], captures: &[f32]) -> Fired;
}

/// A number or a truth value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Scalar {
    Number(f32),
    Truth(bool),
}

/// What a region reads from outside.
pub(super) struct Outside<'a> {
    pub(super) stat: &'a dyn Fn(DistField, Window) -> f32,
    pub(super) variable: &'a dyn Fn(Var) -> Option<Scalar>,
    pub(super) tunable: &'a dyn Fn(u32) -> Option<Scalar>,
}

impl Scalar {
    /// The scalar in a value, if it is one.
    pub(super) fn of(value: &Value) -> Option<Self> {
        match value {
            Value::Bool(b) => Some(Self::Truth(*b)),
            other => other.number().map(|x| Self::Number(x as f32)),
        }
    }
}

/// Evaluates a region of a token rule: `stat` gives the statistics, `variable` the numbers of outer variables, `tunable`
/// those of tunables. Truth values are 1 and 0.
///
/// # Errors
/// When the region holds an operation that token rules do not have.
pub fn evaluate(
    region: &Region,
    stat: &dyn Fn(DistField, Window) -> f32,
    variable: &dyn Fn(Var) -> Option<f32>,
    tunable: &dyn Fn(u32) -> Option<f32>,
) -> Result<f32, String> {
    let outside =
        Outside { stat, variable: &|v| variable(v).map(Scalar::Number), tunable: &|i| tunable(i).map(Scalar::Number) };
    Ok(match scalar(region, &outside)? {
        Scalar::Number(x) => x,
        Scalar::Truth(b) => f32::from(u8::from(b)),
    })
}

/// Evaluates a region of a token rule.
pub(super) fn scalar(region: &Region, outside: &Outside<'_>) -> Result<Scalar, String> {
    let mut scope = Vec::new();
    run(region, outside, &mut scope)
}

fn run(region: &Region, outside: &Outside<'_>, scope: &mut Vec<(Var, Scalar)>) -> Result<Scalar, String> {
    let depth = scope.len();
    for bind in &region.binds {
        if let Some(value) = bound(bind, outside, scope)? {
            scope.push((bind.var, value));
        }
    }
    let result = region.result.ok_or("a condition without a value")?;
    let value = look_up(result, outside, scope);
    scope.truncate(depth);
    value
}

fn look_up(var: Var, outside: &Outside<'_>, scope: &[(Var, Scalar)]) -> Result<Scalar, String> {
    let local = scope.iter().rev().find(|(v, _)| *v == var).map(|(_, s)| *s);
    local.or_else(|| (outside.variable)(var)).ok_or_else(|| format!("variable {} is no number", var.0))
}

fn bound(bind: &Bind, outside: &Outside<'_>, scope: &mut Vec<(Var, Scalar)>) -> Result<Option<Scalar>, String> {
    let refused = || format!("token rules have no operation {:?}", bind.op);
    Ok(Some(match &bind.op {
        Op::Const(Const::Bool(b)) => Scalar::Truth(*b),
        Op::Const(c) => Scalar::of(&Value::from_const(c)).ok_or_else(refused)?,
        Op::Tunable(i) => (outside.tunable)(*i).ok_or_else(refused)?,
        Op::Dist(field, window, _) => Scalar::Number((outside.stat)(*field, *window)),
        Op::If(condition, then, otherwise) => match look_up(*condition, outside, scope)? {
            Scalar::Truth(true) => run(then, outside, scope)?,
            Scalar::Truth(false) => run(otherwise, outside, scope)?,
            Scalar::Number(_) => return Err("a condition that is a number".to_owned()),
        },
        Op::Prim(prim, args) => {
            let args = args.iter().map(|v| look_up(*v, outside, scope)).collect::<Result<Vec<_>, _>>()?;
            primitive(prim, &args).ok_or_else(refused)?
        }
        _ => return Err(refused()),
    }))
}

fn primitive(prim: &Prim, args: &[Scalar]) -> Option<Scalar> {
    use Scalar::{Number, Truth};
    Some(match (prim, args) {
        (Prim::Add, [Number(a), Number(b)]) => Number(a + b),
        (Prim::Sub, [Number(a), Number(b)]) => Number(a - b),
        (Prim::Mul, [Number(a), Number(b)]) => Number(a * b),
        (Prim::Div, [Number(a), Number(b)]) => Number(a / b),
        (Prim::Neg, [Number(a)]) => Number(-a),
        (Prim::Not, [Truth(a)]) => Truth(!a),
        (Prim::Eq, [a, b]) => Truth(a == b),
        (Prim::Ne, [a, b]) => Truth(a != b),
        (Prim::Lt, [Number(a), Number(b)]) => Truth(a < b),
        (Prim::Le, [Number(a), Number(b)]) => Truth(a <= b),
        (Prim::Gt, [Number(a), Number(b)]) => Truth(a > b),
        (Prim::Ge, [Number(a), Number(b)]) => Truth(a >= b),
        (Prim::Call(name), [Number(a)]) => Number(match name.as_str() {
            "float" => *a,
            "abs" => a.abs(),
            "exp" => a.exp(),
            "log" => a.ln(),
            "sqrt" => a.sqrt(),
            "floor" => a.floor(),
            "ceil" => a.ceil(),
            "round" => a.round(),
            _ => return None,
        }),
        (Prim::Call(name), [Number(a), Number(b)]) => Number(match name.as_str() {
            "min" => a.min(*b),
            "max" => a.max(*b),
            _ => return None,
        }),
        _ => return None,
    })
}

/// The statistics that a site's token rules read, each once, in order of first mention.
pub(super) fn statistics(generate: &Generate) -> Vec<(DistField, Window)> {
    fn walk(region: &Region, found: &mut Vec<(DistField, Window)>) {
        for bind in &region.binds {
            match &bind.op {
                Op::Dist(field, window, _) if !found.contains(&(*field, *window)) => found.push((*field, *window)),
                Op::If(_, then, otherwise) => {
                    walk(then, found);
                    walk(otherwise, found);
                }
                _ => {}
            }
        }
    }
    let mut found = Vec::new();
    for rule in generate.rules.iter().filter(|r| r.level == Level::Token) {
        if let Some(region) = &rule.when {
            walk(region, &mut found);
        }
        for action in &rule.actions {
            if let Action::Temperature(region) = action {
                walk(region, &mut found);
            }
        }
    }
    found
}

/// Windowed statistics of one sequence.
#[derive(Clone, Debug)]
pub(super) struct History {
    entries: Vec<Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    field: DistField,
    window: Window,
    recent: VecDeque<f32>,
    value: f32,
}

impl History {
    /// An empty history of these statistics.
    pub(super) fn new(statistics: &[(DistField, Window)]) -> Self {
        let entry = |&(field, window)| Entry { field, window, recent: VecDeque::new(), value: f32::NAN };
        Self { entries: statistics.iter().map(entry).collect() }
    }

    /// Takes in the next distribution.
    pub(super) fn push(&mut self, row: &Row<'_>) {
        // Each statistic is computed once, whatever number of windows reads it.
        let mut computed: Vec<(DistField, f32)> = Vec::new();
        for entry in &mut self.entries {
            let known = computed.iter().find(|(f, _)| *f == entry.field).map(|(_, x)| *x);
            let x = known.unwrap_or_else(|| {
                let x = statistic(row, entry.field);
                computed.push((entry.field, x));
                x
            });
            entry.take(x);
        }
    }

    /// The value of a statistic now; NaN, which satisfies no comparison, when it is not followed.
    pub(super) fn value(&self, field: DistField, window: Window) -> f32 {
        self.entries.iter().find(|e| e.field == field && e.window == window).map_or(f32::NAN, |e| e.value)
    }
}

impl Entry {
    fn take(&mut self, x: f32) {
        self.value = match self.window {
            Window::Now => x,
            Window::Mean(k) => {
                self.recent.push_back(x);
                if self.recent.len() > k.max(1) as usize {
                    self.recent.pop_front();
                }
                let sum: f64 = self.recent.iter().map(|&x| f64::from(x)).sum();
                (sum / self.recent.len() as f64) as f32
            }
            // The first value starts the average.
            Window::Ema(_) if self.value.is_nan() => x,
            Window::Ema(past) => past as f32 * self.value + (1.0 - past as f32) * x,
        };
    }
}

fn statistic(row: &Row<'_>, field: DistField) -> f32 {
    match field {
        DistField::Entropy => row.entropy,
        DistField::Varentropy => sample::varentropy(row),
        DistField::Margin => sample::margin(row),
        DistField::Top1 => sample::top1(row),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(var: u32, op: Op) -> Bind {
        Bind { var: Var(var), op, at: (0, 0) }
    }

    #[test]
    fn windows_average() {
        let field = DistField::Entropy;
        let windows = [Window::Now, Window::Mean(2), Window::Ema(0.5)];
        let mut history = History::new(&windows.map(|w| (field, w)));
        for entropy in [1.0, 3.0, 5.0] {
            history.push(&Row { logits: &[0.0], max: 0.0, log_z: 0.0, entropy, argmax: 0 });
        }
        assert_eq!(windows.map(|w| history.value(field, w)), [5.0, 4.0, 3.5]);
        assert!(history.value(DistField::Margin, Window::Now).is_nan());
    }

    #[test]
    fn regions_are_evaluated_in_single_precision() {
        // entropy > tunable 0, where both round to the same f32.
        let region = Region {
            params: vec![Var(0)],
            binds: vec![
                bind(1, Op::Dist(DistField::Entropy, Window::Now, Var(0))),
                bind(2, Op::Tunable(0)),
                bind(3, Op::Prim(Prim::Gt, vec![Var(1), Var(2)])),
            ],
            result: Some(Var(3)),
        };
        let go = |entropy: f32| evaluate(&region, &|_, _| entropy, &|_| None, &|_| Some(2.2_f64 as f32));
        assert_eq!(go(2.2), Ok(0.0));
        assert_eq!(go(2.3), Ok(1.0));
        assert_eq!(go(f32::NAN), Ok(0.0));
    }
}
