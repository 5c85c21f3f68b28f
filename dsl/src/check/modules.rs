//! Files and imports: loads what `use` names, once per file, and says which name of a file stands for which item.
//!
//! `std::…` comes from the library shipped with the compiler, everything else through the caller's loader. Cycles are
//! errors that print the cycle; diamonds are loaded once. Paths cannot leave the folder: segments are plain names.

use super::{Checker, ConstItem, Def, State, TypeItem, spelling};
use crate::ast::{self, ItemKind, Name, UseTree};
use crate::builtins::{self, Kind};
use crate::codes;
use crate::hir::Source;
use ir::diagnostic::{Diagnostic, Severity, Span};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Files of one program.
const MAX_FILES: usize = 1000;
/// Length of a chain of imports.
const MAX_CHAIN: usize = 64;

/// A loaded file.
pub(super) struct Module {
    /// Path of the module: empty for the main file, `strategies`, `std::prompts`.
    pub(super) path: String,
    /// Syntax tree.
    pub(super) file: Rc<ast::File>,
    /// Names of items and imports.
    pub(super) names: BTreeMap<String, (Def, Span)>,
    /// Imports: name, place, used.
    pub(super) imports: Vec<(String, Span, bool)>,
}

impl Checker<'_> {
    pub(super) fn load_main(&mut self, path: &str, source: &str, file: &ast::File) {
        self.program.sources.push(Source { path: path.to_owned(), text: source.to_owned() });
        self.loading.push((path.to_owned(), 0));
        self.add_module(String::new(), Rc::new(file.clone()));
        self.loading.pop();
    }

    /// Registers a file and resolves its imports, loading further files first.
    fn add_module(&mut self, path: String, file: Rc<ast::File>) -> usize {
        let index = self.modules.len();
        self.modules.push(Module { path, file: Rc::clone(&file), names: BTreeMap::new(), imports: Vec::new() });
        self.declare_items(index, &file);
        for item in &file.items {
            if let ItemKind::Use(tree) = &item.kind {
                self.import(index, &mut Vec::new(), tree);
            }
        }
        index
    }

    /// Gives every item its number and name; bodies are looked at later.
    fn declare_items(&mut self, module: usize, file: &ast::File) {
        for (i, item) in file.items.iter().enumerate() {
            let (name, def) = match &item.kind {
                ItemKind::Model { name, .. } => (name, self.declare_role(name)),
                ItemKind::Tunable { name, .. } => (name, self.declare_tunable(module, i, name)),
                ItemKind::Record { name, .. } | ItemKind::Enum { name, .. } => {
                    self.types.push(TypeItem { module, item: i, state: State::Todo });
                    (name, Def::Type(self.types.len() - 1))
                }
                ItemKind::Const { name, .. } => {
                    self.consts.push(ConstItem { module, item: i, state: State::Todo });
                    (name, Def::Const(self.consts.len() - 1))
                }
                ItemKind::Prompt { name, .. }
                | ItemKind::Fn { name, .. }
                | ItemKind::Strategy { name, .. }
                | ItemKind::Precompute { name, .. }
                | ItemKind::Tool { name, .. } => (name, self.declare_function(module, i, name)),
                ItemKind::Use(_) | ItemKind::Test { .. } | ItemKind::Error => continue,
            };
            self.define(module, name, def);
        }
    }

    /// Puts a name into a file; a second one of the same name is an error.
    fn define(&mut self, module: usize, name: &Name, def: Def) {
        let reserved = builtins::find(Kind::Type, &name.text).or_else(|| builtins::find(Kind::Role, &name.text));
        if let (Some(_), Def::Type(_)) = (reserved, &def) {
            let message = format!("`{}` is a built-in type", name.text);
            self.error(codes::E0208, name.span, message, "choose another name");
        }
        if let Some((_, first)) = self.modules[module].names.get(&name.text) {
            let first = *first;
            self.report(
                Diagnostic::error(
                    codes::E0208,
                    name.span,
                    format!("`{}` is defined twice", name.text),
                    "the second definition",
                )
                .related(first, "the first one")
                .help("rename one of them"),
            );
            return;
        }
        self.modules[module].names.insert(name.text.clone(), (def, name.span));
    }

    fn import(&mut self, module: usize, prefix: &mut Vec<Name>, tree: &UseTree) {
        match tree {
            UseTree::Path(first, rest) => {
                prefix.push(first.clone());
                self.import(module, prefix, rest);
                prefix.pop();
            }
            UseTree::Name(name, alias) => self.import_one(module, prefix, name, alias.as_ref().unwrap_or(name)),
            UseTree::Group(names) => {
                for name in names {
                    self.import_one(module, prefix, name, name);
                }
            }
        }
    }

    fn import_one(&mut self, module: usize, prefix: &[Name], name: &Name, alias: &Name) {
        let def = self.import_target(prefix, name);
        self.define(module, alias, def);
        self.modules[module].imports.push((alias.text.clone(), alias.span, false));
    }

    fn import_target(&mut self, prefix: &[Name], name: &Name) -> Def {
        let mut full: Vec<&str> = prefix.iter().map(|n| n.text.as_str()).collect();
        full.push(&name.text);
        if let Some(def) = builtin_path(&full.join("::")) {
            return def;
        }
        if prefix.is_empty() {
            return self.module(std::slice::from_ref(name)).map_or(Def::Broken, Def::Module);
        }
        match self.module(prefix) {
            Some(target) => self.item_of(target, name),
            None => Def::Broken,
        }
    }

    /// The item of another file.
    pub(super) fn item_of(&mut self, target: usize, name: &Name) -> Def {
        let module = &self.modules[target];
        if let Some((def, _)) = module.names.get(&name.text) {
            return def.clone();
        }
        let path = module.path.clone();
        let mut d = Diagnostic::error(
            codes::E0210,
            name.span,
            format!("`{path}` has no item `{}`", name.text),
            "not defined in that file",
        );
        let near = spelling::nearest(&name.text, module.names.keys().map(String::as_str)).map(str::to_owned);
        let all: Vec<String> = module.names.keys().take(20).map(|n| format!("`{n}`")).collect();
        d = match near {
            Some(near) => {
                d.help(format!("did you mean `{near}`?")).fix(format!("use `{near}`"), name.span, near.clone())
            }
            None if all.is_empty() => d.help("the file defines nothing"),
            None => d.help(format!("it has {}", all.join(", "))),
        };
        self.report(d);
        Def::Broken
    }

    /// The file of a module path, loaded if need be.
    pub(super) fn module(&mut self, path: &[Name]) -> Option<usize> {
        let names: Vec<&str> = path.iter().map(|n| n.text.as_str()).collect();
        let (first, last) = (path.first()?, path.last()?);
        let span = Span { end: last.span.end, ..first.span };
        let key = names.join("::");
        let std = names[0] == "std";
        let shown = if std { key.clone() } else { format!("{}.infer", names.join("/")) };
        if let Some(position) = self.loading.iter().position(|(p, _)| *p == shown) {
            let mut chain: Vec<&str> = self.loading[position..].iter().map(|(p, _)| p.as_str()).collect();
            chain.push(&shown);
            let message = format!("files use each other in a circle: {}", chain.join(" → "));
            self.report(
                Diagnostic::error(codes::E0209, span, message, "closes the circle")
                    .help("move what both need into a third file"),
            );
            return None;
        }
        if let Some(known) = self.module_of.get(&key) {
            return *known;
        }
        if self.loading.len() > MAX_CHAIN || self.modules.len() > MAX_FILES {
            let message = format!("too many files: more than {MAX_CHAIN} in a chain or {MAX_FILES} in all");
            self.error(codes::E0305, span, message, "not loaded");
            return None;
        }
        let text = if std { crate::std_source(&key).map(str::to_owned) } else { (self.load)(&shown) };
        let Some(text) = text else {
            self.missing_module(&key, &shown, std, span);
            self.module_of.insert(key, None);
            return None;
        };
        let number = u32::try_from(self.program.sources.len()).unwrap_or(u32::MAX);
        let (file, messages) = crate::parse(&text, number);
        self.program.sources.push(Source { path: shown.clone(), text });
        let failed = messages.iter().any(|d| d.severity == Severity::Error);
        messages.into_iter().for_each(|d| self.report(d));
        self.loading.push((shown, number as usize));
        let index = self.add_module(key.clone(), Rc::new(file));
        self.loading.pop();
        let known = (!failed || !self.modules[index].names.is_empty()).then_some(index);
        self.module_of.insert(key, known);
        known
    }

    fn missing_module(&mut self, key: &str, shown: &str, std: bool, span: Span) {
        let mut d = Diagnostic::error(
            codes::E0210,
            span,
            if std { format!("the library has no `{key}`") } else { format!("there is no file `{shown}`") },
            "cannot be found",
        );
        let library: Vec<&str> = crate::std_files().iter().map(|(name, _)| *name).collect();
        d = match spelling::did_you_mean(key, library.iter().copied()) {
            Some(help) => d.help(help),
            None if std => d.help(format!("the library has {}", library.join(", "))),
            None => d.help(format!("`use` reads files next to the main one: create `{shown}` there")),
        };
        self.report(d);
    }

    /// What a single name of the current file stands for; marks imports as used.
    pub(super) fn lookup(&mut self, name: &str) -> Option<Def> {
        let module = &mut self.modules[self.module];
        let (def, _) = module.names.get(name)?;
        let def = def.clone();
        if let Some(import) = module.imports.iter_mut().find(|(n, _, _)| n == name) {
            import.2 = true;
        }
        Some(def)
    }

    /// What a path stands for: `a`, `module::a`, `std::x::a`. `None`: not reported yet.
    pub(super) fn resolve(&mut self, path: &[Name]) -> Option<Def> {
        let full: Vec<&str> = path.iter().map(|n| n.text.as_str()).collect();
        if path.len() > 1
            && let Some(def) = builtin_path(&full.join("::"))
        {
            return Some(def);
        }
        let [first, rest @ ..] = path else { return None };
        if rest.is_empty() {
            return self.lookup(&first.text);
        }
        let (last, middle) = rest.split_last()?;
        match self.lookup(&first.text) {
            Some(Def::Module(target)) if middle.is_empty() => Some(self.item_of(target, last)),
            Some(Def::Broken) => Some(Def::Broken),
            Some(_) => None,
            None if first.text == "std" => match self.module(&path[..path.len() - 1]) {
                Some(target) => Some(self.item_of(target, last)),
                None => Some(Def::Broken),
            },
            None => None,
        }
    }

    pub(super) fn unused_imports(&mut self) {
        if self.has_errors() {
            return;
        }
        let unused: Vec<(String, Span)> = self.modules[0]
            .imports
            .iter()
            .filter(|(name, span, used)| !used && !name.starts_with('_') && span.file == 0)
            .map(|(name, span, _)| (name.clone(), *span))
            .collect();
        for (name, span) in unused {
            self.report(
                Diagnostic::warning(codes::W0401, span, format!("`{name}` is imported but not used"), "never named")
                    .help("remove the import"),
            );
        }
    }
}

/// Built-ins that have a path in the library.
fn builtin_path(path: &str) -> Option<Def> {
    if path == "std::answer::boxed" {
        return Some(Def::Builtin("boxed"));
    }
    builtins::find(Kind::Boundary, path).map(|b| Def::Builtin(b.name))
}
