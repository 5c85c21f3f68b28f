//! Selection and voting: pure operations that call functions on the elements of a list.
//!
//! Ties go to the first element. An element whose key is `none` cannot be chosen; a key that is NaN comes last.

use super::RunError;
use super::interp::{Flow, Interp};
use crate::value::{Usage, Value, Vote};
use ir::strategy::Prim;
use std::sync::Arc;

impl Interp<'_> {
    /// Carries out an operation that takes a function; `None` for the others.
    pub(super) fn select(&mut self, prim: &Prim, args: &[Value]) -> Option<Result<Value, Flow>> {
        let Some(Value::List(items)) = args.first() else { return None };
        Some(match (prim, args) {
            (Prim::Best, [_, by]) => {
                self.ranked(items, by).map(|r| r.first().map_or(Value::None, |&i| items[i].clone()))
            }
            (Prim::Top, [_, k, by]) => self.top(items, k, by, false),
            (Prim::Prune, [_, k, by]) => self.top(items, k, by, true),
            (Prim::Vote, [_, by, weight @ ..]) => self.vote(items, by, weight.first()),
            (Prim::Agree, [_, by]) => self.agree(items, by),
            (Prim::SemanticEntropy, [_, same]) => self.semantic_entropy(items, same),
            (Prim::All, [_, f]) => self.first_where(items, f, false).map(|found| Value::Bool(found.is_none())),
            (Prim::Any, [_, f]) => self.first_where(items, f, true).map(|found| Value::Bool(found.is_some())),
            (Prim::Map, [_, f]) => self.map(items, f).map(Value::list),
            (Prim::Filter, [_, f]) => self.filter(items, f),
            _ => return None,
        })
    }

    fn map(&mut self, items: &[Value], f: &Value) -> Result<Vec<Value>, Flow> {
        let region = self.function(f);
        if let Some((region, place)) = region.and_then(|r| Some((r, self.judged_together(r, items.len())?))) {
            return self.all_judged(region, place, items.len(), &|me, i| {
                if let Some(param) = region.params.first() {
                    me.set(*param, items[i].clone());
                }
                Ok(())
            });
        }
        items.iter().enumerate().map(|(i, v)| self.apply_function(f, i, vec![v.clone()])).collect()
    }

    fn first_where(&mut self, items: &[Value], f: &Value, wanted: bool) -> Result<Option<usize>, Flow> {
        for (i, item) in items.iter().enumerate() {
            if truth(&self.apply_function(f, i, vec![item.clone()])?)? == wanted {
                return Ok(Some(i));
            }
        }
        Ok(None)
    }

    fn filter(&mut self, items: &[Value], f: &Value) -> Result<Value, Flow> {
        let mut kept = Vec::new();
        for (item, keep) in items.iter().zip(self.map(items, f)?) {
            if truth(&keep)? {
                kept.push(item.clone());
            }
        }
        Ok(Value::list(kept))
    }

    /// Indices from best to worst key.
    fn ranked(&mut self, items: &[Value], by: &Value) -> Result<Vec<usize>, Flow> {
        let mut keys = Vec::new();
        for (i, key) in self.map(items, by)?.iter().enumerate() {
            match key {
                Value::None => {}
                key => match key.number() {
                    // NaN keys, of either sign, come after all others.
                    Some(x) => keys.push((if x.is_nan() { f64::NEG_INFINITY } else { x }, x.is_nan(), i)),
                    None => return Err(Flow::from(RunError::Plan(format!("a sort key is {}", key.kind())))),
                },
            }
        }
        keys.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)).then(a.2.cmp(&b.2)));
        Ok(keys.into_iter().map(|(_, _, i)| i).collect())
    }

    fn top(&mut self, items: &[Value], k: &Value, by: &Value, old_order: bool) -> Result<Value, Flow> {
        let Value::Int(k) = k else {
            return Err(Flow::from(RunError::Plan(format!("a count is {}", k.kind()))));
        };
        let mut chosen = self.ranked(items, by)?;
        chosen.truncate(usize::try_from(*k).unwrap_or(0));
        if old_order {
            chosen.sort_unstable();
        }
        Ok(Value::List(chosen.into_iter().map(|i| items[i].clone()).collect()))
    }

    fn vote(&mut self, items: &[Value], by: &Value, weight: Option<&Value>) -> Result<Value, Flow> {
        let keys = self.map(items, by)?;
        let weights = match weight {
            Some(f @ Value::Function(_)) => self.map(items, f)?,
            Some(constant) => vec![constant.clone(); items.len()],
            None => vec![Value::Int(1); items.len()],
        };
        let mut votes = Vec::new();
        for ((item, key), weight) in items.iter().zip(keys).zip(weights) {
            let number = weight.number().filter(|w| w.is_finite() && *w >= 0.0);
            let wrong = || RunError::Operation(format!("a vote's weight is {}, which is no weight", weight.to_text()));
            votes.push((item.clone(), key, number.ok_or_else(wrong)?));
        }
        // What the run used until the vote.
        let usage = self.guards().next().map_or_else(Usage::default, super::Guard::spent);
        Ok(Value::Vote(Arc::new(count(&votes, usage))))
    }

    /// The share of the largest class among all elements, whether they have a key or not; 0 of none. An answer without a
    /// value is a disagreement: a set that mostly failed to answer is not settled.
    fn agree(&mut self, items: &[Value], by: &Value) -> Result<Value, Flow> {
        let keys = self.map(items, by)?;
        let votes: Vec<_> = items.iter().cloned().zip(keys).map(|(item, key)| (item, key, 1.0)).collect();
        Ok(Value::Float(count(&votes, Usage::default()).share))
    }

    /// Entropy, in nats, of the sizes of meaning classes: an element joins the first class whose first member is the
    /// same as it.
    fn semantic_entropy(&mut self, items: &[Value], same: &Value) -> Result<Value, Flow> {
        let mut classes: Vec<(Value, f64)> = Vec::new();
        let mut asked = 0;
        for item in items {
            let mut home = None;
            for (i, (first, _)) in classes.iter().enumerate() {
                asked += 1;
                if truth(&self.apply_function(same, asked, vec![first.clone(), item.clone()])?)? {
                    home = Some(i);
                    break;
                }
            }
            match home {
                Some(i) => classes[i].1 += 1.0,
                None => classes.push((item.clone(), 1.0)),
            }
        }
        let total = items.len() as f64;
        let entropy: f64 = classes.iter().map(|(_, n)| -(n / total) * (n / total).ln()).sum();
        Ok(Value::Float(entropy.max(0.0)))
    }
}

/// What a predicate says.
fn truth(value: &Value) -> Result<bool, Flow> {
    match value {
        Value::Bool(b) => Ok(*b),
        other => Err(Flow::from(RunError::Plan(format!("a predicate gave {}", other.kind())))),
    }
}

/// Counts votes (element, key, weight). Keys are equal when they are the same number or, after normalisation, the same
/// text ([`normal`]). Elements without a key are in no class, and their weight counts in the whole that shares are of.
/// Larger classes first, ties by the first member; a class is named by the key of its first member.
fn count(votes: &[(Value, Value, f64)], usage: Usage) -> Vote {
    let mut classes: Vec<(Value, f64, Vec<Value>)> = Vec::new();
    let mut normals: Vec<Value> = Vec::new();
    for (item, key, weight) in votes.iter().filter(|(_, key, _)| *key != Value::None) {
        let normal = normal(key);
        match normals.iter().position(|n| *n == normal) {
            Some(i) => {
                classes[i].1 += weight;
                classes[i].2.push(item.clone());
            }
            None => {
                normals.push(normal);
                classes.push((key.clone(), *weight, vec![item.clone()]));
            }
        }
    }
    // Stable: classes of equal weight stay in the order of their first members.
    classes.sort_by(|a, b| b.1.total_cmp(&a.1));
    let total: f64 = votes.iter().map(|(_, _, weight)| weight).sum();
    let share = |i: usize| match classes.get(i) {
        Some((_, weight, _)) if total > 0.0 => weight / total,
        _ => 0.0,
    };
    let value = classes.first().map_or(Value::None, |(key, ..)| key.clone());
    let (share, margin) = (share(0), share(0) - share(1));
    Vote { value, share, margin, classes, usage }
}

/// The form in which keys are compared. Texts: white space squeezed, surrounding `$` and a full stop at the end dropped,
/// then, if the rest is a number (`1,234`, `4.0`, `3/4`), that number. Numbers: as floats. Samples: by their value.
fn normal(key: &Value) -> Value {
    match key {
        Value::Text(text) | Value::Label(text) => {
            let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
            let bare = squeezed.trim_end_matches(['.', '$']).trim_start_matches('$').trim();
            let numeric = |c: char| c.is_ascii_digit() || matches!(c, ',' | '_' | '.' | '/' | '-' | '+' | 'e' | 'E');
            let number = bare.chars().all(numeric).then(|| crate::verify::whole_number(bare)).flatten();
            number.map_or_else(|| Value::text(bare), Value::Float)
        }
        Value::Sample(sample) => normal(&sample.value),
        Value::List(items) => Value::List(items.iter().map(normal).collect()),
        Value::Tuple(items) => Value::Tuple(items.iter().map(normal).collect()),
        other => other.number().map_or_else(|| other.clone(), Value::Float),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn votes(keys: &[Value]) -> Vote {
        let votes: Vec<_> = keys.iter().map(|k| (k.clone(), k.clone(), 1.0)).collect();
        count(&votes, Usage::default())
    }

    #[test]
    fn keys_are_compared_by_meaning() {
        let t = Value::text;
        let vote =
            votes(&[t("5"), t(" 4.0"), t("4"), t("$4$."), Value::None, t("1,000"), t("1000"), t("a  b"), t("a b")]);
        assert_eq!(vote.value, t(" 4.0"));
        assert_eq!(vote.classes.iter().map(|c| c.1).collect::<Vec<_>>(), [3.0, 2.0, 2.0, 1.0]);
        assert_eq!(vote.share, 3.0 / 9.0);
        assert_eq!(vote.margin, 1.0 / 9.0);
    }

    #[test]
    fn ties_go_to_the_first() {
        let vote = votes(&[Value::text("b"), Value::text("a"), Value::text("a"), Value::text("b")]);
        assert_eq!(vote.value, Value::text("b"));
        assert_eq!(vote.margin, 0.0);
        assert_eq!(votes(&[Value::None]).value, Value::None);
        assert_eq!(votes(&[]).share, 0.0);
    }

    #[test]
    fn no_answer_is_no_agreement() {
        let vote = votes(&[Value::text("7"), Value::None, Value::None, Value::None]);
        assert_eq!((vote.value.clone(), vote.share, vote.margin), (Value::text("7"), 0.25, 0.25));
        let vote = votes(&[Value::None, Value::None]);
        assert_eq!((vote.value.clone(), vote.share), (Value::None, 0.0), "they do not agree with each other");
        // Weights of elements without a key count too.
        let weighted = [(Value::None, 3.0), (Value::text("a"), 1.0)];
        let weighted: Vec<_> = weighted.iter().map(|(k, w)| (k.clone(), k.clone(), *w)).collect();
        assert_eq!(count(&weighted, Usage::default()).share, 0.25);
    }
}
