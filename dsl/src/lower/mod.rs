//! The checked program becomes the Strategy IR: functions and prompts are written out in place, every operand becomes a
//! variable, sites and random streams get their numbers, roles and tunables are listed in the order of first use.
//!
//! Total on a program that [`crate::check`] passed, except for constructs that cannot be executed yet: those are errors
//! that name the construct ([`later`]). Takes no decision about how anything is computed.

mod control;
mod exprs;
mod later;
mod sites;
mod tests_of;

use crate::bounds::walk::{Fact, Facts, MAX_STEPS, Walk};
use crate::check::types;
use crate::codes;
use crate::hir::{Const, Expr, Function, Local, Prim, Program, RoleBinding};
use ir::diagnostic::{Diagnostic, Span};
use ir::strategy::{Bind, Op, Param, Region, Role, Strategy, Test, Var};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Lowers a strategy of the main file.
///
/// # Errors
/// `E0201` when there is none of that name, `E09xx` for constructs that do not run yet, and the messages of the bounds
/// when the program was lowered although it did not check.
pub fn lower(program: &Program, name: &str) -> Result<Strategy, Vec<Diagnostic>> {
    let found = program
        .functions
        .iter()
        .position(|f| f.kind == crate::hir::FunctionKind::Strategy && f.name == name && f.name_span.file == 0);
    match found {
        Some(index) => lower_function(program, index),
        None => {
            let known: Vec<&str> = program.strategies().map(|f| f.name.as_str()).collect();
            let message = format!("there is no strategy `{name}`");
            let d = Diagnostic::error(codes::E0201, Span::default(), message, "not in this file");
            Err(vec![match known.is_empty() {
                true => d.help("the file has no strategies"),
                false => d.help(format!("it has {}", known.join(", "))),
            }])
        }
    }
}

/// Lowers the tests of the main file, in order.
#[must_use]
pub fn tests(program: &Program) -> Vec<Result<Test, Vec<Diagnostic>>> {
    program.tests.iter().map(|t| tests_of::lower_test(program, t)).collect()
}

/// Lowers a strategy by its number.
fn lower_function(program: &Program, index: usize) -> Result<Strategy, Vec<Diagnostic>> {
    let function = &program.functions[index];
    let walk = Walk::function(program, index, None, MAX_STEPS);
    if !walk.messages.is_empty() {
        return Err(walk.messages);
    }
    let mut bounds = walk.cost.bounds;
    bounds.tokens = walk.cost.tokens();
    let mut lower = Lower::new(program, walk.facts);
    lower.at = (function.name_span.start, function.name_span.end);
    let body = lower.entry(function);
    lower.finish(function, body, bounds)
}

/// What a local stands for.
#[derive(Clone, Debug)]
enum Value<'p> {
    Var(Var),
    Function(Rc<Closure<'p>>),
}

/// A function argument with what it sees; written out where it is used.
#[derive(Debug)]
struct Closure<'p> {
    params: &'p [Local],
    body: &'p Expr,
    env: Env<'p>,
}

type Env<'p> = Rc<BTreeMap<Local, Value<'p>>>;

/// What `return` means where the writing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leave {
    /// Leaves the strategy.
    Strategy,
    /// Leaves the one-round loop that stands for a called function, `depth` loops or functions deep inside it.
    Call { depth: u32 },
}

/// A region being written.
#[derive(Default)]
struct Open {
    params: Vec<Var>,
    binds: Vec<Bind>,
    /// The last bind never returns: what would follow is left out.
    closed: bool,
}

struct Lower<'p> {
    program: &'p Program,
    facts: Facts,
    errors: Vec<Diagnostic>,
    regions: Vec<Open>,
    env: Env<'p>,
    /// The calls that lead here, as in the walk of the bounds.
    calls: Vec<u32>,
    leave: Leave,
    roles: Vec<usize>,
    tunables: Vec<usize>,
    /// Variables that hold a `Budget(…)`, with its parts.
    budgets: BTreeMap<Var, Vec<(String, Var)>>,
    /// Variables that hold a model role.
    models: BTreeMap<Var, usize>,
    vars: u32,
    sites: u32,
    streams: u32,
    /// Place of the expression in the main file.
    at: (u32, u32),
    /// Strategies called by a test, by function; `None` outside of tests.
    test: Option<tests_of::Calls>,
}

/// What stands for the variable of something that was not written.
const NOWHERE: Var = Var(u32::MAX);

impl<'p> Lower<'p> {
    fn new(program: &'p Program, facts: Facts) -> Self {
        Self {
            program,
            facts,
            errors: Vec::new(),
            regions: Vec::new(),
            env: Rc::new(BTreeMap::new()),
            calls: Vec::new(),
            leave: Leave::Strategy,
            roles: Vec::new(),
            tunables: Vec::new(),
            budgets: BTreeMap::new(),
            models: BTreeMap::new(),
            vars: 0,
            sites: 0,
            streams: 0,
            at: (0, 0),
            test: None,
        }
    }

    /// The body of a strategy, its parameters first.
    fn entry(&mut self, function: &'p Function) -> Region {
        let params: Vec<Var> = function.params.iter().map(|_| self.fresh()).collect();
        for (param, var) in function.params.iter().zip(&params) {
            self.set(param.local, Value::Var(*var));
        }
        self.region(params, |l| function.body.as_ref().and_then(|body| l.tail(body)))
    }

    fn finish(
        self,
        function: &Function,
        body: Region,
        bounds: ir::strategy::Bounds,
    ) -> Result<Strategy, Vec<Diagnostic>> {
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        let program = self.program;
        let params = function.params.iter().map(|p| Param {
            name: p.name.clone(),
            ty: types::plain(&p.ty),
            default: p.default.clone(),
            range: p.range,
        });
        let strategy = Strategy {
            name: function.name.clone(),
            doc: function.doc.clone(),
            params: params.collect(),
            result: types::plain(&function.result),
            within: function.within,
            allow: function.allow.clone(),
            roles: self.roles.iter().map(|i| role(&program.roles[*i])).collect(),
            tunables: self.tunables.iter().map(|i| program.tunables[*i].item.clone()).collect(),
            bounds,
            sites: self.sites,
            vars: self.vars,
            body,
        };
        debug_assert_eq!(ir::strategy_check::strategy(&strategy), Ok(()), "{strategy}");
        Ok(strategy)
    }

    fn fresh(&mut self) -> Var {
        self.vars += 1;
        Var(self.vars - 1)
    }

    fn site(&mut self) -> u32 {
        self.sites += 1;
        self.sites - 1
    }

    fn set(&mut self, local: Local, value: Value<'p>) {
        Rc::make_mut(&mut self.env).insert(local, value);
    }

    fn fact(&self, e: &Expr) -> Fact {
        self.facts.get(&(self.calls.clone(), e.id)).copied().unwrap_or_default()
    }

    fn closed(&self) -> bool {
        self.regions.last().is_none_or(|r| r.closed)
    }

    /// Writes a bind.
    fn emit(&mut self, op: Op) -> Var {
        if self.closed() {
            return NOWHERE;
        }
        let never = matches!(op, Op::Return(_) | Op::Break(_) | Op::Fail(_));
        let var = self.fresh();
        let at = self.at;
        if let Some(region) = self.regions.last_mut() {
            region.binds.push(Bind { var, op, at });
            region.closed = never;
        }
        var
    }

    fn constant(&mut self, value: Const) -> Var {
        self.emit(Op::Const(value))
    }

    fn prim(&mut self, prim: Prim, operands: Vec<Var>) -> Var {
        self.emit(Op::Prim(prim, operands))
    }

    /// Writes a region of its own; names bound in it end with it.
    fn region(&mut self, params: Vec<Var>, f: impl FnOnce(&mut Self) -> Option<Var>) -> Region {
        let env = Rc::clone(&self.env);
        // Nothing is written where the outer region is closed.
        let closed = self.regions.last().is_some_and(|r| r.closed);
        self.regions.push(Open { params, binds: Vec::new(), closed });
        let result = f(self);
        self.env = env;
        let open = self.regions.pop().unwrap_or_default();
        let result = result.filter(|v| !open.closed && *v != NOWHERE);
        Region { params: open.params, binds: open.binds, result }
    }

    /// Refuses a construct that does not run yet.
    fn refuse(&mut self, code: ir::diagnostic::Code, span: Span, what: &str, help: &str) {
        if self.errors.iter().any(|d| d.span == span && d.code == code) {
            return;
        }
        self.errors.push(
            Diagnostic::error(
                code,
                span,
                format!("{what} cannot be executed in version {}", env!("CARGO_PKG_VERSION")),
                "checked, but does not run yet",
            )
            .help(help.to_owned()),
        );
    }
}

fn role(role: &crate::hir::Role) -> Role {
    let binding = match &role.binding {
        Some(RoleBinding::Ready(binding)) => Some(binding.clone()),
        _ => None,
    };
    Role { name: role.name.clone(), kind: role.kind, needs: role.needs.clone(), binding }
}
