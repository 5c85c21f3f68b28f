//! The formatter: the one layout, comments, and what must not change; on all programs and on mutated copies of them.

use std::fs;
use std::path::{Path, PathBuf};

use inferc_dsl as dsl;

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

/// The tree as text, without places.
fn shape(source: &str) -> String {
    let (file, errors) = dsl::parse(source, 0);
    assert!(errors.is_empty(), "{errors:?}\n{source}");
    let debug = format!("{:?}", file.items);
    let mut out = String::new();
    let mut rest = debug.as_str();
    while let Some(at) = rest.find("Span {") {
        out.push_str(&rest[..at]);
        rest = &rest[at + rest[at..].find('}').expect("the end of a span") + 1..];
    }
    out + rest
}

fn comments(source: &str) -> Vec<String> {
    let mut texts: Vec<_> = dsl::parse(source, 0).0.comments.into_iter().map(|c| c.text).collect();
    texts.sort();
    texts
}

/// Formats and checks everything that must hold of the result.
fn formatted(source: &str) -> String {
    let text = dsl::format(source).unwrap_or_else(|e| panic!("{e:?}\n{source}"));
    assert_eq!(shape(&text), shape(source), "the tree changed\n{source}\n---\n{text}");
    assert_eq!(comments(&text), comments(source), "comments changed\n{source}\n---\n{text}");
    assert_eq!(dsl::format(&text).as_ref(), Ok(&text), "not stable\n{source}\n---\n{text}");
    assert!(text.is_empty() || text.ends_with('\n') && !text.ends_with("\n\n"));
    text
}

#[test]
fn programs_keep_their_tree_and_comments() {
    for (path, source) in programs() {
        println!("{}", path.display());
        let text = formatted(&source);
        assert!(text.lines().all(|line| line.chars().count() <= 100 || line.contains("//") || line.contains('"')));
    }
}

#[test]
fn the_layout_is_this_one() {
    let source = "
use std::{a,b};
model tiny:Generator needs logits,hidden;
model   large : Generator;


enum   D{easy,hard,}
prompt p( q:Text ){ system \"S\"  user
\"${ q }\"
 user \"\"\"
   one
     two ${f(q,  1)}

   \"\"\" }
strategy s(q:Text,n:Int=8 in 1..=32)->Vote<Text>? within{tokens:1ktok,}allow {x:1%}{ // why
let a=sample(tiny,p(q),n:n,max:1ktok)on{token(d)when d.entropy>1.0 and not d.x=>branch(2),drop;};

// above
let (b,_)=if a.len>3 {x} else {y}; // behind
for x in 0..n carry acc=[] { acc+x }
match b{easy=>1,hard=>{let z=1;z},}; vote(a+b,by:|s|s.value,weight:|s|exp(s.logprob) * 1.0 + some_long_name(s.text)) ?? fail \"none\"
// last
}
";
    let expected = "use std::{a, b};
model tiny  : Generator needs logits, hidden;
model large : Generator;

enum D { easy, hard }

prompt p(q: Text) {
    system \"S\"
    user   \"${q}\"
    user \"\"\"
        one
          two ${f(q, 1)}

        \"\"\"
}

strategy s(q: Text, n: Int = 8 in 1..=32) -> Vote<Text>?
within { tokens: 1ktok }
allow { x: 1% }
{ // why
    let a = sample(tiny, p(q), n: n, max: 1ktok) on {
        token(d) when d.entropy > 1.0 and not d.x => branch(2), drop;
    };

    // above
    let (b, _) = if a.len > 3 { x } else { y }; // behind
    for x in 0..n carry acc = [] {
        acc + x
    }
    match b {
        easy => 1,
        hard => {
            let z = 1;
            z
        },
    }
    vote(a + b, by: |s| s.value, weight: |s| exp(s.logprob) * 1.0 + some_long_name(s.text))
        ?? fail \"none\"
    // last
}
";
    assert_eq!(formatted(source), expected);
}

#[test]
fn comments_in_odd_places_stay() {
    let sources = [
        "// only\n",
        "",
        "// a\n\n// b\nmodel m : Generator; // c\n// d\n",
        "fn f(a: Int, // first\n b: Int // second\n // third\n) -> Int { // open\n // inside\n}\n",
        "fn f() -> A { let x = // one\n g( // two\n 1, // three\n // four\n 2 // five\n ) // six\n ; // seven\n x }",
        "fn f() -> A { x // a\n + y // b\n // c\n + z }",
        "fn f() -> A { let t = \"\"\"\n a\n b\n \"\"\"; // t\n let u = g(1, // u\n \"\"\"\n a\n b\"\"\"); u }",
        "fn f() -> A { [ // a\n] }",
        "fn f() -> A { match x { // a\n b => 1, // b\n // c\n d => 2 // d\n // e\n } }",
        "fn f() -> A { if a { // x\n 1 } // y\n else { // z\n 2 } }",
        "fn f() -> A { s() on { // a\n // b\n token(d) when x // c\n => branch(2); // d\n // e\n } }",
        "strategy s() -> A // a\n within { // b\n tokens: 1tok // c\n } // d\n // e\n { 1 }",
        "precompute s() -> A\nwithin { tokens: 1tok } // a\nwarm m, n // b\nttl 1h // c\n{ // d\n 1 }",
        "prompt p(q: Text) { // a\n // b\n system \"x\" // c\n\n // d\n user \"y\" // e\n // f\n }",
        "prompt p( // a\n ) // b\n { system // c\n \"x\" }",
        "type P { a: Int, // a\n b: [Int; // n\n 3] // b\n }\nenum E { // x\n a // y\n }",
        "use a::{ // x\n b, // y\n c };\ntool t(a: A) -> B // q\n timeout 2s // r\n cost 1usd; // s",
        "test \"t\" { mock m = [ // a\n \"1\" ]; // b\n assert x == // c\n 1; }",
        "fn f() -> A { within { calls: 1 } // a\n { 1 } // b\n else // c\n { 2 } }",
        "fn f() -> A { route c(x) min // a\n 0.5 { // b\n a => 1, // c\n // d\n else => // e\n 2 // f\n } }",
        "fn f() -> A { ( // a\n 1 // b\n ) }",
        "fn f() -> A { f(|x| { // a\n let y = x; y // b\n }) }",
        "fn f() -> A { race { a, // a\n b } ; par { a: 1, // b\n b: 2 }; x }",
        "// é ü\nfn f() -> A { \"é\" } // ☃\n",
    ];
    for source in sources {
        formatted(source);
    }
}

#[test]
fn raw_strings_keep_their_text() {
    let texts =
        ["a", " a", "a ", "\"a\"", "a\"", "", "  ", "a\nb", "\na", "a\n", "\n", " a\n  b", "\ta\n b", "$a", "\\d"];
    for text in texts {
        for raw in [format!("\"\"\"{text}\"\"\""), format!("\"\"\"\n{text}\n\"\"\"")] {
            if !raw.contains("\"\"\"\"") {
                formatted(&format!("prompt p(q: Text) {{ user {raw} }}"));
                formatted(&format!("fn f() -> A {{ g({raw}) }}"));
            }
        }
        formatted(&format!("prompt p(q: Text) {{ user \"\"\"{text}${{q}} x\n  ${{q}}\n \"\"\" }}"));
    }
}

#[test]
fn what_does_not_parse_is_not_touched() {
    let errors = dsl::format("strategy s( -> A {}").expect_err("a broken source");
    assert!(!errors.is_empty());
}

#[test]
fn deep_programs_are_laid_out_quickly_on_a_small_stack() {
    let nest = |open: &str, n: usize, close: &str| format!("fn f() -> A {{ {}a{} }}", open.repeat(n), close.repeat(n));
    let sources = [
        nest("(", 200, ")"),
        nest("[", 200, "]"),
        nest("g(1, ", 120, ")"),
        nest("g(|x| { let y = 1; ", 60, " })"),
        nest("if c { ", 80, " }"),
        nest("if c { 1 } else { let b = 2; ", 80, " }"),
        nest("match c { a => ", 80, " }"),
        nest("not ", 200, ""),
        format!("fn f() -> A {{ a{} }}", " + a".repeat(200)),
        format!("fn f() -> A {{ {} }}", "g(a, b, c);\n".repeat(5000)),
    ];
    for source in sources {
        let started = std::time::Instant::now();
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        let start: String = source.chars().take(40).collect();
        let text = thread.spawn(move || dsl::format(&source)).expect("a thread").join().expect("no overflow");
        assert!(text.is_ok(), "{start}: {text:?}");
        assert!(started.elapsed() < std::time::Duration::from_secs(20), "{start}: {:?}", started.elapsed());
    }
}

/// Words, numbers, blanks and single other characters.
fn pieces(source: &str) -> Vec<String> {
    let class = |c: char| match c {
        c if c.is_alphanumeric() || c == '_' => 1,
        c if c.is_whitespace() => 2,
        _ => 0,
    };
    let mut out: Vec<String> = Vec::new();
    let mut last = 0;
    for c in source.chars() {
        if class(c) != 0 && class(c) == last {
            out.last_mut().expect("a piece").push(c);
        } else {
            out.push(c.to_string());
        }
        last = class(c);
    }
    out
}

/// A counter-based generator: the same mutations on every machine.
fn random(seed: u64) -> impl FnMut(usize) -> usize {
    let mut state = seed;
    move |bound| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).expect("smaller than the bound")
    }
}

#[test]
fn mutated_copies_never_panic() {
    const INSERTED: &[&str] = &[
        "{", "}", "(", ")", "[", "]", ";", ",", "\"", "\"\"\"", "${", "//c\n", "=>", "??", "not", "|", "é", "\u{202e}",
        "match", "1e5", ".", "on", "else", "\n", "-", "strategy", "fail",
    ];
    let programs = programs();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let share = |first: usize| -> usize {
        programs.iter().skip(first).step_by(threads).map(|(path, source)| mutate(path, source, INSERTED)).sum()
    };
    let share = &share;
    let kept: usize = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || share(first))).collect();
        running.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert!(kept > 100, "only {kept} mutated copies still parse");
}

/// Mutated copies of one program, a thousand of each example; how many of them still parse.
fn mutate(path: &Path, source: &str, inserted: &[&str]) -> usize {
    let mut kept = 0;
    let original = pieces(source);
    let copies = if path.to_string_lossy().contains("examples") { 1000 } else { 200u64 };
    for copy in 0..copies {
        let mut next = random(copy ^ source.len() as u64);
        let mut mutated = original.clone();
        for _ in 0..=next(3) {
            let (a, b) = (next(mutated.len()), next(mutated.len()));
            match next(4) {
                0 => drop(mutated.remove(a)),
                1 => mutated.insert(b, mutated[a].clone()),
                2 => mutated.swap(a, b),
                _ => mutated.insert(a, inserted[next(inserted.len())].to_owned()),
            }
        }
        let text = mutated.concat();
        let (_, errors) = dsl::parse(&text, 0);
        for error in &errors {
            let span = error.span.start as usize..error.span.end as usize;
            assert!(text.get(span).is_some(), "{}: a place outside of the text: {error:?}", path.display());
        }
        if errors.is_empty() {
            kept += 1;
            formatted(&text);
        } else {
            assert!(dsl::format(&text).is_err());
        }
    }
    kept
}
