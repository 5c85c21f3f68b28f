//! `test` blocks: mocks of roles, calls of strategies, assertions.

use super::Checker;
use super::Def;
use crate::ast::{self, StmtKind};
use crate::codes;
use crate::hir::{Const, Expr, ExprKind, Prim, RoleKind, Test, TestStep, Ty};
use ir::diagnostic::{Diagnostic, Span};
use ir::strategy::MockOutput;

impl Checker<'_> {
    pub(super) fn test(&mut self, title: &str, body: &ast::Block, span: Span) {
        self.place.test = true;
        let mut mocks: Vec<(String, Vec<MockOutput>)> = Vec::new();
        let mut steps = Vec::new();
        for stmt in &body.stmts {
            match &stmt.kind {
                StmtKind::Mock(name, value) => {
                    if let Some(outputs) = self.mock(name, value) {
                        if mocks.iter().any(|(n, _)| *n == name.text) {
                            let message = format!("`{}` is mocked twice", name.text);
                            self.error(codes::E0208, name.span, message, "the second one");
                        }
                        mocks.push((name.text.clone(), outputs));
                    }
                }
                StmtKind::Assert(e) => {
                    let value = self.check_as(e, &Ty::Bool);
                    let text = self.text(e.span).to_owned();
                    steps.push(TestStep::Assert(value, text));
                }
                _ => steps.extend(self.stmt(stmt).map(TestStep::Stmt)),
            }
        }
        if let Some(value) = &body.value {
            let value = self.check(value, None);
            steps.push(TestStep::Stmt(crate::hir::Stmt::Expr(value)));
        }
        self.leave(0);
        self.program.tests.push(Test { title: title.to_owned(), mocks, steps, span });
    }

    fn mock(&mut self, name: &ast::Name, value: &ast::Expr) -> Option<Vec<MockOutput>> {
        let kind = match self.lookup(&name.text) {
            Some(Def::Role(i)) => self.program.roles[i].kind,
            Some(Def::Broken) => return None,
            Some(_) => {
                let message = format!("`{}` is not a model", name.text);
                self.error(codes::E0204, name.span, message, "only model roles are mocked");
                return None;
            }
            // A role of a used file may be mocked although this file does not declare it.
            None => match self.program.roles.iter().find(|r| r.name == name.text) {
                Some(role) => role.kind,
                None => {
                    self.unknown_name(name);
                    return None;
                }
            },
        };
        let (list, place) = (self.check(value, None), value.span);
        let item = match &list.ty {
            Ty::List(item, _) => (**item).clone(),
            other => other.clone(),
        };
        // A generator may answer with numbers too, where its text is read as one.
        let fine = match kind {
            RoleKind::Generator => matches!(item, Ty::Text | Ty::Float | Ty::Int | Ty::Never),
            _ => matches!(item, Ty::Float | Ty::Int | Ty::Never),
        };
        if !fine || !matches!(list.ty, Ty::List(..) | Ty::Never) {
            let message = format!("`{}` cannot answer with `{}`", name.text, super::types::show(&list.ty));
            self.report(
                Diagnostic::error(codes::E0204, place, message, "not its outputs")
                    .help("write a list of texts for a generator, of numbers for a verifier or scorer"),
            );
            return None;
        }
        let outputs = self.outputs(&list);
        if outputs.as_ref().is_some_and(Vec::is_empty) {
            self.error(codes::E0215, value.span, "a mock needs at least one output", "nothing to answer");
        }
        if outputs.is_none() && list.ty != Ty::Never {
            self.report(
                Diagnostic::error(codes::E0218, value.span, "the outputs of a mock are constants", "not constant")
                    .help("write a list of texts for a generator, of numbers for a verifier"),
            );
        }
        outputs
    }

    fn outputs(&self, e: &Expr) -> Option<Vec<MockOutput>> {
        match &e.kind {
            ExprKind::Prim(Prim::List, items) => items
                .iter()
                .map(|i| match self.value_of(i).ok()? {
                    Const::Text(t) => Some(MockOutput::Text(t)),
                    Const::Float(x) => Some(MockOutput::Number(x)),
                    Const::Int(n) => Some(MockOutput::Number(n as f64)),
                    _ => None,
                })
                .collect(),
            ExprKind::Prim(Prim::Add, parts) => {
                let mut all = Vec::new();
                for part in parts {
                    all.extend(self.outputs(part)?);
                }
                Some(all)
            }
            _ => None,
        }
    }
}
