//! The text form of the Strategy IR: what `--emit ir` prints and snapshots hold.
//!
//! Stable: regions are indented, variables are `%0…` in the order of their numbers, sites `#0`, streams `~0`. Places in
//! the source are left out. Printing only; nothing reads this back.

use crate::strategy::{
    Action, Bind, Binding, Const, DistField, Format, Generate, Level, Limits, Op, Part, Pat, Prim, Region, RoleKind,
    Rule, Speaker, Strategy, Ty, Var, VerifierOp, Window,
};
use std::fmt::{self, Display, Formatter, Write};

impl Display for Var {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl Display for RoleKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl Display for Ty {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Ty::Unit => f.write_str("()"),
            Ty::Sample(t) => write!(f, "Sample<{t}>"),
            Ty::List(t, Some(n)) => write!(f, "[{t}; {n}]"),
            Ty::List(t, None) => write!(f, "[{t}]"),
            Ty::Vote(t) => write!(f, "Vote<{t}>"),
            Ty::Optional(t) if **t == Ty::Never => f.write_str("none"),
            Ty::Optional(t) => write!(f, "{t}?"),
            Ty::Record(name, _) | Ty::Enum(name, _) => f.write_str(name),
            Ty::Tuple(items) => write!(f, "({})", joined(items)),
            Ty::Model(kind) => write!(f, "{kind}"),
            Ty::Fn(args, result) => write!(f, "fn({}) -> {result}", joined(args)),
            Ty::Never => f.write_str("!"),
            plain => write!(f, "{plain:?}"),
        }
    }
}

impl Display for Const {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Const::Unit => f.write_str("()"),
            Const::Bool(b) => write!(f, "{b}"),
            Const::Int(n) => write!(f, "{n}"),
            Const::Float(x) => write!(f, "{x:?}"),
            Const::Text(t) => write!(f, "{t:?}"),
            Const::Tokens(n) => write!(f, "{n}tok"),
            Const::Time(s) => write!(f, "{s}s"),
            Const::Usd(d) => write!(f, "{d}usd"),
            Const::Bytes(n) => write!(f, "{n}B"),
            Const::None => f.write_str("none"),
            Const::Label(l) => write!(f, "::{l}"),
        }
    }
}

impl Display for Pat {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Pat::Any => f.write_str("_"),
            Pat::Bind(v) => write!(f, "{v}"),
            Pat::Const(c) => write!(f, "{c}"),
            Pat::Tuple(items) => write!(f, "({})", joined(items)),
        }
    }
}

impl Display for Limits {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let count = |n: &Option<u64>, name: &str, unit: &str| n.map(|n| format!("{name}: {n}{unit}"));
        parts.extend(count(&self.tokens, "tokens", "tok"));
        parts.extend(count(&self.calls, "calls", ""));
        parts.extend(count(&self.kv, "kv", "B"));
        parts.extend(self.time.map(|t| format!("time: {t}s")));
        parts.extend(self.usd.map(|d| format!("usd: {d}usd")));
        write!(f, "{{ {} }}", parts.join(", "))
    }
}

impl Display for Binding {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Binding::Gguf(path) => write!(f, "gguf({path:?})"),
            Binding::Exact(text) => write!(f, "exact({text:?})"),
            Binding::Numeric(x, tolerance) => write!(f, "numeric({x}, {tolerance})"),
            Binding::Regex(pattern) => write!(f, "regex({pattern:?})"),
            Binding::Command(words) => write!(f, "command({words:?})"),
            Binding::Lines(words) => write!(f, "lines({words:?})"),
        }
    }
}

impl Display for Strategy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let params: Vec<String> = self
            .params
            .iter()
            .zip(&self.body.params)
            .map(|(p, v)| {
                let default = p.default.as_ref().map_or(String::new(), |d| format!(" = {d}"));
                let range = p.range.map_or(String::new(), |(lo, hi)| format!(" in {lo}..={hi}"));
                format!("{v} {}: {}{default}{range}", p.name, p.ty)
            })
            .collect();
        writeln!(f, "strategy {}({}) -> {}", self.name, params.join(", "), self.result)?;
        if self.within != Limits::default() {
            writeln!(f, "within {}", self.within)?;
        }
        for allow in &self.allow {
            writeln!(f, "allow {}: {}", allow.name, allow.value)?;
        }
        for (i, role) in self.roles.iter().enumerate() {
            let needs: Vec<String> = role.needs.iter().map(|n| format!("{n:?}").to_lowercase()).collect();
            let needs = if needs.is_empty() { String::new() } else { format!(" needs {}", needs.join(", ")) };
            let binding = role.binding.as_ref().map_or(String::new(), |b| format!(" = {b}"));
            writeln!(f, "model @{i} {}: {}{needs}{binding}", role.name, role.kind)?;
        }
        for (i, t) in self.tunables.iter().enumerate() {
            writeln!(f, "tunable ${i} {}: {} = {} in {}..={}", t.name, t.ty, t.value, t.range.0, t.range.1)?;
        }
        let b = &self.bounds;
        writeln!(f, "bounds tokens {} calls {} live {} kv {}", b.tokens, b.calls, b.live, b.kv_tokens)?;
        region(f, &self.body, 1)
    }
}

fn joined<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn indent(f: &mut Formatter<'_>, depth: usize) -> fmt::Result {
    for _ in 0..depth {
        f.write_str("  ")?;
    }
    Ok(())
}

/// The lines of a region; its parameters are printed by whatever holds it.
fn region(f: &mut Formatter<'_>, r: &Region, depth: usize) -> fmt::Result {
    for b in &r.binds {
        bind(f, b, depth)?;
    }
    if let Some(v) = r.result {
        indent(f, depth)?;
        writeln!(f, "{v}")?;
    }
    Ok(())
}

fn nested(f: &mut Formatter<'_>, title: &str, r: &Region, depth: usize) -> fmt::Result {
    indent(f, depth)?;
    f.write_str(title)?;
    if !r.params.is_empty() {
        write!(f, " |{}|", joined(&r.params))?;
    }
    f.write_char('\n')?;
    region(f, r, depth + 1)
}

fn bind(f: &mut Formatter<'_>, b: &Bind, depth: usize) -> fmt::Result {
    indent(f, depth)?;
    write!(f, "{} = ", b.var)?;
    match &b.op {
        Op::Const(c) => writeln!(f, "{c}"),
        Op::Tunable(i) => writeln!(f, "${i}"),
        Op::Model(i) => writeln!(f, "@{i}"),
        Op::Prim(prim, operands) => writeln!(f, "{}", prim_text(prim, operands)),
        Op::Prompt(messages) => prompt(f, messages, depth),
        Op::Dist(field, window, d) => writeln!(f, "{d}.{}{}", dist_field(*field), window_text(*window)),
        Op::Lambda(r) => {
            f.write_str("fn\n")?;
            nested(f, "do", r, depth + 1)
        }
        Op::Verifier(v) => writeln!(f, "{}", verifier(v)),
        Op::Generate(g) => generate(f, g, depth),
        Op::Score(site, v, s, calibrated) => {
            writeln!(f, "#{site} {}({v}, {s})", if *calibrated { "verify" } else { "score" })
        }
        Op::LogProb(site, m, c, t) => writeln!(f, "#{site} logprob({m}, {c}, {t})"),
        Op::Choose(site, m, c, l) => writeln!(f, "#{site} choose({m}, {c}, {l})"),
        Op::Expect(site, m, c, lo, hi) => writeln!(f, "#{site} expect({m}, {c}, {lo}..={hi})"),
        Op::If(c, then, otherwise) => {
            writeln!(f, "if {c}")?;
            nested(f, "then", then, depth + 1)?;
            nested(f, "else", otherwise, depth + 1)
        }
        Op::Match(v, arms) => {
            writeln!(f, "match {v}")?;
            arms.iter().try_for_each(|(p, r)| nested(f, &format!("case {p}"), r, depth + 1))
        }
        Op::Route(c, min, arms, otherwise) => {
            writeln!(f, "route {c}{}", min.map_or(String::new(), |m| format!(" min {m}")))?;
            arms.iter().try_for_each(|(label, r)| nested(f, &format!("label {label}"), r, depth + 1))?;
            nested(f, "else", otherwise, depth + 1)
        }
        Op::Coalesce(v, r) => {
            writeln!(f, "{v} ??")?;
            nested(f, "else", r, depth + 1)
        }
        Op::For(xs, p, carry, r, rounds) => {
            let carry = carry.map_or(String::new(), |c| format!(" carry {c}"));
            writeln!(f, "for {p} in {xs}{carry} rounds {rounds}")?;
            nested(f, "do", r, depth + 1)
        }
        Op::Par(xs, p, r, rounds) => {
            writeln!(f, "par {p} in {xs} rounds {rounds}")?;
            nested(f, "do", r, depth + 1)
        }
        Op::ParRecord(entries) => {
            f.write_str("par\n")?;
            entries.iter().try_for_each(|(name, r)| nested(f, name, r, depth + 1))
        }
        Op::Within(limits, budget, body, otherwise) => {
            let mut parts: Vec<String> = limits.iter().map(|(n, v)| format!("{n}: {v}")).collect();
            parts.extend(budget.map(|b| b.to_string()));
            writeln!(f, "within {{ {} }}", parts.join(", "))?;
            nested(f, "do", body, depth + 1)?;
            otherwise.as_ref().map_or(Ok(()), |r| nested(f, "else", r, depth + 1))
        }
        Op::Remaining => f.write_str("remaining()\n"),
        Op::Spent => f.write_str("spent()\n"),
        Op::Return(v) => leave(f, "return", *v),
        Op::Break(v) => leave(f, "break", *v),
        Op::Fail(v) => leave(f, "fail", *v),
    }
}

fn leave(f: &mut Formatter<'_>, word: &str, v: Option<Var>) -> fmt::Result {
    writeln!(f, "{word}{}", v.map_or(String::new(), |v| format!(" {v}")))
}

fn prim_text(prim: &Prim, operands: &[Var]) -> String {
    let all = joined(operands);
    let infix = |sign: &str| operands.iter().map(ToString::to_string).collect::<Vec<_>>().join(&format!(" {sign} "));
    match prim {
        Prim::Add => infix("+"),
        Prim::Sub => infix("-"),
        Prim::Mul => infix("*"),
        Prim::Div => infix("/"),
        Prim::Neg => format!("-{all}"),
        Prim::Not => format!("not {all}"),
        Prim::Eq => infix("=="),
        Prim::Ne => infix("!="),
        Prim::Lt => infix("<"),
        Prim::Le => infix("<="),
        Prim::Gt => infix(">"),
        Prim::Ge => infix(">="),
        Prim::List => format!("[{all}]"),
        Prim::Tuple => format!("({all})"),
        Prim::TupleField(i) => format!("{all}.{i}"),
        Prim::Record(name, fields) => {
            let parts: Vec<String> = fields.iter().zip(operands).map(|(n, v)| format!("{n}: {v}")).collect();
            format!("{name} {{ {} }}", parts.join(", "))
        }
        Prim::Field(name) => format!("{all}.{name}"),
        Prim::Index => operands.split_first().map_or(String::new(), |(xs, i)| format!("{xs}[{}]", joined(i))),
        Prim::Range => infix(".."),
        Prim::RangeInclusive => infix("..="),
        Prim::Template(parts) => {
            let mut holes = operands.iter();
            let parts: Vec<String> = parts
                .iter()
                .map(|p| match p {
                    Some(text) => format!("{text:?}"),
                    None => holes.next().map_or("?".to_owned(), ToString::to_string),
                })
                .collect();
            format!("text({})", parts.join(", "))
        }
        Prim::CtxAdd => format!("add({all})"),
        Prim::Call(name) => format!("{name}({all})"),
        Prim::VoteTop => format!("vote_top({all})"),
        Prim::SemanticEntropy => format!("semantic_entropy({all})"),
        Prim::IsNone => format!("is_none({all})"),
        named => format!("{}({all})", format!("{named:?}").to_lowercase()),
    }
}

fn prompt(f: &mut Formatter<'_>, messages: &[(Speaker, Vec<Part>)], depth: usize) -> fmt::Result {
    f.write_str("prompt\n")?;
    for (speaker, parts) in messages {
        indent(f, depth + 1)?;
        let parts: Vec<String> = parts
            .iter()
            .map(|p| match p {
                Part::Text(t) => format!("{t:?}"),
                Part::Var(v) => v.to_string(),
            })
            .collect();
        writeln!(f, "{} {}", format!("{speaker:?}").to_lowercase(), parts.join(" "))?;
    }
    Ok(())
}

fn dist_field(field: DistField) -> &'static str {
    match field {
        DistField::Entropy => "entropy",
        DistField::Varentropy => "varentropy",
        DistField::Margin => "margin",
        DistField::Top1 => "top1",
    }
}

fn window_text(window: Window) -> String {
    match window {
        Window::Now => String::new(),
        Window::Mean(k) => format!(".mean({k})"),
        Window::Ema(a) => format!(".ema({a})"),
    }
}

fn verifier(v: &VerifierOp) -> String {
    match v {
        VerifierOp::Exact(e) => format!("exact({e})"),
        VerifierOp::Numeric(e, t) => format!("numeric({e}, {t})"),
        VerifierOp::Regex(p) => format!("regex({p})"),
        VerifierOp::Command(words) => format!("command({})", joined(words)),
        VerifierOp::All(parts) => format!("both({})", joined(parts)),
        VerifierOp::Lines(words) => format!("lines({})", joined(words)),
    }
}

fn generate(f: &mut Formatter<'_>, g: &Generate, depth: usize) -> fmt::Result {
    write!(f, "#{} ~{} {}({}, {}", g.site, g.stream, if g.n.is_some() { "sample" } else { "gen" }, g.model, g.ctx)?;
    let settings = [
        ("n", g.n),
        ("live", g.live),
        ("max", Some(g.max)),
        ("temp", g.temp),
        ("top_p", g.top_p),
        ("top_k", g.top_k),
        ("min_p", g.min_p),
        ("stop", g.stop),
        ("seed", g.seed),
    ];
    for (name, v) in settings {
        if let Some(v) = v {
            write!(f, ", {name}: {v}")?;
        }
    }
    match &g.format {
        Format::Text => {}
        Format::Boxed => f.write_str(", out: boxed")?,
        Format::Regex(pattern) => write!(f, ", out: regex({pattern:?})")?,
        Format::Json(ty) => write!(f, ", out: json({ty})")?,
    }
    writeln!(f, ") live ≤ {} max ≤ {}", g.live_max, g.max_bound)?;
    g.rules.iter().try_for_each(|r| rule(f, r, depth + 1))
}

fn rule(f: &mut Formatter<'_>, r: &Rule, depth: usize) -> fmt::Result {
    let level = match r.level {
        Level::Token => "token",
        Level::Step => "step",
        Level::End => "end",
        Level::Set => "set",
    };
    match &r.when {
        Some(when) => nested(f, &format!("{level} when"), when, depth)?,
        None => nested(f, level, &Region { params: Vec::new(), binds: Vec::new(), result: None }, depth)?,
    }
    for action in &r.actions {
        match action {
            Action::Temperature(x) => nested(f, "=> temperature", x, depth + 1)?,
            other => {
                indent(f, depth + 1)?;
                match other {
                    Action::Branch(k) => writeln!(f, "=> branch({k})")?,
                    Action::Grow(k) => writeln!(f, "=> grow({k})")?,
                    Action::Drop => f.write_str("=> drop\n")?,
                    _ => f.write_str("=> stop\n")?,
                }
            }
        }
    }
    Ok(())
}
