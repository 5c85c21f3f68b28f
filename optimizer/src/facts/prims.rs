//! Pure operations as the walk sees them: what is known of their values, and the functions they call on lists.

use super::What;
use super::walk::{Known, Walk};
use ir::strategy::{Prim, Var};

impl Walk<'_> {
    #[allow(clippy::cast_precision_loss, reason = "lists of strategies are short")]
    pub(super) fn prim(&mut self, prim: &Prim, args: &[Var], times: f64) -> Known {
        let values: Vec<Known> = args.iter().map(|v| self.get(*v)).collect();
        match (prim, &values[..]) {
            (Prim::List, _) => {
                let first = values.first().cloned().unwrap_or(Known::Other);
                Known::List(Box::new(first), args.len() as f64)
            }
            (Prim::Tuple, _) => Known::Tuple(values),
            (Prim::TupleField(i), [Known::Tuple(parts)]) => parts.get(*i as usize).cloned().unwrap_or(Known::Other),
            (Prim::Range | Prim::RangeInclusive, [Known::Number(a), Known::Number(b)]) => {
                let len = b - a + f64::from(u8::from(*prim == Prim::RangeInclusive));
                Known::List(Box::new(Known::Other), len.max(0.0))
            }
            (Prim::Enumerate, [Known::List(item, n)]) => {
                Known::List(Box::new(Known::Tuple(vec![Known::Other, (**item).clone()])), *n)
            }
            (Prim::Add, [Known::List(a, n), Known::List(_, m)]) => Known::List(a.clone(), n + m),
            (Prim::Add, [Known::Number(a), Known::Number(b)]) => Known::Number(a + b),
            (Prim::Sub, [Known::Number(a), Known::Number(b)]) => Known::Number(a - b),
            (Prim::Mul, [Known::Number(a), Known::Number(b)]) => Known::Number(a * b),
            (Prim::Div, [Known::Number(a), Known::Number(b)]) if *b != 0.0 => Known::Number(a / b),
            (Prim::CtxAdd, [before, added]) => {
                // What stands behind a sequence still extends it: `c.add(s).add("Is that right?")`.
                let extends = match (added, before) {
                    (Known::Sample(s), _) | (_, Known::Context(_, Some(s))) => Some(*s),
                    _ => None,
                };
                Known::Context(self.fresh(times), extends)
            }
            (Prim::Index | Prim::First, [list, ..]) => element(list),
            (Prim::VoteTop, [list, ..]) => list.clone(),
            (_, [list, ..]) => {
                selection(prim).map_or(Known::Other, |name| self.select(prim, name, list, &values, times))
            }
            _ => Known::Other,
        }
    }

    /// A primitive that calls functions for each element of a list, or each pair.
    fn select(&mut self, prim: &Prim, name: &'static str, list: &Known, values: &[Known], times: f64) -> Known {
        let len = if let Known::List(_, n) = list { *n } else { 1.0 };
        let calls = if matches!(prim, Prim::SemanticEntropy) { len * (len - 1.0) / 2.0 } else { len };
        let mut mapped = Known::Other;
        for known in &values[1..] {
            if let Known::Lambda(region) = known {
                self.times = times * calls.max(0.0);
                for param in &region.params {
                    self.set(*param, element(list));
                }
                // These stop at the first element that decides, or ask about pairs: one call at a time.
                let alone = matches!(prim, Prim::All | Prim::Any | Prim::SemanticEntropy);
                mapped = self.elements(region, times * calls.max(0.0), if alone { 1.0 } else { len });
            }
        }
        if !matches!(prim, Prim::All | Prim::Any | Prim::Map | Prim::Filter) {
            self.node(What::Select(name, len, times));
        }
        match prim {
            Prim::Best => element(list),
            // A vote stands for its members, for `vote.top`.
            Prim::Top | Prim::Prune | Prim::Filter | Prim::Vote => list.clone(),
            Prim::Map => Known::List(Box::new(mapped), len),
            _ => Known::Other,
        }
    }
}

fn element(list: &Known) -> Known {
    match list {
        Known::List(item, _) => (**item).clone(),
        _ => Known::Other,
    }
}

/// Primitives that call functions on the elements of a list, by name.
fn selection(prim: &Prim) -> Option<&'static str> {
    Some(match prim {
        Prim::Best => "best",
        Prim::Top => "top",
        Prim::Prune => "prune",
        Prim::Vote => "vote",
        Prim::Agree => "agree",
        Prim::SemanticEntropy => "semantic_entropy",
        Prim::All => "all",
        Prim::Any => "any",
        Prim::Map => "map",
        Prim::Filter => "filter",
        _ => return None,
    })
}
