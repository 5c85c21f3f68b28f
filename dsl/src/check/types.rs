//! Types as values: which fits where, what two have in common, how they are shown, which may be compared or ordered.
//!
//! The type of `none`, `[]` and of everything that failed to check is built from [`Ty::Never`], which fits everywhere;
//! so there are no unknowns to solve. Pure functions over [`Ty`].

use ir::strategy::{RoleKind, Ty};

/// More parts than this and a type is refused: doubling by `let` would otherwise grow without end.
pub(crate) const MAX_TYPE_PARTS: usize = 512;

/// The inner type of a vote whose items are known: keys and items.
pub(crate) fn vote_of(key: Ty, item: Ty) -> Ty {
    Ty::Vote(Box::new(Ty::Record("Vote".to_owned(), vec![("key".to_owned(), key), ("item".to_owned(), item)])))
}

/// Key and item type of a vote.
pub(crate) fn vote_parts(inner: &Ty) -> (Ty, Ty) {
    match inner {
        Ty::Record(name, fields) if name == "Vote" && fields.len() == 2 => (fields[0].1.clone(), fields[1].1.clone()),
        key => (key.clone(), Ty::Sample(Box::new(key.clone()))),
    }
}

/// The number of parts of a type, counted no further than a little above `limit`.
pub(crate) fn parts(ty: &Ty, limit: usize) -> usize {
    let mut seen = 1;
    let mut add = |t: &Ty| {
        if seen <= limit {
            seen += parts(t, limit - seen.min(limit));
        }
    };
    match ty {
        Ty::Sample(t) | Ty::List(t, _) | Ty::Vote(t) | Ty::Optional(t) => add(t),
        Ty::Record(_, fields) => fields.iter().for_each(|(_, t)| add(t)),
        Ty::Tuple(items) => items.iter().for_each(add),
        Ty::Fn(args, result) => {
            args.iter().for_each(&mut add);
            add(result);
        }
        _ => {}
    }
    seen
}

/// `T?`, flattened.
pub(crate) fn optional(ty: Ty) -> Ty {
    match ty {
        Ty::Optional(_) => ty,
        other => Ty::Optional(Box::new(other)),
    }
}

/// The type without its `?`.
pub(crate) fn present(ty: &Ty) -> &Ty {
    match ty {
        Ty::Optional(inner) => inner,
        other => other,
    }
}

/// A value of `from` may stand where `to` is needed.
pub(crate) fn fits(from: &Ty, to: &Ty) -> bool {
    match (from, to) {
        (Ty::Never, _) => true,
        (Ty::Optional(f), Ty::Optional(t)) => fits(f, t),
        (f, Ty::Optional(t)) => fits(f, t),
        (Ty::List(f, n), Ty::List(t, m)) => fits(f, t) && !matches!((n, m), (Some(n), Some(m)) if n > m),
        (Ty::Sample(f), Ty::Sample(t)) => fits(f, t),
        (Ty::Vote(f), Ty::Vote(t)) => fits(&vote_parts(f).0, &vote_parts(t).0),
        (Ty::Tuple(f), Ty::Tuple(t)) => f.len() == t.len() && f.iter().zip(t).all(|(f, t)| fits(f, t)),
        (Ty::Fn(fa, fr), Ty::Fn(ta, tr)) => {
            fa.len() == ta.len() && fa.iter().zip(ta).all(|(f, t)| fits(t, f)) && fits(fr, tr)
        }
        (Ty::Record(f, ff), Ty::Record(t, tf)) => {
            f == t && ff.len() == tf.len() && ff.iter().zip(tf).all(|(f, t)| f.0 == t.0 && fits(&f.1, &t.1))
        }
        (f, t) => f == t,
    }
}

/// The smallest type that both fit, if there is one.
pub(crate) fn join(a: &Ty, b: &Ty) -> Option<Ty> {
    Some(match (a, b) {
        (Ty::Never, t) | (t, Ty::Never) => t.clone(),
        (Ty::Optional(x), Ty::Optional(y)) => optional(join(x, y)?),
        (Ty::Optional(x), y) | (y, Ty::Optional(x)) => optional(join(x, y)?),
        (Ty::List(x, n), Ty::List(y, m)) => Ty::List(Box::new(join(x, y)?), n.zip(*m).map(|(n, m)| n.max(m))),
        (Ty::Sample(x), Ty::Sample(y)) => Ty::Sample(Box::new(join(x, y)?)),
        (Ty::Vote(x), Ty::Vote(y)) => {
            let ((kx, ix), (ky, iy)) = (vote_parts(x), vote_parts(y));
            vote_of(join(&kx, &ky)?, join(&ix, &iy)?)
        }
        (Ty::Tuple(x), Ty::Tuple(y)) if x.len() == y.len() => {
            Ty::Tuple(x.iter().zip(y).map(|(x, y)| join(x, y)).collect::<Option<_>>()?)
        }
        (x, y) if x == y => x.clone(),
        _ => return None,
    })
}

/// The same type without the lengths of lists: what a loop carries when its list grows.
pub(crate) fn without_lengths(ty: &Ty) -> Ty {
    match ty {
        Ty::List(t, _) => Ty::List(Box::new(without_lengths(t)), None),
        Ty::Optional(t) => Ty::Optional(Box::new(without_lengths(t))),
        Ty::Tuple(items) => Ty::Tuple(items.iter().map(without_lengths).collect()),
        other => other.clone(),
    }
}

/// Replaces marks of the checker by plain types: votes keep only their key.
pub(crate) fn plain(ty: &Ty) -> Ty {
    let boxed = |t: &Ty| Box::new(plain(t));
    match ty {
        Ty::Vote(t) => Ty::Vote(boxed(&vote_parts(t).0)),
        Ty::Sample(t) => Ty::Sample(boxed(t)),
        Ty::List(t, n) => Ty::List(boxed(t), *n),
        Ty::Optional(t) => Ty::Optional(boxed(t)),
        Ty::Tuple(items) => Ty::Tuple(items.iter().map(plain).collect()),
        Ty::Record(name, fields) => {
            Ty::Record(name.clone(), fields.iter().map(|(n, t)| (n.clone(), plain(t))).collect())
        }
        Ty::Fn(args, result) => Ty::Fn(args.iter().map(plain).collect(), boxed(result)),
        other => other.clone(),
    }
}

/// Values of the type have an order.
pub(crate) fn ordered(ty: &Ty) -> bool {
    matches!(ty, Ty::Int | Ty::Float | Ty::Prob | Ty::Score | Ty::Tokens | Ty::Time | Ty::Usd | Ty::Bytes | Ty::Never)
}

/// Values of the type can be compared for equality.
pub(crate) fn comparable(ty: &Ty) -> bool {
    match ty {
        Ty::Fn(..) | Ty::Ctx | Ty::Dist | Ty::Model(_) | Ty::Budget | Ty::Usage | Ty::Vote(_) | Ty::Choice => false,
        Ty::Sample(_) => false,
        Ty::List(t, _) | Ty::Optional(t) => comparable(t),
        Ty::Tuple(items) => items.iter().all(comparable),
        Ty::Record(_, fields) => fields.iter().all(|(_, t)| comparable(t)),
        _ => true,
    }
}

/// Values of the type have a text form for templates.
pub(crate) fn printable(ty: &Ty) -> bool {
    match ty {
        Ty::Fn(..) | Ty::Dist | Ty::Model(_) | Ty::Budget | Ty::Usage | Ty::Unit | Ty::Ctx => false,
        Ty::List(t, _) | Ty::Optional(t) | Ty::Sample(t) => printable(t),
        Ty::Vote(_) | Ty::Choice => true,
        Ty::Tuple(items) => items.iter().all(printable),
        Ty::Record(_, fields) => fields.iter().all(|(_, t)| printable(t)),
        _ => true,
    }
}

/// Values of the type have a JSON form.
pub(crate) fn has_json(ty: &Ty) -> bool {
    match ty {
        Ty::Bool | Ty::Int | Ty::Float | Ty::Text | Ty::Prob | Ty::Enum(..) | Ty::Never => true,
        Ty::List(t, _) | Ty::Optional(t) => has_json(t),
        Ty::Record(_, fields) => fields.iter().all(|(_, t)| has_json(t)),
        _ => false,
    }
}

/// A quantity: has a unit.
pub(crate) fn quantity(ty: &Ty) -> bool {
    matches!(ty, Ty::Tokens | Ty::Time | Ty::Usd | Ty::Bytes)
}

/// The role kind of that name.
pub(crate) fn role_kind(name: &str) -> Option<RoleKind> {
    Some(match name {
        "Generator" => RoleKind::Generator,
        "Scorer" => RoleKind::Scorer,
        "StepScorer" => RoleKind::StepScorer,
        "Verifier" => RoleKind::Verifier,
        "StepVerifier" => RoleKind::StepVerifier,
        "Embedder" => RoleKind::Embedder,
        "Classifier" => RoleKind::Classifier,
        _ => return None,
    })
}

/// The type as the author would write it.
pub(crate) fn show(ty: &Ty) -> String {
    plain(ty).to_string()
}
