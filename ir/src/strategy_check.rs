//! Well-formedness of a [`Strategy`]: a failure here is a bug of the compiler, never of the author.
//!
//! Checked: every variable is assigned once, below `vars`, before it is used and where it is visible; sites are unique
//! and below `sites`; streams are unique; roles and tunables exist; bounds cover every site; nothing follows a bind that
//! never returns; `break` stands in a loop. Types are not checked again.

use crate::strategy::{Action, Bind, Generate, Op, Part, Pat, Region, Strategy, Var, VerifierOp};

/// Checks a strategy; returns every violation as a sentence.
///
/// # Errors
/// The violations, in the order of the text form.
pub fn strategy(s: &Strategy) -> Result<(), Vec<String>> {
    let mut check = Check {
        s,
        assigned: vec![false; s.vars as usize],
        visible: vec![false; s.vars as usize],
        sites: vec![false; s.sites as usize],
        streams: std::collections::BTreeSet::new(),
        loops: 0,
        wrong: Vec::new(),
    };
    if s.params.len() != s.body.params.len() {
        check.wrong.push(format!("{} parameters, {} variables for them", s.params.len(), s.body.params.len()));
    }
    check.region(&s.body);
    if let Some(i) = check.sites.iter().position(|seen| !seen) {
        check.wrong.push(format!("site #{i} does not exist"));
    }
    if check.wrong.is_empty() { Ok(()) } else { Err(check.wrong) }
}

struct Check<'a> {
    s: &'a Strategy,
    assigned: Vec<bool>,
    visible: Vec<bool>,
    sites: Vec<bool>,
    streams: std::collections::BTreeSet<u32>,
    loops: u32,
    wrong: Vec<String>,
}

impl Check<'_> {
    fn define(&mut self, v: Var) {
        match self.assigned.get_mut(v.0 as usize) {
            None => self.wrong.push(format!("{v} is not below the number of variables")),
            Some(true) => self.wrong.push(format!("{v} is assigned twice")),
            Some(seen) => {
                *seen = true;
                self.visible[v.0 as usize] = true;
            }
        }
    }

    fn read(&mut self, v: Var) {
        if !self.visible.get(v.0 as usize).copied().unwrap_or(false) {
            self.wrong.push(format!("{v} is not visible where it is used"));
        }
    }

    fn read_all(&mut self, vars: impl IntoIterator<Item = Var>) {
        vars.into_iter().for_each(|v| self.read(v));
    }

    fn site(&mut self, site: u32) {
        match self.sites.get_mut(site as usize) {
            None => self.wrong.push(format!("site #{site} is not below the number of sites")),
            Some(true) => self.wrong.push(format!("site #{site} is used twice")),
            Some(seen) => *seen = true,
        }
    }

    /// A region: what it defines is invisible after it.
    fn region(&mut self, r: &Region) {
        let mut defined: Vec<Var> = Vec::new();
        for v in &r.params {
            self.define(*v);
            defined.push(*v);
        }
        for (i, b) in r.binds.iter().enumerate() {
            self.bind(b, &mut defined);
            if matches!(b.op, Op::Return(_) | Op::Break(_) | Op::Fail(_)) && i + 1 < r.binds.len() {
                self.wrong.push(format!("binds follow {}, which never returns", b.var));
            }
        }
        if let Some(v) = r.result {
            self.read(v);
        }
        for v in defined {
            if let Some(visible) = self.visible.get_mut(v.0 as usize) {
                *visible = false;
            }
        }
    }

    /// A region whose pattern binds variables beside its parameters.
    fn arm(&mut self, pattern: &Pat, r: &Region) {
        let mut bound = Vec::new();
        pattern_vars(pattern, &mut bound);
        bound.retain(|v| !r.params.contains(v));
        bound.iter().for_each(|v| self.define(*v));
        self.region(r);
        for v in bound {
            if let Some(visible) = self.visible.get_mut(v.0 as usize) {
                *visible = false;
            }
        }
    }

    fn bind(&mut self, b: &Bind, defined: &mut Vec<Var>) {
        self.op(&b.op);
        self.define(b.var);
        defined.push(b.var);
    }

    fn op(&mut self, op: &Op) {
        match op {
            Op::Const(_) | Op::Remaining | Op::Spent => {}
            Op::Tunable(i) if (*i as usize) < self.s.tunables.len() => {}
            Op::Tunable(i) => self.wrong.push(format!("tunable ${i} does not exist")),
            Op::Model(i) if (*i as usize) < self.s.roles.len() => {}
            Op::Model(i) => self.wrong.push(format!("role @{i} does not exist")),
            Op::Prim(_, operands) => self.read_all(operands.iter().copied()),
            Op::Prompt(messages) => {
                for part in messages.iter().flat_map(|(_, parts)| parts) {
                    if let Part::Var(v) = part {
                        self.read(*v);
                    }
                }
            }
            Op::Dist(_, _, d) => self.read(*d),
            Op::Lambda(r) => self.inner(r, 0),
            Op::Verifier(v) => match v {
                VerifierOp::Exact(e) | VerifierOp::Regex(e) => self.read(*e),
                VerifierOp::Numeric(e, t) => self.read_all([*e, *t]),
                VerifierOp::Command(parts) | VerifierOp::Lines(parts) | VerifierOp::All(parts) => {
                    self.read_all(parts.iter().copied())
                }
            },
            Op::Generate(g) => self.generate(g),
            Op::Score(site, v, s, _) => self.sited(*site, &[*v, *s]),
            Op::LogProb(site, m, c, t) => self.sited(*site, &[*m, *c, *t]),
            Op::Choose(site, m, c, l) => self.sited(*site, &[*m, *c, *l]),
            Op::Expect(site, m, c, lo, hi) => {
                self.sited(*site, &[*m, *c]);
                if !(0 <= *lo && lo < hi && *hi <= 9) {
                    self.wrong.push(format!("site #{site} expects digits {lo}..={hi}"));
                }
            }
            _ => self.control(op),
        }
    }

    fn control(&mut self, op: &Op) {
        match op {
            Op::If(c, then, otherwise) => {
                self.read(*c);
                self.region(then);
                self.region(otherwise);
            }
            Op::Match(v, arms) => {
                self.read(*v);
                arms.iter().for_each(|(p, r)| self.arm(p, r));
            }
            Op::Route(c, min, arms, otherwise) => {
                self.read(*c);
                self.read_all(*min);
                arms.iter().for_each(|(_, r)| self.region(r));
                self.region(otherwise);
            }
            Op::Coalesce(v, r) => {
                self.read(*v);
                self.region(r);
            }
            Op::For(xs, p, carry, r, _) => {
                self.read(*xs);
                self.read_all(*carry);
                if r.params.len() != 1 + usize::from(carry.is_some()) {
                    self.wrong.push("a loop's region takes the item, and the carried value if any".to_owned());
                }
                self.loops += 1;
                self.arm(p, r);
                self.loops -= 1;
            }
            Op::Par(xs, p, r, _) => {
                self.read(*xs);
                if r.params.len() != 1 {
                    self.wrong.push("a parallel region takes the item".to_owned());
                }
                let outer = std::mem::take(&mut self.loops);
                self.arm(p, r);
                self.loops = outer;
            }
            Op::ParRecord(entries) => entries.iter().for_each(|(_, r)| self.inner(r, 0)),
            Op::Within(limits, budget, body, otherwise) => {
                self.read_all(limits.iter().map(|(_, v)| *v));
                self.read_all(*budget);
                self.region(body);
                otherwise.iter().for_each(|r| self.region(r));
            }
            Op::Break(v) => {
                self.read_all(*v);
                if self.loops == 0 {
                    self.wrong.push("break outside of a loop".to_owned());
                }
            }
            Op::Return(v) | Op::Fail(v) => self.read_all(*v),
            _ => {}
        }
    }

    /// A region that loops around it cannot be left from.
    fn inner(&mut self, r: &Region, loops: u32) {
        let outer = std::mem::replace(&mut self.loops, loops);
        self.region(r);
        self.loops = outer;
    }

    fn sited(&mut self, site: u32, vars: &[Var]) {
        self.site(site);
        self.read_all(vars.iter().copied());
    }

    fn generate(&mut self, g: &Generate) {
        self.site(g.site);
        if !self.streams.insert(g.stream) {
            self.wrong.push(format!("stream ~{} is used twice", g.stream));
        }
        self.read_all([g.model, g.ctx, g.max]);
        self.read_all([g.n, g.live, g.temp, g.top_p, g.top_k, g.min_p, g.stop, g.seed].into_iter().flatten());
        let b = &self.s.bounds;
        if g.live_max == 0 || g.max_bound == 0 {
            self.wrong.push(format!("site #{} has no bounds", g.site));
        }
        if g.live_max > b.live || g.max_bound > b.tokens {
            self.wrong.push(format!("site #{} exceeds the bounds of the strategy", g.site));
        }
        for rule in &g.rules {
            rule.when.iter().for_each(|r| self.inner(r, 0));
            for action in &rule.actions {
                if let Action::Temperature(r) = action {
                    self.inner(r, 0);
                }
            }
        }
    }
}

fn pattern_vars(pattern: &Pat, out: &mut Vec<Var>) {
    match pattern {
        Pat::Bind(v) => out.push(*v),
        Pat::Tuple(items) => items.iter().for_each(|p| pattern_vars(p, out)),
        Pat::Any | Pat::Const(_) => {}
    }
}
