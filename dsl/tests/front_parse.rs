//! The parser on the language's own programs, on broken ones and on hostile ones.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use inferc_dsl as dsl;
use inferc_dsl::ast::{BinOp, Block, Expr, ExprKind, Item, ItemKind, Literal, StmtKind, TemplatePart};
use ir::diagnostic::Diagnostic;

fn programs() -> Vec<(PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["../tests/suite/language", "../examples", "std"] {
        let Ok(entries) = fs::read_dir(root.join(folder)) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            if path.extension().is_some_and(|e| e == "infer") {
                let text = fs::read_to_string(&path).expect("a readable file");
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

fn show(source: &str, errors: &[Diagnostic]) -> String {
    errors
        .iter()
        .map(|e| {
            let (a, b) = (e.span.start as usize, e.span.end as usize);
            format!("{} {}..{} {:?}: {}\n", e.code.0, a, b, source.get(a..b).unwrap_or("?"), e.message)
        })
        .collect()
}

fn clean(source: &str) -> Vec<Item> {
    let (file, errors) = dsl::parse(source, 0);
    assert!(errors.is_empty(), "{}", show(source, &errors));
    file.items
}

/// The value of `strategy s() -> Int { EXPR }`.
fn value(expr: &str) -> Expr {
    let mut items = clean(&format!("strategy s() -> Int {{ {expr} }}"));
    let Some(ItemKind::Strategy { body, .. }) = items.pop().map(|item| item.kind) else { panic!("not a strategy") };
    *body.value.expect("a value")
}

/// Codes and the text under each caret.
fn errors(source: &str) -> Vec<(&'static str, String)> {
    let (_, errors) = dsl::parse(source, 0);
    errors
        .iter()
        .map(|e| {
            assert!(e.help.is_some(), "{} has no remedy: {}", e.code.0, e.message);
            assert!(dsl::parse::SYNTAX_CODES.iter().any(|(code, ..)| *code == e.code), "{} is not listed", e.code.0);
            assert!(!e.message.ends_with('.'), "{}", e.message);
            (e.code.0, source[e.span.start as usize..e.span.end as usize].to_owned())
        })
        .collect()
}

#[test]
fn the_languages_programs_parse() {
    let programs = programs();
    assert!(programs.len() >= 9);
    for (path, source) in programs {
        let (file, errors) = dsl::parse(&source, 0);
        assert!(errors.is_empty(), "{}:\n{}", path.display(), show(&source, &errors));
        assert!(!file.items.is_empty());
    }
}

#[test]
fn operators_bind_as_the_grammar_says() {
    let expr = value("not a == b and c or d ?? fail \"x\"");
    let ExprKind::Binary(BinOp::Coalesce, left, right) = expr.kind else { panic!("{expr:?}") };
    assert!(matches!(right.kind, ExprKind::Fail(Some(_))));
    let ExprKind::Binary(BinOp::Or, left, _) = left.kind else { panic!("{left:?}") };
    let ExprKind::Binary(BinOp::And, left, _) = left.kind else { panic!("{left:?}") };
    let ExprKind::Unary(_, inner) = left.kind else { panic!("{left:?}") };
    assert!(matches!(inner.kind, ExprKind::Binary(BinOp::Eq, ..)));

    let expr = value("0..n + 1 * 2");
    let ExprKind::Binary(BinOp::Range, _, right) = expr.kind else { panic!("{expr:?}") };
    let ExprKind::Binary(BinOp::Add, _, right) = right.kind else { panic!("{right:?}") };
    assert!(matches!(right.kind, ExprKind::Binary(BinOp::Mul, ..)));
}

#[test]
fn quantities_keep_digits_and_unit() {
    for (text, digits, unit) in [
        ("4ktok", "4", "ktok"),
        ("0.02usd", "0.02", "usd"),
        ("1%", "1", "%"),
        ("1_000", "1_000", ""),
        ("12GiB", "12", "GiB"),
    ] {
        let ExprKind::Literal(Literal::Quantity(q)) = value(text).kind else { panic!("{text}") };
        assert_eq!((q.digits.as_str(), q.unit.as_str()), (digits, unit));
    }
    let ExprKind::Binary(BinOp::Range, a, b) = value("0.5..4.0").kind else { panic!("a range of fractions") };
    assert!(matches!((&a.kind, &b.kind), (ExprKind::Literal(_), ExprKind::Literal(_))));
}

#[test]
fn contextual_words_are_names() {
    clean("fn f(step: Int, token: Int, user: Int, set: Int, min: Int, cost: Int) -> Int { step + token + min }");
    clean("prompt p(system: Text, user: Text) { system \"${system}\" user \"${user}\" assistant \"x\" }");
    value("best(xs, fold: min, type: set, on: 1).type");
}

#[test]
fn generic_types_may_end_in_greater_equal() {
    clean(
        "const x: Vote<Vote<Text>>= y; const z: [Sample<Text>; 4]? = none; fn f(g: fn(Int, Text) -> Bool) -> (A, B) { a }",
    );
}

fn text_of(literal: &str) -> String {
    let ExprKind::Literal(Literal::Text(text)) = value(literal).kind else { panic!("not a text: {literal}") };
    text
}

#[test]
fn strings_mean_what_they_say() {
    assert_eq!(text_of(r#""a\n\t\r\\\"\$\u{e9}$5""#), "a\n\t\r\\\"$\u{e9}$5");
    assert_eq!(text_of("\"\"\"\n      one\n        two\n\n      three\n      \"\"\""), "one\n  two\n\nthree");
    assert_eq!(text_of("\"\"\"\n      one\n    \"\"\""), "  one");
    assert_eq!(text_of("\"\"\"a \"quoted\" \\d\"\"\""), "a \"quoted\" \\d");
    assert_eq!(text_of("\"\"\"\r\n  one\r\n  two\r\n  \"\"\""), "one\ntwo");
    assert_eq!(text_of("\"\"\"\"\"\""), "");
}

#[test]
fn holes_are_expressions_with_their_own_spans() {
    let source = r#"fn f(a: Text) -> Text { "x ${g("}", a.b)} y ${if c { "1" } else { "2" }}" }"#;
    let mut items = clean(source);
    let Some(ItemKind::Fn { body, .. }) = items.pop().map(|i| i.kind) else { panic!("not a function") };
    let ExprKind::Template(template) = body.value.expect("a value").kind else { panic!("not a template") };
    let holes: Vec<_> = template
        .parts
        .iter()
        .filter_map(|p| match p {
            TemplatePart::Hole(e) => Some(&source[e.span.start as usize..e.span.end as usize]),
            TemplatePart::Text(_) => None,
        })
        .collect();
    assert_eq!(holes, [r#"g("}", a.b)"#, r#"if c { "1" } else { "2" }"#]);
}

#[test]
fn the_last_block_like_statement_is_the_value() {
    let block = |text: &str| -> Block {
        let Some(ItemKind::Fn { body, .. }) = clean(&format!("fn f() -> A {{ {text} }}")).pop().map(|i| i.kind) else {
            panic!("not a function")
        };
        body
    };
    let with = block("let a = 1; if a { 1 } else { 2 }");
    assert!(with.value.is_some() && with.stmts.len() == 1);
    let without = block("if a { 1 } else { 2 };");
    assert!(without.value.is_none() && matches!(without.stmts[0].kind, StmtKind::Expr(_)));
    let middle = block("for x in xs { f(x) } g()");
    assert!(middle.value.is_some() && middle.stmts.len() == 1);
}

#[test]
fn documentation_belongs_to_its_item() {
    let items = clean("/// One.\n///\n///  Two.\n// aside\nmodel base : Generator;\nmodel b : Scorer;");
    assert_eq!(items[0].doc, ["One.", "", " Two."]);
    assert!(items[1].doc.is_empty());
}

#[test]
fn several_errors_are_reported_in_one_run() {
    let source = "strategy a() -> Int {\n    let x = 1 + ;\n    let y = f(1, , 2);\n    y x;\n    let z = 2;\n    z\n}\n\
                  stratgy b() -> Int { 1 }\nmodel m Generator;\nstrategy c() -> Int { 2 }\n";
    let (file, found) = dsl::parse(source, 0);
    assert_eq!(
        errors(source),
        [
            ("E0100", ";".to_owned()),
            ("E0100", ",".to_owned()),
            ("E0110", "y".to_owned()),
            ("E0110", "stratgy".to_owned()),
            ("E0100", "Generator".to_owned()),
        ]
    );
    assert_eq!(found[3].help.as_deref(), Some("did you mean `strategy`?"));
    assert_eq!(found[3].fix.as_ref().map(|f| f.text.as_str()), Some("strategy"));
    let names: Vec<_> = file
        .items
        .iter()
        .filter_map(|i| match &i.kind {
            ItemKind::Strategy { name, body, .. } => Some((name.text.as_str(), body.stmts.len(), body.value.is_some())),
            _ => None,
        })
        .collect();
    assert_eq!(names, [("a", 4, true), ("b", 0, true), ("c", 0, true)]);
}

#[test]
fn each_mistake_has_its_code_and_caret() {
    let block = |text: &str| format!("fn f() -> A {{\n{text}\n}}\n");
    let cases: &[(&str, &[(&str, &str)])] = &[
        ("let x = \"abc;\nlet y = 1;", &[("E0104", "\"abc")]),
        ("let x = \"abc\\\nlet y = 1;", &[("E0104", "\"abc\\"), ("E0111", "")]),
        ("let x = \"abc\nlet y = 1;", &[("E0104", "\"abc"), ("E0111", "")]),
        ("let x = \"a\\qb\";", &[("E0105", "\\q")]),
        ("let x = \"\\u{110000}\";", &[("E0105", "\\u{110000}")]),
        ("let x = 1e9;", &[("E0106", "1e9")]),
        ("let x = 4k_tok;", &[("E0106", "4k_tok")]),
        ("let x = a && b;", &[("E0112", "&&")]),
        ("let x = !a;", &[("E0112", "!")]),
        ("let x = 'abc';", &[("E0112", "'abc'")]),
        ("x = 3;", &[("E0112", "=")]),
        ("let mut x = 3;", &[("E0112", "mut")]),
        ("/* a\n b */ let x = 1;", &[("E0112", "/* a\n b */")]),
        ("# comment\nlet x = 1;", &[("E0112", "# comment")]),
        ("let x = a < b < c;", &[("E0113", "<")]),
        ("let fn = 3;", &[("E0114", "fn")]),
        ("let x = \"${a\";\nlet y = 1;", &[("E0115", "${")]),
        ("let x = f(\"a ${b, 1);\nlet y = 1;", &[("E0115", "${"), ("E0109", ";")]),
        ("let x = \"${}\";", &[("E0115", "}")]),
        ("let x = if a { 1 } else { 2 } ?? 3;", &[("E0116", "??")]),
        ("let x = 1 + match a { b => 2 };", &[("E0116", "match")]),
        ("let x = f({ easy: 1 });", &[("E0119", "{")]),
        ("let x = route c { a => 1 };", &[("E0118", "{ a => 1 }")]),
        ("while true { 1 }", &[("E0110", "while")]),
        ("let x = 1\nlet y = 2;", &[("E0111", "")]),
        ("let x = [1\n2];", &[("E0111", "")]),
        ("let x = a ?? return 3;", &[("E0116", "return")]),
        ("let \u{fe}x = 3;", &[("E0102", "\u{fe}")]),
        ("let x = \"a\u{202e}b\";", &[("E0103", "\u{202e}")]),
        ("let x = a on { };", &[("E0100", "{ }")]),
        ("let x = a on { tokn(d) => stop; };", &[("E0100", "tokn")]),
        ("let x = f(a;\nlet y = 2;", &[("E0109", ";")]),
    ];
    for (text, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|(code, at)| (*code, (*at).to_owned())).collect();
        assert_eq!(errors(&block(text)), expected, "{text}");
    }
    assert_eq!(errors("fn f() -> A {\n let x = 1;\nfn g() -> A { 1 }"), [("E0109", "fn".to_owned())]);
    assert_eq!(errors("fn f() -> A { 1 } }\nfn g() -> A { 1 }"), [("E0120", "}".to_owned())]);
    assert_eq!(
        errors("strategy s() -> A within { tokens: 1tok } within { calls: 1 } { 1 }"),
        [("E0117", "within".to_owned())]
    );
    assert_eq!(errors("prompt p() { sytem \"a\" user \"b\" }"), [("E0100", "sytem".to_owned())]);
    assert_eq!(errors("let x = 3;\nmodel base : Generator;"), [("E0110", "let".to_owned())]);
}

#[test]
fn byte_order_mark_and_line_ends_do_not_matter() {
    let unix = "// c\nfn f() -> A {\n    \"x\"\n}\n";
    let windows = format!("\u{feff}{}", unix.replace('\n', "\r\n"));
    let (file, errors) = dsl::parse(&windows, 0);
    assert!(errors.is_empty(), "{}", show(&windows, &errors));
    assert_eq!(file.comments[0].text, "// c");
    assert!(dsl::parse("", 0).1.is_empty());
    assert!(dsl::parse("\u{feff}", 0).1.is_empty());
}

/// Parses on a small stack and within a short time.
fn survives(source: String, expected: &str) {
    let expected = expected.to_owned();
    let start: String = source.chars().take(20).collect();
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let work = move || {
        let started = Instant::now();
        let (file, errors) = dsl::parse(&source, 0);
        let took = started.elapsed();
        drop(file);
        assert!(errors.len() <= 101, "{start}: {} errors", errors.len());
        let first = errors.first().map_or("", |e| e.code.0);
        assert_eq!(first, expected, "{start}: {}", show(&source, &errors[..errors.len().min(3)]));
        assert!(took < Duration::from_secs(10), "{start}: {took:?}");
    };
    thread.spawn(work).expect("a thread").join().expect("no panic and no overflow");
}

#[test]
fn hostile_sources_are_refused_quickly() {
    let inside = |text: String| format!("fn f() -> A {{ {text} }}");
    let many = 1 << 17;
    survives("(".repeat(64 << 20), "E0101");
    survives("(".repeat(1 << 20), "E0110");
    for open in ["(", "[", "f(", "a[", "-", "not ", "|x| ", "if a { ", "return ", "match a { b => ", "for x in a { "] {
        survives(inside(open.repeat(many / open.len())), "E0108");
    }
    survives(inside("\"${".repeat(many / 4)), "E0115");
    survives(inside(format!("{}a{}", "\"${".repeat(many / 8), "}\"".repeat(many / 8))), "E0108");
    survives(inside("\"\"\"${".repeat(many / 8)), "E0115");
    survives(inside("\"\"\"".to_owned()), "E0104");
    survives(inside("par { a: ".repeat(1000)), "E0108");
    survives(inside("a on { token(d) => ".repeat(1000)), "E0108");
    survives(inside(format!("a{}", " + a".repeat(many / 5))), "E0108");
    survives(inside(format!("a{}", ".a".repeat(many - 30))), "E0108");
    survives(inside(format!("a{}", "()".repeat(many - 30))), "E0108");
    survives(inside(format!("a{}", " ?? a".repeat(many / 6))), "E0108");
    survives(format!("const x: {}", "[".repeat(many)), "E0108");
    survives(format!("const x: {}", "fn(".repeat(many / 2)), "E0108");
    survives(format!("const x: {}", "A<".repeat(many - 30)), "E0108");
    survives(format!("use {};", "a::".repeat(many / 2)), "E0108");
    survives(inside(format!("let {} = 1;", "(a, ".repeat(many / 4))), "E0108");
    survives(inside("a".repeat(1_000_000)), "E0107");
    survives(inside("1".repeat(1_000_000)), "E0106");
    survives(inside("1e999999".to_owned()), "E0106");
    survives("\0".repeat(many), "E0102");
    survives("\u{202e}".repeat(many / 2), "E0103");
    survives("}".repeat(many), "E0120");
    survives("1".repeat(10_000_000), "E0101");
    survives("\"".repeat(many + 1), "E0110");
    survives(inside("/*\n".repeat(many / 2)), "E0112");
    survives(inside("' ".repeat(many - 30)), "E0112");
    survives(inside("@ ".repeat(many - 30)), "E0102");
    survives(inside("; ".repeat(many - 30)), "E0100");
    survives(inside("x, ".repeat(many / 2)), "E0100");
    survives(inside("f(a b), ".repeat(many / 8)), "E0100");
    survives("strategy ".repeat(many / 8), "E0114");
    survives("model m : ".repeat(many / 8), "E0114");
    survives("prompt p() { user ".repeat(many / 16), "E0100");
    survives(" ".repeat(1 << 20), "");
    survives("// x\n".repeat(many / 4), "");
}

#[test]
fn two_hundred_terms_and_levels_are_fine() {
    value(&format!("a{}", " + a".repeat(200)));
    value(&format!("{}a{}", "(".repeat(200), ")".repeat(200)));
}

#[test]
fn codes_are_unique_and_explained() {
    let mut seen: Vec<_> = dsl::parse::SYNTAX_CODES.iter().map(|(code, ..)| code.0).collect();
    let count = seen.len();
    seen.dedup();
    assert_eq!(seen.len(), count);
    assert!(seen.is_sorted());
    for (code, title, text) in dsl::parse::SYNTAX_CODES {
        assert!(code.0.starts_with("E01") && !title.is_empty() && text.len() > 40, "{}", code.0);
    }
}
