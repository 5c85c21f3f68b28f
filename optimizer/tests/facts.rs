//! What the planner knows of a strategy: how often sites run, which prompts are one, what extends what, what consumes what.

#[allow(dead_code, reason = "plans need more of it")]
mod plan_setup;

use inferc_optimizer as optimizer;
use optimizer::facts::{self, Facts, Kind, What};
use plan_setup::{strategies, strategy};
use std::collections::BTreeMap;

const HEAD: &str = "model small : Generator;\nmodel large : Generator;\nprompt ask(q: Text) { user \"${q}\" }\n";

fn of(body: &str) -> Facts {
    facts::of(&strategy(&format!("{HEAD}{body}")), &BTreeMap::new())
}

#[test]
fn parameters_and_given_values_set_the_width() {
    let source = format!(
        "{HEAD}strategy s(q: Text, n: Int = 8 in 1..=32) -> Vote<Text> within {{ tokens: 8ktok }} {{\n\
         vote(sample(small, ask(q), n: n, max: 100tok, temp: 1.0), by: |s| s.text) }}"
    );
    let strategy = strategy(&source);
    let width = |given: &[(&str, f64)]| {
        let given = given.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect();
        let Kind::Generate { n, .. } = facts::of(&strategy, &given).sites[0].kind else { panic!("a generation") };
        n
    };
    assert_eq!((width(&[]), width(&[("n", 3.0)]), width(&[("m", 3.0)])), (8, 3, 8));
    assert_eq!(width(&[("n", 1e30)]), 32, "never beyond what is proved");
}

#[test]
fn equal_prompts_are_one_context_and_a_loop_makes_its_own() {
    let facts = of("strategy s(q: Text) -> Text within { tokens: 2ktok } {\n\
                    let a = gen(small, ask(q), max: 50tok, temp: 1.0);\n\
                    let b = gen(small, ask(q), max: 50tok, temp: 1.0);\n\
                    let c = gen(small, ask(a.text), max: 50tok, temp: 1.0);\n\
                    \"${b.text}${c.text}\" }");
    let contexts: Vec<u32> = facts.sites.iter().map(|s| s.context).collect();
    assert_eq!(contexts[0], contexts[1]);
    assert_ne!(contexts[0], contexts[2]);
    assert!(facts.nodes[2].reads.contains(&0), "the third prompt quotes the first answer: {:?}", facts.nodes);
    assert!(!facts.nodes[1].reads.contains(&0));
}

#[test]
fn samples_of_a_loop_and_of_pairs_are_known() {
    let body = |head: &str, sample: &str| {
        format!(
            "strategy s(q: Text) -> Choice within {{ tokens: 2ktok }} {{\n\
             let c = ask(q);\n\
             let tries = sample(small, c, n: 4, max: 50tok, temp: 1.0);\n\
             for {head} {{ let v = choose(small, c.add({sample}).add(\"Right?\"), [\"yes\", \"no\"]); if v.text == \"yes\" {{ return v; }} }}\n\
             choose(small, c, [\"a\", \"b\", \"c\"]) }}"
        )
    };
    for (head, sample) in [("t in tries", "t"), ("(i, t) in enumerate(tries)", "t")] {
        let facts = of(&body(head, sample));
        assert_eq!(facts.sites[1].extends, Some(facts.sites[0].id), "{head}");
        assert!(facts.sites[1].times > 1.0 && facts.sites[1].times <= 4.0, "some of four rounds");
        assert!(matches!(facts.sites[2].kind, Kind::Choose(3.0)));
        assert_eq!(facts.sites[2].extends, None);
    }
}

#[test]
fn arms_share_the_run_and_depend_on_what_chose_them() {
    let facts = of("strategy s(q: Text) -> Text within { tokens: 2ktok } {\n\
                    let c = ask(q);\n\
                    let v = choose(small, c, [\"hard\", \"easy\"]);\n\
                    if v.text == \"hard\" { gen(large, c, max: 50tok, temp: 0.0).text }\n\
                    else { gen(small, c, max: 50tok, temp: 0.0).text } }");
    let times: Vec<f64> = facts.sites.iter().map(|s| s.times).collect();
    assert_eq!(times, [1.0, 0.5, 0.5]);
    assert_eq!(facts.sites.iter().map(|s| s.role).collect::<Vec<_>>(), [Some(0), Some(1), Some(0)]);
    assert!(facts.nodes[1].reads.contains(&0) && facts.nodes[2].reads.contains(&0), "{:?}", facts.nodes);
    assert!(!facts.nodes[2].reads.contains(&1), "arms do not depend on each other");
}

#[test]
fn every_site_of_every_example_is_a_place() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for entry in std::fs::read_dir(&folder).expect("examples") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|e| e != "infer") {
            continue;
        }
        let source = std::fs::read_to_string(&path).expect("readable");
        for strategy in strategies(&source, &|name| std::fs::read_to_string(folder.join(name)).ok()) {
            let facts = facts::of(&strategy, &BTreeMap::new());
            let name = &strategy.name;
            assert_eq!(facts.sites.len(), strategy.sites as usize, "{name}");
            let places = facts.nodes.iter().filter(|n| matches!(n.what, What::Site(_))).count();
            assert_eq!(places, facts.sites.len(), "{name}");
            assert!(facts.nodes.iter().enumerate().all(|(i, n)| n.reads.iter().all(|r| *r < i)), "{name}");
            assert!(facts.sites.iter().all(|s| s.times > 0.0 && s.times.is_finite()), "{name}");
        }
    }
}

#[test]
fn a_prompt_in_a_loop_is_made_as_often_as_what_it_quotes() {
    let made = |quoted: &str| {
        let facts = of(&format!(
            "strategy s(q: Text) -> Sample<Text>? within {{ tokens: 2ktok }} {{\n\
             let tries = sample(small, ask(\"Write.\"), n: 8, max: 50tok, temp: 1.0);\n\
             best(tries, by: |s| logprob(large, ask({quoted}), s.text)) }}"
        ));
        assert_eq!((facts.sites.len(), facts.sites[1].times), (2, 8.0));
        facts.sites[1].made
    };
    assert_eq!(made("q"), 1.0, "the same for all samples");
    assert_eq!(made("s.text"), 8.0, "one for each");
}
