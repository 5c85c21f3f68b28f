//! Text form of Kernel IR, for people and for snapshots: `impl Display for Kernel`.
//!
//! One statement per line, blocks indented by two. Registers print as `%n`, buffers by name (a name that is not an
//! identifier, or that another buffer shares, prints with its number), addresses as `name[%i + 16]`. The text is
//! stable: equal kernels print equally. It is not read back.

use crate::kernel::{Addr, Base, Bytes, Cmp, Kernel, Local, Op, Param, ParamKind, Reg, Split, Stmt, Tile, Ty};
use std::fmt::{self, Display, Formatter};

impl Display for Kernel {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "kernel {} {{", self.name)?;
        for (i, param) in self.params.iter().enumerate() {
            writeln!(f, "  param {}: {}", self.param(i as u32), kind(param.kind))?;
        }
        for (i, local) in self.locals.iter().enumerate() {
            writeln!(f, "  local {}: {} bytes", self.local(i as u32), local.bytes)?;
        }
        for ty in [Ty::I64, Ty::F32, Ty::F64, Ty::VF32, Ty::VI32, Ty::B64] {
            let mut first = true;
            for (i, _) in self.regs.iter().enumerate().filter(|(_, reg)| **reg == ty) {
                write!(f, "{}%{i}", if first { "  reg " } else { " " })?;
                first = false;
            }
            if !first {
                writeln!(f, ": {}", type_name(ty))?;
            }
        }
        block(f, self, &self.body, 1)?;
        writeln!(f, "}}")
    }
}

impl Display for Reg {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "%{}", self.0)
    }
}

impl Display for Tile {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl Kernel {
    /// How parameter `i` prints.
    fn param(&self, i: u32) -> String {
        name(self.params.get(i as usize).map(|p: &Param| p.name.as_str()), self, "param", i)
    }

    /// How local `i` prints.
    fn local(&self, i: u32) -> String {
        name(self.locals.get(i as usize).map(|l: &Local| l.name.as_str()), self, "local", i)
    }
}

fn name(name: Option<&str>, kernel: &Kernel, sort: &str, i: u32) -> String {
    let Some(name) = name else { return format!("{sort}#{i}") };
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let names = kernel.params.iter().map(|p| &p.name).chain(kernel.locals.iter().map(|l| &l.name));
    match (plain, names.filter(|other| *other == name).count()) {
        (true, 1) => name.to_owned(),
        (true, _) => format!("{name}#{sort}{i}"),
        (false, _) => format!("{sort}#{i}"),
    }
}

fn kind(kind: ParamKind) -> &'static str {
    match kind {
        ParamKind::Read => "read",
        ParamKind::Write => "write",
        ParamKind::I64 => "i64",
        ParamKind::F32 => "f32",
    }
}

fn type_name(ty: Ty) -> &'static str {
    match ty {
        Ty::I64 => "i64",
        Ty::F32 => "f32",
        Ty::F64 => "f64",
        Ty::VF32 => "16 x f32",
        Ty::VI32 => "16 x i32",
        Ty::B64 => "64 x u8",
    }
}

/// A variant's name in small letters: `RightArith` → `right_arith`.
fn lower(value: impl fmt::Debug) -> String {
    let (mut text, mut last) = (String::new(), ' ');
    for c in format!("{value:?}").chars() {
        if c.is_ascii_uppercase() && last.is_ascii_lowercase() {
            text.push('_');
        }
        text.push(c.to_ascii_lowercase());
        last = c;
    }
    text
}

fn addr(kernel: &Kernel, addr: &Addr) -> String {
    let base = match addr.base {
        Base::Param(i) => kernel.param(i),
        Base::Local(i) => kernel.local(i),
    };
    match (addr.index, addr.offset) {
        (None, offset) => format!("{base}[{offset}]"),
        (Some(index), 0) => format!("{base}[{index}]"),
        (Some(index), offset) if offset < 0 => format!("{base}[{index} - {}]", offset.unsigned_abs()),
        (Some(index), offset) => format!("{base}[{index} + {offset}]"),
    }
}

fn block(f: &mut Formatter<'_>, kernel: &Kernel, body: &[Stmt], depth: usize) -> fmt::Result {
    body.iter().try_for_each(|stmt| statement(f, kernel, stmt, depth))
}

fn statement(f: &mut Formatter<'_>, kernel: &Kernel, stmt: &Stmt, depth: usize) -> fmt::Result {
    write!(f, "{:1$}", "", 2 * depth)?;
    match stmt {
        Stmt::Let(reg, op) => writeln!(f, "{reg} = {}", op_text(kernel, op)),
        Stmt::Store(mem, at, reg) => writeln!(f, "store.{} {}, {reg}", lower(mem), addr(kernel, at)),
        Stmt::StoreStrided(mem, at, stride, reg) => {
            writeln!(f, "store_strided.{} {} step {stride}, {reg}", lower(mem), addr(kernel, at))
        }
        Stmt::StoreScalar(mem, at, reg) => writeln!(f, "store_scalar.{} {}, {reg}", lower(mem), addr(kernel, at)),
        Stmt::Prefetch(at, cache) => writeln!(f, "prefetch.{} {}", cache.name(), addr(kernel, at)),
        Stmt::TileZero(tile) => writeln!(f, "tile_zero {tile}"),
        Stmt::TileLoad(tile, at, stride) => writeln!(f, "tile_load {tile}, {} step {stride}", addr(kernel, at)),
        Stmt::TileStore(at, stride, tile) => writeln!(f, "tile_store {} step {stride}, {tile}", addr(kernel, at)),
        Stmt::TileDot { acc, a: (a, how_a), b: (b, how_b) } => {
            let letter = |how: &Bytes| if *how == Bytes::Signed { 's' } else { 'u' };
            writeln!(f, "tile_dot.{}{} {acc}, {a}, {b}", letter(how_a), letter(how_b))
        }
        Stmt::For { var, lo, hi, step, body } => {
            writeln!(f, "for {var} in {lo}..{hi} step {step} {{")?;
            block(f, kernel, body, depth + 1)?;
            writeln!(f, "{:1$}}}", "", 2 * depth)
        }
        Stmt::ParFor { var, n, split, body } => {
            let split = if *split == Split::Blocked { "blocked" } else { "cyclic" };
            writeln!(f, "parfor {var} in 0..{n} {split} {{")?;
            block(f, kernel, body, depth + 1)?;
            writeln!(f, "{:1$}}}", "", 2 * depth)
        }
        Stmt::If { cond, then, otherwise } => {
            writeln!(f, "if {cond} {{")?;
            block(f, kernel, then, depth + 1)?;
            if !otherwise.is_empty() {
                writeln!(f, "{:1$}}} else {{", "", 2 * depth)?;
                block(f, kernel, otherwise, depth + 1)?;
            }
            writeln!(f, "{:1$}}}", "", 2 * depth)
        }
    }
}

fn op_text(kernel: &Kernel, op: &Op) -> String {
    match op {
        Op::Int(v) => format!("{v}"),
        Op::Float(bits) => {
            let value = f32::from_bits(*bits);
            // Rust prints the shortest text that reads back the same bits, except for NaN.
            if value.is_nan() { format!("nan:{bits:#010x}") } else { format!("{value:?}f") }
        }
        Op::Param(i) => kernel.param(*i),
        Op::Tid => "tid".into(),
        Op::Iota => "iota".into(),
        Op::Copy(a) => format!("{a}"),
        Op::Bin(bin, a, b) => format!("{} {a}, {b}", lower(bin)),
        Op::Un(un, a) => format!("{} {a}", lower(un)),
        Op::Shift(shift, a, bits) => format!("shift_{} {a}, {bits}", lower(shift)),
        Op::Fma(a, b, c) => format!("fma {a}, {b}, {c}"),
        Op::Select(cmp, a, b, t, e) => {
            let sign = match cmp {
                Cmp::Lt => "<",
                Cmp::Le => "<=",
                Cmp::Eq => "==",
            };
            format!("select {a} {sign} {b}, {t}, {e}")
        }
        Op::Dot4(acc, u, s) => format!("dot4 {acc}, {u}, {s}"),
        Op::SplatByte(b) => format!("splat_byte {b:#04x}"),
        Op::Load(mem, at) => format!("load.{} {}", lower(mem), addr(kernel, at)),
        Op::LoadBytes(at) => format!("load_bytes {}", addr(kernel, at)),
        Op::LoadBytes4(at) => format!("load_bytes4 {}", addr(kernel, at)),
        Op::LoadSplat(at) => format!("load_splat {}", addr(kernel, at)),
        Op::LoadScalar(mem, at) => format!("load_scalar.{} {}", lower(mem), addr(kernel, at)),
        Op::Lane(a, lane) => format!("lane {a}, {lane}"),
    }
}

#[cfg(test)]
mod tests {
    use crate::kernel::*;

    #[test]
    fn prints_a_kernel() {
        let at = |index| Addr { base: Base::Param(0), index, offset: -16 };
        let kernel = Kernel {
            name: "scale".into(),
            params: vec![
                Param { name: "x".into(), kind: ParamKind::Write },
                Param { name: "n".into(), kind: ParamKind::I64 },
            ],
            locals: vec![Local { name: "a b".into(), bytes: 64 }],
            regs: vec![Ty::I64, Ty::I64, Ty::VF32, Ty::F32],
            body: vec![
                Stmt::Let(Reg(0), Op::Param(1)),
                Stmt::Let(Reg(3), Op::Float(0.1f32.to_bits())),
                Stmt::ParFor {
                    var: Reg(1),
                    n: Reg(0),
                    split: Split::Cyclic,
                    body: vec![
                        Stmt::Let(Reg(2), Op::Load(Mem::BF16, at(Some(Reg(1))))),
                        Stmt::Store(Mem::F32, Addr { base: Base::Local(0), index: None, offset: 0 }, Reg(2)),
                    ],
                },
            ],
        };
        assert_eq!(
            kernel.to_string(),
            "kernel scale {\n  param x: write\n  param n: i64\n  local local#0: 64 bytes\n  reg %0 %1: i64\n  reg %3: f32\n  \
             reg %2: 16 x f32\n  %0 = n\n  %3 = 0.1f\n  parfor %1 in 0..%0 cyclic {\n    %2 = load.bf16 x[%1 - 16]\n    \
             store.f32 local#0[0], %2\n  }\n}\n"
        );
        assert_eq!(crate::kernel_check::kernel(&kernel), Ok(()));
    }
}
