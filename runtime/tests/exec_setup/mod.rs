//! A language model that is a table, its codec, and strategies written by hand: what the tests of the interpreter run.

#![allow(dead_code, reason = "each test file uses a part")]

#[path = "../oracle/mod.rs"]
pub(crate) mod oracle;

use inferc_runtime as runtime;
use ir::plan::{Assumptions, Cost, Plan, PrefixMode, SitePlan};
use ir::strategy::*;
use runtime::error::Error;
use runtime::exec::{ChatMessage, Event, Failure, Options, TextCodec, TokenRules, Watch};
use runtime::model::{Append, LanguageModel, ModelInfo, Row, SeqId, Wanted};
use runtime::sample::{Choice, Draw};
use runtime::session::{Engine, Outcome, RoleModel, Session};
use runtime::value::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) const WORDS: [&str; 8] = ["a", "b", "c", "1", "{", "\n", "", ""];
pub(crate) const A: u32 = 0;
pub(crate) const B: u32 = 1;
pub(crate) const C: u32 = 2;
pub(crate) const ONE: u32 = 3;
pub(crate) const BRACE: u32 = 4;
pub(crate) const NL: u32 = 5;
pub(crate) const END: u32 = 6;
pub(crate) const ANSWER: u32 = 7;

/// A codec over [`WORDS`]; the answer is opened by [`ANSWER`].
pub(crate) struct TableCodec;

impl TextCodec for TableCodec {
    fn encode_chat(&self, messages: &[ChatMessage<'_>], open: bool) -> Result<Vec<u32>, String> {
        let mut all = Vec::new();
        for message in messages {
            all.extend(self.encode(message.text)?);
            all.push(END);
        }
        if open {
            all.push(ANSWER);
        }
        Ok(all)
    }

    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        let id = |c: char| WORDS.iter().position(|w| *w == c.to_string()).map(|i| i as u32);
        text.chars().map(|c| id(c).ok_or_else(|| format!("no token for {c:?}"))).collect()
    }

    fn token_bytes(&self, id: u32) -> Cow<'_, [u8]> {
        Cow::Borrowed(WORDS.get(id as usize).map_or(&[], |w| w.as_bytes()))
    }

    fn end_tokens(&self) -> &[u32] {
        &[END]
    }

    fn vocabulary(&self) -> usize {
        WORDS.len()
    }
}

/// What was asked of a model, for assertions.
#[derive(Default)]
pub(crate) struct Log {
    pub(crate) steps: Mutex<Vec<usize>>,
    pub(crate) prefilled: Mutex<usize>,
    pub(crate) live: Mutex<usize>,
    pub(crate) peak: Mutex<usize>,
    /// Placement of prompts at each fork.
    pub(crate) placed: Mutex<Vec<PrefixMode>>,
    /// Placement of each append of steps of arms that met.
    pub(crate) met: Mutex<Vec<Vec<PrefixMode>>>,
}

type Table = Arc<dyn Fn(&[u32]) -> [f32; 8] + Send + Sync>;

/// Next-token probabilities by the last token; `f` may look at the whole sequence.
pub(crate) struct TableModel {
    info: ModelInfo,
    table: Table,
    sequences: BTreeMap<u32, Vec<u32>>,
    next: u32,
    placement: PrefixMode,
    pub(crate) log: Arc<Log>,
    /// Tokens that fit in all sequences together.
    pub(crate) room: usize,
    /// Tokens that attend to everything. Decoded ones behind them are [`PARTLY`] more than they are to the table.
    pub(crate) dense: usize,
}

/// What marks a token that attended to a part.
pub(crate) const PARTLY: u32 = 8;

impl TableModel {
    /// A model whose next-token probabilities (not normalised) are `table(tokens so far)`.
    pub(crate) fn new(table: impl Fn(&[u32]) -> [f32; 8] + Send + Sync + 'static) -> Self {
        let info = ModelInfo { vocab: 8, context: 64, kv_bytes_per_token: 10, page: 16, max_rows: 64 };
        Self {
            info,
            table: Arc::new(table),
            sequences: BTreeMap::new(),
            next: 0,
            placement: PrefixMode::Shared,
            log: Arc::default(),
            room: usize::MAX,
            dense: usize::MAX,
        }
    }

    fn used(&self) -> usize {
        self.sequences.values().map(Vec::len).sum()
    }

    fn note(&self) {
        *self.log.live.lock().expect("no panic before") = self.sequences.len();
        let mut peak = self.log.peak.lock().expect("no panic before");
        *peak = (*peak).max(self.sequences.len());
    }
}

impl LanguageModel for TableModel {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn create(&mut self) -> Result<SeqId, Error> {
        self.next += 1;
        self.sequences.insert(self.next, Vec::new());
        self.note();
        Ok(SeqId(self.next))
    }

    fn fork(&mut self, seq: SeqId) -> Result<SeqId, Error> {
        let copy = self.sequences[&seq.0].clone();
        self.next += 1;
        self.sequences.insert(self.next, copy);
        self.log.placed.lock().expect("no panic before").push(self.placement);
        self.note();
        Ok(SeqId(self.next))
    }

    fn place_prompts(&mut self, mode: PrefixMode) {
        self.placement = mode;
    }

    fn len(&self, seq: SeqId) -> usize {
        self.sequences[&seq.0].len()
    }

    fn truncate(&mut self, seq: SeqId, len: usize) -> Result<(), Error> {
        self.sequences.get_mut(&seq.0).expect("known").truncate(len);
        Ok(())
    }

    fn free(&mut self, seq: SeqId) {
        self.sequences.remove(&seq.0).expect("freed once");
        self.note();
    }

    fn step(&mut self, appends: &[Append<'_>], sink: &mut dyn FnMut(usize, usize, Row<'_>)) -> Result<(), Error> {
        let more: usize = appends.iter().map(|a| a.tokens.len()).sum();
        if self.used().saturating_add(more) > self.room {
            return Err(Error::OutOfPages { needed: more, free: 0, total: self.room });
        }
        if appends.iter().all(|a| a.wanted == Wanted::Last && a.tokens.len() == 1) {
            self.log.steps.lock().expect("no panic before").push(appends.len());
        } else {
            *self.log.prefilled.lock().expect("no panic before") += more;
        }
        for (i, append) in appends.iter().enumerate() {
            assert!(append.tokens.len() == 1 || (append.tokens.len() > 1 && !append.decoded));
            for (j, token) in append.tokens.iter().enumerate() {
                let tokens = self.sequences.get_mut(&append.seq.0).expect("known sequence");
                let partly = append.decoded && tokens.len() >= self.dense;
                tokens.push(if partly { token + PARTLY } else { *token });
                assert!(tokens.len() <= self.info.context, "context exceeded");
                if append.wanted == Wanted::All || (append.wanted == Wanted::Last && j + 1 == append.tokens.len()) {
                    let logits = (self.table)(tokens).map(f32::ln);
                    sink(i, j, row(&logits));
                }
            }
        }
        Ok(())
    }

    fn step_placed(
        &mut self,
        appends: &[Append<'_>],
        modes: &[PrefixMode],
        sink: &mut dyn FnMut(usize, usize, Row<'_>),
    ) -> Result<(), Error> {
        self.step(appends, sink)?;
        self.log.met.lock().expect("no panic before").push(modes.to_vec());
        Ok(())
    }

    fn choose(&mut self, rows: &[Row<'_>], draws: &[(usize, Draw)]) -> Result<Vec<Option<Choice>>, Error> {
        Ok(oracle::choose_all(rows, draws))
    }

    fn kv_bytes(&self) -> u64 {
        self.used() as u64 * self.info.kv_bytes_per_token
    }

    fn dense_tokens(&self) -> usize {
        self.dense
    }
}

/// The row of logits.
pub(crate) fn row(logits: &[f32; 8]) -> Row<'_> {
    if logits.iter().any(|x| x.is_nan()) {
        return Row { logits, max: f32::NAN, log_z: f32::NAN, entropy: f32::NAN, argmax: 0 };
    }
    oracle::measure(logits)
}

/// Builds a strategy bind by bind.
#[derive(Default)]
pub(crate) struct Build {
    pub(crate) binds: Vec<Bind>,
    pub(crate) vars: u32,
    pub(crate) sites: u32,
    pub(crate) roles: Vec<Role>,
    pub(crate) params: Vec<Param>,
    pub(crate) arguments: Vec<Var>,
    pub(crate) tunables: Vec<Tunable>,
    pub(crate) within: Limits,
}

impl Build {
    pub(crate) fn new() -> Self {
        let mut build = Self::default();
        build.roles.push(Role { name: "m".into(), kind: RoleKind::Generator, needs: vec![], binding: None });
        build
    }

    pub(crate) fn var(&mut self) -> Var {
        self.vars += 1;
        Var(self.vars - 1)
    }

    pub(crate) fn op(&mut self, op: Op) -> Var {
        let var = self.var();
        self.binds.push(Bind { var, op, at: (1, 2) });
        var
    }

    pub(crate) fn prim(&mut self, prim: Prim, args: &[Var]) -> Var {
        self.op(Op::Prim(prim, args.to_vec()))
    }

    pub(crate) fn int(&mut self, i: i64) -> Var {
        self.op(Op::Const(Const::Int(i)))
    }

    pub(crate) fn float(&mut self, x: f64) -> Var {
        self.op(Op::Const(Const::Float(x)))
    }

    pub(crate) fn text(&mut self, t: &str) -> Var {
        self.op(Op::Const(Const::Text(t.into())))
    }

    pub(crate) fn tokens(&mut self, n: u64) -> Var {
        self.op(Op::Const(Const::Tokens(n)))
    }

    pub(crate) fn model(&mut self) -> Var {
        self.op(Op::Model(0))
    }

    /// A user prompt.
    pub(crate) fn prompt(&mut self, text: &str) -> Var {
        self.op(Op::Prompt(vec![(Speaker::User, vec![Part::Text(text.into())])]))
    }

    /// A region whose binds `inner` adds; it returns the result.
    pub(crate) fn region(&mut self, params: usize, inner: impl FnOnce(&mut Self, &[Var]) -> Option<Var>) -> Region {
        let params: Vec<Var> = (0..params).map(|_| self.var()).collect();
        let outer = std::mem::take(&mut self.binds);
        let result = inner(self, &params);
        let binds = std::mem::replace(&mut self.binds, outer);
        Region { params, binds, result }
    }

    pub(crate) fn lambda(&mut self, inner: impl FnOnce(&mut Self, Var) -> Var) -> Var {
        let region = self.region(1, |b, p| Some(inner(b, p[0])));
        self.op(Op::Lambda(region))
    }

    /// A sampling site over prompt "a" with at most `max` tokens; change it in `edit`.
    pub(crate) fn sample(&mut self, n: Option<i64>, max: u64, edit: impl FnOnce(&mut Self, &mut Generate)) -> Var {
        let ctx = self.prompt("a");
        self.sample_on(ctx, n, max, edit)
    }

    pub(crate) fn sample_on(
        &mut self,
        ctx: Var,
        n: Option<i64>,
        max: u64,
        edit: impl FnOnce(&mut Self, &mut Generate),
    ) -> Var {
        let model = self.model();
        let n_var = n.map(|n| self.int(n));
        let max_var = self.tokens(max);
        let site = self.sites;
        self.sites += 1;
        let mut generate = Generate {
            site,
            stream: site,
            model,
            ctx,
            n: n_var,
            live: None,
            live_max: n.unwrap_or(1) as u64,
            max: max_var,
            max_bound: max,
            temp: None,
            top_p: None,
            top_k: None,
            min_p: None,
            stop: None,
            seed: None,
            format: Format::Text,
            rules: vec![],
        };
        edit(self, &mut generate);
        self.op(Op::Generate(Box::new(generate)))
    }

    pub(crate) fn live(&mut self, generate: &mut Generate, live: u64) {
        generate.live = Some(self.int(live as i64));
        generate.live_max = live;
    }

    pub(crate) fn rule(level: Level, when: Option<Region>, actions: Vec<Action>) -> Rule {
        Rule { level, when, actions }
    }

    pub(crate) fn strategy(self, result: Var) -> Strategy {
        Strategy {
            name: "s".into(),
            doc: String::new(),
            params: self.params,
            result: Ty::Unit,
            within: self.within,
            allow: vec![],
            roles: self.roles,
            tunables: self.tunables,
            bounds: Bounds::default(),
            sites: self.sites,
            vars: self.vars,
            body: Region { params: self.arguments, binds: self.binds, result: Some(result) },
        }
    }

    pub(crate) fn plan(self, result: Var, sites: Vec<SitePlan>) -> Plan {
        Plan {
            strategy: self.strategy(result),
            models: vec![],
            sites,
            decisions: vec![],
            cost: Cost::default(),
            operators: vec![],
            target: "test".into(),
            target_hash: String::new(),
            assumptions: Assumptions { prompt_tokens: 0, length_share: 1.0, stop_chance: 0.0 },
        }
    }
}

/// A site plan with these waves.
pub(crate) fn waves(waves: &[u32]) -> SitePlan {
    SitePlan::Generate { waves: waves.to_vec(), prefix: PrefixMode::Shared, bucket: 8, prefill_chunk: 2 }
}

/// What a run gave, with the events as text.
pub(crate) struct Ran {
    pub(crate) result: Result<Outcome, Failure>,
    pub(crate) events: Vec<String>,
    pub(crate) log: Arc<Log>,
}

impl Ran {
    pub(crate) fn value(&self) -> &Value {
        &self.result.as_ref().expect("the run succeeds").value
    }

    /// Texts of a list of samples.
    pub(crate) fn texts(&self) -> Vec<String> {
        let Value::List(items) = self.value() else { panic!("a list: {:?}", self.value()) };
        items.iter().map(Value::to_text).collect()
    }

    pub(crate) fn error(&self) -> String {
        self.result.as_ref().expect_err("the run fails").to_string()
    }

    pub(crate) fn count(&self, event: &str) -> usize {
        self.events.iter().filter(|e| e.starts_with(event)).count()
    }
}

/// Runs a plan on a model.
pub(crate) fn run(plan: Plan, model: TableModel, seed: u64) -> Ran {
    run_with(plan, model, seed, None, None)
}

/// Runs a plan with compiled rules, cancelling at the `cancel`-th token.
pub(crate) fn run_with(
    plan: Plan,
    model: TableModel,
    seed: u64,
    rules: Option<Arc<dyn TokenRules>>,
    cancel: Option<usize>,
) -> Ran {
    let log = model.log.clone();
    let engine = Engine::new(plan, &[], rules).expect("a sound plan");
    let args = engine.arguments(&[]).expect("defaults");
    let role = RoleModel { role: "m".into(), model: Box::new(model), codec: Arc::new(TableCodec) };
    let mut session = Session::new(Arc::new(engine), vec![role], &[]);
    let events = Mutex::new(Vec::new());
    let flag = AtomicBool::new(false);
    let tokens = Mutex::new(0);
    let sink = |event: &Event<'_>| {
        if matches!(event, Event::Token { .. }) {
            let mut seen = tokens.lock().expect("no panic before");
            *seen += 1;
            if cancel == Some(*seen) {
                flag.store(true, Ordering::Relaxed);
            }
        }
        events.lock().expect("no panic before").push(format!("{event:?}"));
    };
    let result = session.run(args, seed, &Options::default(), Watch { events: &sink, cancel: &flag });
    session.forget();
    assert_eq!(*log.live.lock().expect("no panic before"), 0, "sequences leak");
    Ran { result, events: events.into_inner().expect("no panic before"), log }
}

/// Mostly `a`, sometimes `b`, seldom the end.
pub(crate) fn mixed(_: &[u32]) -> [f32; 8] {
    [0.4, 0.3, 0.2, 0.0, 0.0, 0.0, 0.1, 0.0]
}

/// Says exactly this after the opening of the answer, then the end.
pub(crate) fn saying(answer: &'static [u32]) -> impl Fn(&[u32]) -> [f32; 8] + Send + Sync {
    move |tokens| {
        let at = tokens.iter().rev().take_while(|t| **t != ANSWER).count();
        let mut p = [0.0; 8];
        p[*answer.get(at).unwrap_or(&END) as usize] = 1.0;
        p
    }
}
