//! Tests: pure binds, calls of strategies with mocked models, assertions.

use super::{Lower, NOWHERE};
use crate::bounds::walk::Walk;
use crate::codes;
use crate::hir::{Expr, Program, Stmt, Test, TestStep};
use ir::diagnostic::Diagnostic;
use ir::strategy::{self as ir_strategy, Strategy, TestStep as Step, Var};

/// The strategies that a test calls, and its steps so far.
#[derive(Default)]
pub(super) struct Calls {
    functions: Vec<usize>,
    strategies: Vec<Strategy>,
    steps: Vec<Step>,
}

/// Lowers one test.
pub(super) fn lower_test(program: &Program, test: &Test) -> Result<ir_strategy::Test, Vec<Diagnostic>> {
    let walk = Walk::test(program, test);
    if !walk.messages.is_empty() {
        return Err(walk.messages);
    }
    let mut lower = Lower::new(program, walk.facts);
    lower.test = Some(Calls::default());
    lower.regions.push(super::Open::default());
    lower.at = (test.span.start, test.span.end);
    for step in &test.steps {
        match step {
            TestStep::Stmt(Stmt::Let(pattern, e)) => lower.bind_let(pattern, e),
            TestStep::Stmt(Stmt::Expr(e)) => {
                lower.value(e);
            }
            TestStep::Assert(e, text) => {
                let var = lower.operand(e);
                lower.flush();
                if let Some(calls) = &mut lower.test {
                    calls.steps.push(Step::Assert(var, text.clone()));
                }
            }
        }
    }
    lower.flush();
    if !lower.errors.is_empty() {
        return Err(lower.errors);
    }
    let calls = lower.test.take().unwrap_or_default();
    Ok(ir_strategy::Test {
        title: test.title.clone(),
        mocks: test.mocks.clone(),
        steps: calls.steps,
        strategies: calls.strategies,
        vars: lower.vars,
    })
}

impl<'p> Lower<'p> {
    /// The binds written so far become a step.
    fn flush(&mut self) {
        let binds = self.regions.last_mut().map(|r| std::mem::take(&mut r.binds)).unwrap_or_default();
        if let (false, Some(calls)) = (binds.is_empty(), &mut self.test) {
            calls.steps.push(Step::Eval(binds));
        }
    }

    /// A strategy called by a test: a step of its own.
    pub(super) fn test_call(&mut self, e: &'p Expr, index: usize, args: &'p [Option<Expr>]) -> Option<Var> {
        if self.regions.len() > 1 {
            self.refuse(
                codes::E0904,
                e.span,
                "a strategy called inside a block of a test",
                "call it in a `let` of its own: `let v = strategy(…);`",
            );
            return Some(NOWHERE);
        }
        let args: Vec<Option<Var>> = args.iter().map(|a| a.as_ref().map(|a| self.operand(a))).collect();
        self.flush();
        let known = self.test.as_ref().and_then(|calls| calls.functions.iter().position(|f| *f == index));
        let number = match known {
            Some(number) => number,
            None => match super::lower_function(self.program, index) {
                Ok(strategy) => {
                    let calls = self.test.as_mut()?;
                    calls.functions.push(index);
                    calls.strategies.push(strategy);
                    calls.functions.len() - 1
                }
                Err(errors) => {
                    self.errors.extend(errors);
                    return Some(NOWHERE);
                }
            },
        };
        let var = self.fresh();
        let calls = self.test.as_mut()?;
        calls.steps.push(Step::Run(var, u32::try_from(number).unwrap_or(u32::MAX), args));
        Some(var)
    }
}
