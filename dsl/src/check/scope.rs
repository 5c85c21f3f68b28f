//! Names in scope inside a body, innermost last, found by name without a search.
//!
//! A later name hides an earlier one until its scope ends; nothing here reports anything.

use crate::hir::{Local, Ty};
use ir::diagnostic::Span;
use std::collections::BTreeMap;

/// A name in scope.
#[derive(Clone, Debug)]
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) local: Local,
    pub(super) ty: Ty,
    pub(super) span: Span,
    pub(super) used: bool,
    /// Labels of the choice it holds, when they are known.
    pub(super) labels: Option<Vec<String>>,
    /// The precompute whose result it holds.
    pub(super) precompute: Option<usize>,
}

/// The names in scope.
#[derive(Debug, Default)]
pub(super) struct Scope {
    bindings: Vec<Binding>,
    by_name: BTreeMap<String, Vec<usize>>,
}

impl Scope {
    /// A mark to [`Scope::cut`] back to.
    pub(super) fn len(&self) -> usize {
        self.bindings.len()
    }

    pub(super) fn push(&mut self, binding: Binding) {
        self.by_name.entry(binding.name.clone()).or_default().push(self.bindings.len());
        self.bindings.push(binding);
    }

    /// Ends the scope that began at `mark`; returns its names.
    pub(super) fn cut(&mut self, mark: usize) -> Vec<Binding> {
        let ended = self.bindings.split_off(mark.min(self.bindings.len()));
        for binding in ended.iter().rev() {
            if let Some(places) = self.by_name.get_mut(&binding.name) {
                places.pop();
                if places.is_empty() {
                    self.by_name.remove(&binding.name);
                }
            }
        }
        ended
    }

    /// The innermost binding of a name, which counts as used from now on.
    pub(super) fn read(&mut self, name: &str) -> Option<&Binding> {
        let place = *self.by_name.get(name)?.last()?;
        let binding = self.bindings.get_mut(place)?;
        binding.used = true;
        Some(binding)
    }

    pub(super) fn nth(&mut self, place: usize) -> Option<&mut Binding> {
        self.bindings.get_mut(place)
    }

    /// The binding of a local.
    pub(super) fn of(&self, local: Local) -> Option<&Binding> {
        self.bindings.iter().rev().find(|b| b.local == local)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Which bindings are used, to go back to.
    pub(super) fn uses(&self) -> Vec<bool> {
        self.bindings.iter().map(|b| b.used).collect()
    }

    pub(super) fn restore_uses(&mut self, uses: &[bool]) {
        for (binding, used) in self.bindings.iter_mut().zip(uses) {
            binding.used = *used;
        }
    }
}
