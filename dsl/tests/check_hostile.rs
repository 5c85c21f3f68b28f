//! Hostile programs: mutated examples, deep nesting, doubling. Never a panic, never slow, always well-formed output.

use inferc_dsl as dsl;

use ir::diagnostic::Severity;
use proptest::prelude::*;
use std::path::Path;
use std::time::{Duration, Instant};

/// Parses, checks, bounds and lowers; output that comes out must be well-formed.
fn everything(source: &str) -> usize {
    let (file, parsed) = dsl::parse(source, 0);
    let (program, checked) = dsl::check("main.infer", source, &file, &|_| None);
    let _rows = dsl::bounds(&program);
    let broken = parsed.iter().chain(&checked).filter(|d| d.severity == Severity::Error).count();
    if broken == 0 {
        for strategy in program.strategies() {
            if let Ok(lowered) = dsl::lower(&program, &strategy.name) {
                assert_eq!(ir::strategy_check::strategy(&lowered), Ok(()), "{lowered}");
            }
        }
        let _tests = dsl::tests(&program);
    }
    for d in parsed.iter().chain(&checked) {
        let text = program.sources.get(d.span.file as usize).map_or("", |s| s.text.as_str());
        assert!(d.span.start <= d.span.end && d.span.end as usize <= text.len(), "{d:?}");
    }
    broken
}

fn sources() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut paths: Vec<_> = ["tests/suite/language", "examples"]
        .iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).expect("folder exists"))
        .filter_map(|e| Some(e.ok()?.path()))
        .filter(|p| p.extension().is_some_and(|e| e == "infer"))
        .collect();
    paths.sort();
    paths.iter().map(|p| std::fs::read_to_string(p).expect("readable")).collect()
}

/// Words, numbers, strings and signs of a source, white space kept with the token before it.
fn tokens(source: &str) -> Vec<&str> {
    let mut tokens = Vec::new();
    let mut start = 0;
    let mut word = false;
    for (i, c) in source.char_indices() {
        let in_word = c.is_alphanumeric() || c == '_';
        if i > start && !(word && in_word) && !c.is_whitespace() {
            tokens.push(&source[start..i]);
            start = i;
        }
        word = in_word;
    }
    tokens.push(&source[start..]);
    tokens
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_programs_never_panic(
        file in 0usize..64,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..4), 1..4),
    ) {
        let sources = sources();
        let source = &sources[file % sources.len()];
        let mut tokens: Vec<&str> = tokens(source);
        for (at, other, what) in edits {
            let (i, j) = (at.index(tokens.len()), other.index(tokens.len()));
            match what {
                0 => { tokens.remove(i); }
                1 => { let t = tokens[i]; tokens.insert(i, t); }
                2 => tokens.swap(i, j),
                _ => tokens[i] = tokens[j],
            }
            if tokens.is_empty() { break; }
        }
        everything(&tokens.concat());
    }
}

const HEAD: &str = "use std::prompts::solve;\nmodel base : Generator needs logits;\n";

fn quick(name: &str, source: &str) -> usize {
    let start = Instant::now();
    let errors = everything(source);
    assert!(start.elapsed() < Duration::from_secs(2), "{name} took {:?}", start.elapsed());
    errors
}

/// On the stack that a program's main thread has; unoptimised frames are large.
#[test]
fn deep_nesting_ends_cleanly() {
    std::thread::Builder::new().stack_size(8 << 20).spawn(nest).expect("a thread").join().expect("no panic");
}

fn nest() {
    for depth in [50, 120, 250, 2_000] {
        let open = |o: &str, c: &str, middle: &str| format!("{}{middle}{}", o.repeat(depth), c.repeat(depth));
        let forms = [
            open("(", ")", "q"),
            open("[", "]", "q").to_string(),
            open("trim(", ")", "q"),
            open("if true { ", " } else { q }", "q"),
            open("for i in 0..1 carry c = q { ", " }", "c"),
            open("match 1 { _ => ", " }", "q"),
            open("within { tokens: 1tok } { ", " }", "q"),
            open("par i in 0..1 { ", " }", "q"),
            format!("{}true", "not ".repeat(depth)),
            format!("q{}", " + q".repeat(depth)),
            format!("q{}", ".len".repeat(depth)),
            format!("none{}", " ?? none".repeat(depth)),
        ];
        for form in forms {
            quick(&form[..form.len().min(40)], &format!("strategy s(q: Text) -> Text {{ let x = {form}; q }}"));
        }
    }
}

#[test]
fn doubling_is_capped() {
    let mut lets = String::from("let a0 = q;");
    let mut calls = String::from("fn f0(q: Text) -> Text { q }\n");
    let mut types = String::from("type T0 { a: Text, b: Text }\n");
    let mut consts = String::from("const C0: Int = 1;\n");
    for i in 1..64 {
        let p = i - 1;
        lets.push_str(&format!("let a{i} = (a{p}, a{p});"));
        calls.push_str(&format!("fn f{i}(q: Text) -> Text {{ f{p}(q) + f{p}(q) }}\n"));
        types.push_str(&format!("type T{i} {{ a: T{p}, b: T{p} }}\n"));
        consts.push_str(&format!("const C{i}: Int = C{p} + C{p};\n"));
    }
    assert!(quick("lets", &format!("strategy s(q: Text) -> Text {{ {lets} q }}")) > 0);
    assert!(quick("calls", &format!("{calls}strategy s(q: Text) -> Text {{ f63(q) }}")) > 0);
    assert!(quick("types", &format!("{types}strategy s(q: Text) -> Text {{ q }}")) > 0);
    quick("consts", &format!("{consts}strategy s(q: Text) -> Int {{ C63 }}"));
    let mut strategies = format!("{HEAD}strategy s0(q: Text) -> Text {{ gen(base, solve(q), max: 1tok).text }}\n");
    for i in 1..40 {
        let p = i - 1;
        strategies.push_str(&format!("strategy s{i}(q: Text) -> Text {{ s{p}(s{p}(q)) }}\n"));
    }
    assert!(quick("strategies", &strategies) > 0);
    let mut apply = String::from("fn g0(f: fn(Text) -> Text, q: Text) -> Text { f(f(q)) }\n");
    for i in 1..30 {
        let p = i - 1;
        apply.push_str(&format!("fn g{i}(f: fn(Text) -> Text, q: Text) -> Text {{ g{p}(|x| g{p}(f, x), q) }}\n"));
    }
    assert!(quick("apply", &format!("{apply}strategy s(q: Text) -> Text {{ g29(|x| x, q) }}")) > 0);
}

#[test]
fn large_programs_are_linear() {
    let arms: String = (0..4_000).map(|i| format!("{i} => {i},\n")).collect();
    quick("match", &format!("strategy s(q: Text, n: Int = 1 in 0..=9) -> Int {{ match n {{ {arms} _ => 0 }} }}"));
    let lets: String = (0..4_000).map(|i| format!("let x{i} = q;\n")).collect();
    quick("lets", &format!("strategy s(q: Text) -> Text {{ {lets} q }}"));
    let chain: String = (1..300).map(|i| format!("fn f{i}(q: Text) -> Text {{ f{}(q) }}\n", i - 1)).collect();
    let program = format!("fn f0(q: Text) -> Text {{ q }}\n{chain}strategy s(q: Text) -> Text {{ f299(q) }}");
    quick("chain", &program);
    let carried = "for i in 0..4 carry c = none { ".repeat(12) + "if true { break q } c" + &" }".repeat(12);
    quick("carries", &format!("strategy s(q: Text) -> Text {{ let x = {carried}; q }}"));
}

#[test]
fn numbers_at_the_edges() {
    for number in ["0", "1", "9223372036854775807", "9223372036854775808", "99999999999999999999999", "0.0", "1.5"] {
        for unit in ["", "tok", "ktok", "s", "usd", "GiB", "%"] {
            for place in [
                format!("gen(base, solve(q), max: {number}{unit}).text"),
                format!("{{ sample(base, solve(q), n: {number}{unit}, max: 1tok); q }}"),
                format!("{{ for i in 0..{number}{unit} {{ q }}; q }}"),
                format!("{{ let x = {number}{unit} * {number}{unit} + {number}{unit}; q }}"),
                format!("within {{ tokens: {number}{unit} }} {{ q }}"),
            ] {
                everything(&format!("{HEAD}strategy s(q: Text) -> Text {{ let r = {place}; r }}"));
                let declared = format!("within {{ tokens: {number}{unit}, calls: {number}{unit} }}");
                everything(&format!("{HEAD}strategy s(q: Text) -> Text {declared} {{ q }}"));
            }
        }
    }
}
