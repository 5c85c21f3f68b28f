//! Compile stages, each on an example: parse, check and lower, plan, lower to kernels, generate machine code.
//!
//! `cargo bench --bench pipeline`. The model is a synthetic one, so nothing is downloaded; the target is the fixed
//! `reference` profile, so the work does not depend on the machine.

use criterion::{Criterion, criterion_group, criterion_main};
use inferc::synthetic::{Shape, gguf};
use ir::tensor::DType;
use optimizer::{ASSUMPTIONS, Options, RoleModel};
use std::collections::BTreeMap;
use std::hint::black_box;

const SOURCE: &str = include_str!("../docs/first.infer");

fn stages(c: &mut Criterion) {
    let (file, _) = dsl::parse(SOURCE, 0);
    let (program, _) = dsl::check("first.infer", SOURCE, &file, &|_| None);
    let strategy = dsl::lower(&program, "settled").expect("the example lowers");
    let shape = Shape {
        layers: 4,
        hidden: 512,
        heads: 8,
        kv_heads: 2,
        ffn: 1536,
        vocab: 4096,
        context: 2048,
        dtype: DType::Q4_1,
    };
    let image = runtime::gguf::Gguf::from_bytes("synthetic", gguf(shape)).expect("a well-formed image");
    let model = image.model().expect("a supported shape");
    let target = ir::target::builtin("reference").expect("a built-in profile");
    let models = [Some(RoleModel { path: "synthetic".to_owned(), model })];
    let options = Options {
        assumptions: ASSUMPTIONS,
        values: BTreeMap::new(),
        threads: 2,
        numerics: None,
        naive: false,
        forced: optimizer::lossy::Forced::default(),
    };
    let plan = optimizer::optimize(&strategy, &models, &target, &options).expect("a plan");
    let local = plan.models[0].as_ref().expect("the role has a model");
    let kernels = inferc::program(local).expect("a supported model").kernels;
    let backend = inferc::default_backend();

    c.bench_function("parse", |b| b.iter(|| dsl::parse(black_box(SOURCE), 0)));
    c.bench_function("check", |b| b.iter(|| dsl::check("first.infer", black_box(SOURCE), &file, &|_| None)));
    c.bench_function("lower", |b| b.iter(|| dsl::lower(black_box(&program), "settled")));
    c.bench_function("plan", |b| b.iter(|| optimizer::optimize(black_box(&strategy), &models, &target, &options)));
    c.bench_function("kernels", |b| b.iter(|| inferc::program(black_box(local))));
    let mut slow = c.benchmark_group("machine code");
    slow.sample_size(10);
    slow.bench_function(backend.name(), |b| {
        b.iter(|| inferc::machine_code(black_box(&kernels), target.isa, backend, None));
    });
}

criterion_group!(benches, stages);
criterion_main!(benches);
