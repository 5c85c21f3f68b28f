//! The suite: cases of `tests/suite/*.infer`, their diagnostics as annotations and their stages as snapshots.
//!
//! A case is a heading `--- name stages ---` and a program; `=== path` begins a further file of the case, which the
//! program may `use`. Stages: `check` (parse and check), `lower` (also lower every strategy and test), `ir` (lower and
//! snapshot the Strategy IR), `bounds` (check and snapshot the bounds). Above the line that they speak of stand
//! annotations `# error[E0310] 14-23: message`, with the columns (from 1) of the first and after the last character;
//! an end on a later line is left out. Annotations and diagnostics must be the same, both ways. Every fix is applied
//! and must remove its diagnostic. `SUITE_BLESS=1` rewrites the annotations; read the difference before keeping it.

use inferc_dsl as dsl;

use dsl::hir::Program;
use ir::diagnostic::{Diagnostic, Severity};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Lines (from 0) and texts.
type Annotations = BTreeSet<(usize, String)>;

struct Case {
    name: String,
    stages: Vec<String>,
    /// Path and text with annotations; the first is the main file.
    files: Vec<(String, String)>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/suite")
}

fn suite() -> Vec<(PathBuf, Vec<Case>)> {
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("the suite exists")
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "infer"))
        .collect();
    paths.sort();
    paths.into_iter().map(|p| (p.clone(), cases(&std::fs::read_to_string(&p).expect("readable")))).collect()
}

fn cases(text: &str) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("--- ").and_then(|l| l.strip_suffix(" ---")) {
            let mut words = heading.split_whitespace().map(str::to_owned);
            let name = words.next().expect("a case has a name");
            cases.push(Case { name, stages: words.collect(), files: vec![("main.infer".to_owned(), String::new())] });
        } else if let Some(case) = cases.last_mut() {
            match line.strip_prefix("=== ") {
                Some(path) => case.files.push((path.to_owned(), String::new())),
                None => {
                    let file = &mut case.files.last_mut().expect("a case has a main file").1;
                    file.push_str(line);
                    file.push('\n');
                }
            }
        }
    }
    cases
}

/// The program without annotations, and the annotations by line (from 0).
fn split(text: &str) -> (String, Annotations) {
    let mut source = String::new();
    let mut found = BTreeSet::new();
    for line in text.lines() {
        match line.strip_prefix("# ") {
            Some(annotation) => {
                found.insert((source.matches('\n').count(), annotation.to_owned()));
            }
            None => {
                source.push_str(line);
                source.push('\n');
            }
        }
    }
    (source, found)
}

fn annotation(d: &Diagnostic, source: &str) -> (usize, String) {
    let start = (d.span.start as usize).min(source.len());
    let end = (d.span.end as usize).clamp(start, source.len());
    let line = source[..start].matches('\n').count();
    let line_start = source[..start].rfind('\n').map_or(0, |i| i + 1);
    let column = source[line_start..start].chars().count() + 1;
    let width = source[start..end].chars().count();
    let until = if source[start..end].contains('\n') { String::new() } else { (column + width).to_string() };
    let severity = if d.severity == Severity::Error { "error" } else { "warning" };
    (line, format!("{severity}[{}] {column}-{until}: {}", d.code.0, d.message))
}

/// Parses, checks and (for some stages) lowers.
fn run(main: &str, files: &BTreeMap<String, String>, lower: bool) -> (Program, Vec<Diagnostic>) {
    let (file, syntax) = dsl::parse(main, 0);
    let (program, more) = dsl::check("main.infer", main, &file, &|path| files.get(path).cloned());
    let mut all = dsl::messages(syntax, more);
    if lower && !all.iter().any(|d| d.severity == Severity::Error) {
        for strategy in program.strategies() {
            match dsl::lower(&program, &strategy.name) {
                Ok(ir) => assert_eq!(ir::strategy_check::strategy(&ir), Ok(()), "{ir}"),
                Err(errors) => all.extend(errors),
            }
        }
        all.extend(dsl::tests(&program).into_iter().filter_map(Result::err).flatten());
    }
    (program, all)
}

fn snapshot(file: &str, case: &str, stage: &str, text: &str) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| insta::assert_snapshot!(format!("{file}__{case}@{stage}"), text));
}

fn bounds(program: &Program) -> String {
    let mut text = String::new();
    for row in dsl::bounds(program) {
        let b = row.bounds;
        let _ = writeln!(
            text,
            "{}: tokens {} calls {} live {} kv {} declared {}",
            row.strategy, b.tokens, b.calls, b.live, b.kv_tokens, row.declared
        );
        row.derivation.iter().for_each(|line| text.push_str(&format!("  {line}\n")));
    }
    text
}

/// Applies the fix of a diagnostic; the diagnostic must be gone.
fn mended(
    d: &Diagnostic,
    main: &str,
    files: &BTreeMap<String, String>,
    lower: bool,
    before: usize,
) -> Result<(), String> {
    let Some(fix) = d.fix.as_ref().filter(|f| f.span.file == 0) else { return Ok(()) };
    let mut text = main.to_owned();
    text.replace_range(fix.span.start as usize..fix.span.end as usize, &fix.text);
    let after = run(&text, files, lower).1.iter().filter(|other| other.code == d.code).count();
    if after < before { Ok(()) } else { Err(format!("the fix of {} does not mend:\n{text}", d.code.0)) }
}

fn run_case(stem: &str, case: &Case, codes: &mut BTreeSet<&'static str>) -> Result<Case, String> {
    let lower = case.stages.iter().any(|s| s == "lower" || s == "ir");
    let parts: Vec<(String, String, Annotations)> = case
        .files
        .iter()
        .map(|(path, text)| {
            let (source, expected) = split(text);
            (path.clone(), source, expected)
        })
        .collect();
    let files: BTreeMap<String, String> = parts[1..].iter().map(|(p, s, _)| (p.clone(), s.clone())).collect();
    let main = &parts[0].1;
    let (program, diagnostics) = run(main, &files, lower);
    codes.extend(diagnostics.iter().map(|d| d.code.0));
    let mut blessed = Case { name: case.name.clone(), stages: case.stages.clone(), files: Vec::new() };
    let mut wrong = String::new();
    for (path, source, expected) in &parts {
        let number = program.sources.iter().position(|s| s.path == *path);
        let found: Annotations = diagnostics
            .iter()
            .filter(|d| Some(d.span.file as usize) == number)
            .map(|d| annotation(d, source))
            .collect();
        found
            .difference(expected)
            .for_each(|(l, a)| wrong.push_str(&format!("  {path}:{}: unexpected # {a}\n", l + 1)));
        expected.difference(&found).for_each(|(l, a)| wrong.push_str(&format!("  {path}:{}: missing # {a}\n", l + 1)));
        let mut text = String::new();
        for (i, line) in source.lines().enumerate() {
            found.iter().filter(|(l, _)| *l == i).for_each(|(_, a)| text.push_str(&format!("# {a}\n")));
            text.push_str(line);
            text.push('\n');
        }
        blessed.files.push((path.clone(), text));
    }
    for d in &diagnostics {
        let same = diagnostics.iter().filter(|other| other.code == d.code).count();
        if let Err(e) = mended(d, main, &files, lower, same) {
            wrong.push_str(&e);
        }
        let worded = !d.message.ends_with('.') && !d.label.is_empty() && dsl::codes::explain(d.code.0).is_some();
        if !worded {
            wrong.push_str(&format!("  {} is badly worded: {d:?}\n", d.code.0));
        }
    }
    if case.stages.iter().any(|s| s == "ir") {
        let all: Vec<String> =
            program.strategies().filter_map(|s| Some(dsl::lower(&program, &s.name).ok()?.to_string())).collect();
        snapshot(stem, &case.name, "ir", &all.join("\n"));
    }
    if case.stages.iter().any(|s| s == "bounds") {
        snapshot(stem, &case.name, "bounds", &bounds(&program));
    }
    if wrong.is_empty() || std::env::var_os("SUITE_BLESS").is_some() {
        return Ok(blessed);
    }
    Err(format!("{stem} {}\n{wrong}", case.name))
}

#[test]
fn the_suite() {
    let mut failures = String::new();
    let mut names = BTreeSet::new();
    let mut codes = BTreeSet::new();
    for (path, cases) in suite() {
        let stem = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        let mut text = String::new();
        for case in &cases {
            assert!(names.insert(case.name.clone()), "two cases are called {}", case.name);
            match run_case(&stem, case, &mut codes) {
                Ok(blessed) => {
                    let _ =
                        write!(text, "--- {} {} ---\n{}", blessed.name, blessed.stages.join(" "), blessed.files[0].1);
                    blessed.files[1..].iter().for_each(|(p, s)| text.push_str(&format!("=== {p}\n{s}")));
                }
                Err(e) => failures.push_str(&e),
            }
        }
        if std::env::var_os("SUITE_BLESS").is_some() {
            std::fs::write(&path, text).expect("writable");
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    let silent: Vec<&str> = dsl::codes::CODES.iter().map(|e| e.code.0).filter(|c| !codes.contains(c)).collect();
    assert!(silent.is_empty(), "no case provokes {silent:?}");
}
