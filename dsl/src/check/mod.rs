//! Names, types, units and capabilities: a syntax tree becomes a [`Program`], or messages say why not.
//!
//! [`check`] takes the main file and a way to read the files next to it, loads what `use` names ([`modules`]), resolves
//! items ([`items`]) and then bodies ([`exprs`], [`control`], [`calls`], [`generate`], [`rules`]). The whole language is
//! checked, constructs that cannot be executed yet included; those are refused by `lower`. It never panics and never
//! stops at the first error: what failed gets the type that fits everywhere. It does no I/O.

mod calls;
mod control;
mod exprs;
mod functions;
mod generate;
mod items;
mod literals;
mod modules;
mod rules;
mod scope;
mod signatures;
mod spelling;
mod tests_of;
pub(crate) mod types;

use crate::ast;
use crate::codes;
use crate::hir::{Expr, ExprKind, Local, Program, Ty};
use ir::diagnostic::{Code, Diagnostic, Severity, Span};
use ir::strategy::{Level, RoleKind};
use modules::Module;
use scope::{Binding, Scope};
use std::collections::{BTreeMap, BTreeSet};

/// Expressions visited before a program is refused as too large.
const MAX_STEPS: u32 = 400_000;
/// Expressions inside each other; every level takes stack.
const MAX_DEPTH: u32 = 256;
/// Messages after which checking goes on silently.
const MAX_DIAGNOSTICS: usize = 200;

/// Checks a program.
///
/// `path` and `source` are the main file's, `file` its syntax tree; `load` gives the text of a file next to it by its
/// relative path (`strategies.infer`), or `None` when there is no such file. Messages of the parser about loaded files
/// are passed on; those of the main file are the caller's. Warnings come after errors of the same place; all messages
/// are sorted by file and place. With an error among them the program must not be lowered.
#[must_use]
pub fn check(
    path: &str,
    source: &str,
    file: &ast::File,
    load: &dyn Fn(&str) -> Option<String>,
) -> (Program, Vec<Diagnostic>) {
    let mut checker = Checker::new(load);
    checker.program(path, source, file);
    let broken = checker.has_errors();
    let Checker { mut diagnostics, program, .. } = checker;
    // What an error hides looks unused; it may not be.
    diagnostics.retain(|d| !broken || (d.code != codes::W0401 && d.code != codes::W0402));
    diagnostics.sort_by_key(|d| (d.span, d.severity, d.code));
    diagnostics.dedup_by(|a, b| a.code == b.code && a.span == b.span && a.message == b.message);
    (program, diagnostics)
}

/// What is to be said of a program: the parser's messages about the main file, and those of [`check`]. While a file does
/// not parse, only what is wrong with its form: names, types and lints speak of what is left of it then, and mislead.
#[must_use]
pub fn messages(syntax: Vec<Diagnostic>, checked: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let is_syntax = |d: &Diagnostic| {
        d.severity == Severity::Error && crate::parse::SYNTAX_CODES.iter().any(|(code, ..)| *code == d.code)
    };
    let mut all = syntax;
    all.extend(checked);
    if all.iter().any(is_syntax) {
        all.retain(is_syntax);
    }
    all
}

/// What a name of a file stands for.
#[derive(Clone, Debug, PartialEq)]
enum Def {
    Role(usize),
    Function(usize),
    Const(usize),
    Tunable(usize),
    Type(usize),
    Module(usize),
    Builtin(&'static str),
    /// Reported already.
    Broken,
}

/// A record or enum of some file.
#[derive(Clone, Debug)]
struct TypeItem {
    module: usize,
    item: usize,
    state: State<Ty>,
}

/// A constant of some file.
#[derive(Clone, Debug)]
struct ConstItem {
    module: usize,
    item: usize,
    state: State<Expr>,
}

#[derive(Clone, Debug)]
enum State<T> {
    Todo,
    Doing,
    Done(T),
}

/// What surrounds the expression being checked.
#[derive(Clone, Debug, Default)]
struct Place {
    /// Result type of the function; `None` outside of functions.
    result: Option<Ty>,
    /// Types given to `break`, innermost loop last.
    loops: Vec<Loop>,
    /// Inside a rule.
    level: Option<Level>,
    /// Inside a test.
    test: bool,
    /// The function being checked.
    function: Option<usize>,
}

#[derive(Clone, Debug)]
struct Loop {
    carries: bool,
    broken: Ty,
}

struct Checker<'a> {
    load: &'a dyn Fn(&str) -> Option<String>,
    program: Program,
    diagnostics: Vec<Diagnostic>,
    modules: Vec<Module>,
    module_of: BTreeMap<String, Option<usize>>,
    loading: Vec<(String, usize)>,
    types: Vec<TypeItem>,
    consts: Vec<ConstItem>,
    /// Functions called by functions: caller, callee, place.
    calls: Vec<(usize, usize, Span)>,
    scope: Scope,
    place: Place,
    module: usize,
    next_local: u32,
    next_expr: u32,
    depth: u32,
    too_large: bool,
}

impl<'a> Checker<'a> {
    fn new(load: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self {
            load,
            program: Program::default(),
            diagnostics: Vec::new(),
            modules: Vec::new(),
            module_of: BTreeMap::new(),
            loading: Vec::new(),
            types: Vec::new(),
            consts: Vec::new(),
            calls: Vec::new(),
            scope: Scope::default(),
            place: Place::default(),
            module: 0,
            next_local: 0,
            next_expr: 0,
            depth: 0,
            too_large: false,
        }
    }

    fn program(&mut self, path: &str, source: &str, file: &ast::File) {
        self.load_main(path, source, file);
        self.items();
        self.recursion();
        self.unused_imports();
        if !self.has_errors() {
            let (_, messages) = crate::bounds::analyse(&self.program);
            messages.into_iter().for_each(|d| self.report(d));
        }
    }

    /// Reports, unless there are very many messages already.
    fn report(&mut self, diagnostic: Diagnostic) {
        if self.diagnostics.len() < MAX_DIAGNOSTICS {
            self.diagnostics.push(diagnostic);
        }
    }

    fn error(&mut self, code: Code, span: Span, message: impl Into<String>, label: impl Into<String>) {
        self.report(Diagnostic::error(code, span, message, label));
    }

    /// A typed expression with a fresh number.
    fn expr(&mut self, kind: ExprKind, ty: Ty, span: Span) -> Expr {
        self.next_expr += 1;
        let too_large = self.next_expr > MAX_STEPS || types::parts(&ty, types::MAX_TYPE_PARTS) > types::MAX_TYPE_PARTS;
        if !too_large {
            return Expr { id: self.next_expr, kind, ty, span };
        }
        if !self.too_large {
            self.too_large = true;
            let (what, limit) = match self.next_expr > MAX_STEPS {
                true => ("program", MAX_STEPS as usize),
                false => ("type", types::MAX_TYPE_PARTS),
            };
            let message = format!("{what} too large: more than {limit} parts");
            self.report(
                Diagnostic::error(codes::E0305, span, message, "grows beyond the cap here")
                    .help("use a list or a loop instead of writing the same thing into itself"),
            );
        }
        Expr { id: self.next_expr, kind: ExprKind::Error, ty: Ty::Never, span }
    }

    /// What stands for something that failed to check (reported already).
    fn broken(&mut self, span: Span) -> Expr {
        self.expr(ExprKind::Error, Ty::Never, span)
    }

    fn fresh(&mut self) -> Local {
        self.next_local += 1;
        Local(self.next_local - 1)
    }

    /// Brings a name into scope.
    fn bind(&mut self, name: &ast::Name, ty: Ty) -> Local {
        let local = self.fresh();
        self.scope.push(Binding {
            name: name.text.clone(),
            local,
            ty,
            span: name.span,
            used: false,
            labels: None,
            precompute: None,
        });
        local
    }

    /// Ends the scope that began at `mark`; names never read are reported.
    fn leave(&mut self, mark: usize) {
        for binding in self.scope.cut(mark) {
            if !binding.used && !binding.name.starts_with('_') && !self.too_large {
                self.report(
                    Diagnostic::warning(
                        codes::W0402,
                        binding.span,
                        format!("`{}` is never used", binding.name),
                        "nothing reads it",
                    )
                    .help("remove it, or let its name begin with `_`")
                    .fix(
                        "mark it as unused",
                        Span { end: binding.span.start, ..binding.span },
                        "_",
                    ),
                );
            }
        }
    }

    /// Ends a scope without a word about unused names.
    fn leave_silently(&mut self, mark: usize) {
        self.scope.cut(mark);
    }

    /// The source text of a place in the file being checked.
    fn text(&self, span: Span) -> &str {
        let source = self.program.sources.get(span.file as usize).map_or("", |s| s.text.as_str());
        source.get(span.start as usize..span.end as usize).unwrap_or("")
    }

    /// Everything that could be meant by a single name here.
    fn visible_names(&self) -> BTreeSet<&str> {
        let locals = self.scope.names();
        let items = self.modules[self.module].names.keys().map(String::as_str);
        locals.chain(items).collect()
    }

    fn has_errors(&self) -> bool {
        self.diagnostics.iter().any(|d| d.severity == Severity::Error)
    }
}

/// The kind of a role as the author writes it.
fn kind_name(kind: RoleKind) -> String {
    format!("{kind:?}")
}
