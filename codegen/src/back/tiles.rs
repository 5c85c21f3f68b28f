//! Tiles without tile instructions: takes a kernel, returns it with its tiles in a local and loops of `Dot4` over them.
//!
//! For back ends and machines without AMX. Sums of 32-bit integers wrap and so have no order: the bits are those of the
//! tile instructions. The configuration of the instructions is here too. Not meant to be fast: a schedule that wants
//! speed without AMX does not ask for tiles.

use ir::kernel::uses_tiles;
use ir::kernel::{Addr, Base, Bin, Bytes, Kernel, Local, Mem, Op, Reg, Shift, Stmt, TILE_ROWS, TILES, Tile, Ty, Un};

/// Bytes of a tile.
const TILE: i64 = 64 * TILE_ROWS as i64;

/// What `ldtilecfg` reads: palette 1, every tile of [`TILE_ROWS`] rows of 64 bytes.
pub(super) fn configuration() -> [u8; 64] {
    let mut bytes = [0; 64];
    bytes[0] = 1;
    for tile in 0..TILES {
        bytes[16 + 2 * tile] = 64;
        bytes[48 + tile] = TILE_ROWS as u8;
    }
    bytes
}

/// The kernel with its tiles as memory; `None` when it has no tiles.
pub(super) fn expand(kernel: &Kernel) -> Option<Kernel> {
    if !uses_tiles(&kernel.body) {
        return None;
    }
    let mut out = Kernel { body: Vec::new(), ..kernel.clone() };
    let memory = Base::Local(out.locals.len() as u32);
    out.locals.push(Local { name: "tiles".into(), bytes: TILES as u64 * TILE as u64 });
    let mut reg = |ty| {
        out.regs.push(ty);
        Reg(out.regs.len() as u32 - 1)
    };
    let expand = Expand {
        memory,
        ints: [(); 4].map(|()| reg(Ty::I64)),
        row: reg(Ty::I64),
        group: reg(Ty::I64),
        sums: [(); 2].map(|()| reg(Ty::VI32)),
        bytes: [(); 4].map(|()| reg(Ty::B64)),
    };
    out.body = expand.block(&kernel.body);
    Some(out)
}

/// Registers of the expansion, which hold nothing from one statement to the next.
struct Expand {
    memory: Base,
    /// 0, a bound, and two offsets.
    ints: [Reg; 4],
    row: Reg,
    group: Reg,
    sums: [Reg; 2],
    bytes: [Reg; 4],
}

impl Expand {
    fn block(&self, body: &[Stmt]) -> Vec<Stmt> {
        let mut out = Vec::with_capacity(body.len());
        for stmt in body {
            match stmt {
                Stmt::TileZero(tile) => self.zero(*tile, &mut out),
                Stmt::TileLoad(tile, addr, stride) => self.copy(*tile, *addr, *stride, true, &mut out),
                Stmt::TileStore(addr, stride, tile) => self.copy(*tile, *addr, *stride, false, &mut out),
                Stmt::TileDot { acc, a, b } => self.dot(*acc, *a, *b, &mut out),
                Stmt::For { var, lo, hi, step, body } => {
                    out.push(Stmt::For { var: *var, lo: *lo, hi: *hi, step: *step, body: self.block(body) });
                }
                Stmt::ParFor { var, n, split, body } => {
                    out.push(Stmt::ParFor { var: *var, n: *n, split: *split, body: self.block(body) });
                }
                Stmt::If { cond, then, otherwise } => {
                    let (then, otherwise) = (self.block(then), self.block(otherwise));
                    out.push(Stmt::If { cond: *cond, then, otherwise });
                }
                Stmt::Let(..)
                | Stmt::Store(..)
                | Stmt::StoreStrided(..)
                | Stmt::StoreScalar(..)
                | Stmt::Prefetch(..) => {
                    out.push(stmt.clone());
                }
            }
        }
        out
    }

    /// Byte `index + offset` of a tile.
    fn at(&self, tile: Tile, index: Option<Reg>, offset: i64) -> Addr {
        Addr { base: self.memory, index, offset: TILE * i64::from(tile.0) + offset }
    }

    fn zero(&self, tile: Tile, out: &mut Vec<Stmt>) {
        let ([zero, ..], [sum, _]) = (self.ints, self.sums);
        out.extend([Stmt::Let(zero, Op::Int(0)), Stmt::Let(sum, Op::Un(Un::SplatI, zero))]);
        out.extend((0..TILE_ROWS as i64).map(|row| Stmt::Store(Mem::I32, self.at(tile, None, 64 * row), sum)));
    }

    /// Rows from memory to a tile (`load`) or back.
    fn copy(&self, tile: Tile, addr: Addr, stride: i64, load: bool, out: &mut Vec<Stmt>) {
        let [bits, _] = self.sums;
        for row in 0..TILE_ROWS as i64 {
            let outside = Addr { offset: addr.offset.wrapping_add(stride.wrapping_mul(row)), ..addr };
            let inside = self.at(tile, None, 64 * row);
            let (from, to) = if load { (outside, inside) } else { (inside, outside) };
            out.extend([Stmt::Let(bits, Op::Load(Mem::I32, from)), Stmt::Store(Mem::I32, to, bits)]);
        }
    }

    /// For each row of the sums, for each group of four features, what `products` says.
    fn dot(&self, acc: Tile, a: (Tile, Bytes), b: (Tile, Bytes), out: &mut Vec<Stmt>) {
        let ([zero, bound, feature, line], [sum, _]) = (self.ints, self.sums);
        let [left, right, ..] = self.bytes;
        let mut group = vec![
            Stmt::Let(feature, Op::Bin(Bin::Add, self.row, self.group)),
            Stmt::Let(line, Op::Shift(Shift::Left, self.group, 4)),
            Stmt::Let(left, Op::LoadBytes4(self.at(a.0, Some(feature), 0))),
            Stmt::Let(right, Op::LoadBytes(self.at(b.0, Some(line), 0))),
        ];
        self.products(a.1, b.1, &mut group);
        let row = vec![
            Stmt::Let(sum, Op::Load(Mem::I32, self.at(acc, Some(self.row), 0))),
            Stmt::Let(bound, Op::Int(64)),
            Stmt::For { var: self.group, lo: zero, hi: bound, step: 4, body: group },
            Stmt::Store(Mem::I32, self.at(acc, Some(self.row), 0), sum),
        ];
        out.extend([
            Stmt::Let(zero, Op::Int(0)),
            Stmt::Let(bound, Op::Int(TILE)),
            Stmt::For { var: self.row, lo: zero, hi: bound, step: 64, body: row },
        ]);
    }

    /// Adds the products of the left and the right bytes to the sums. `Dot4` multiplies unsigned by signed bytes: of
    /// two factors of one kind, one is taken apart into its low seven bits and its highest.
    fn products(&self, a: Bytes, b: Bytes, out: &mut Vec<Stmt>) {
        let ([zero, ..], [sum, high]) = (self.ints, self.sums);
        let [left, right, low7, top] = self.bytes;
        let (whole, split, sign) = match (a, b) {
            (Bytes::Unsigned, Bytes::Signed) => return out.push(Stmt::Let(sum, Op::Dot4(sum, left, right))),
            (Bytes::Signed, Bytes::Unsigned) => return out.push(Stmt::Let(sum, Op::Dot4(sum, right, left))),
            // b·a = b·low7(a) - 128·b·top(a)
            (Bytes::Signed, Bytes::Signed) => (right, left, Bin::Sub),
            // a·b = a·low7(b) + 128·a·top(b)
            (Bytes::Unsigned, Bytes::Unsigned) => (left, right, Bin::Add),
        };
        // The parts are 0 to 127 and 0 or 1, the same number read either way.
        let dot = |acc, part| if sign == Bin::Sub { Op::Dot4(acc, part, whole) } else { Op::Dot4(acc, whole, part) };
        out.extend([
            Stmt::Let(low7, Op::SplatByte(0x7F)),
            Stmt::Let(low7, Op::Bin(Bin::And, split, low7)),
            Stmt::Let(top, Op::Shift(Shift::RightLogical, split, 7)),
            Stmt::Let(sum, dot(sum, low7)),
            Stmt::Let(high, Op::Un(Un::SplatI, zero)),
            Stmt::Let(high, dot(high, top)),
            Stmt::Let(high, Op::Shift(Shift::Left, high, 7)),
            Stmt::Let(sum, Op::Bin(sign, sum, high)),
        ]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::back::interp::{self, Value};
    use ir::kernel::{Param, ParamKind};

    #[test]
    fn the_expansion_means_the_same() {
        let at = |base, offset| Addr { base: Base::Param(base), index: None, offset };
        let mut body = vec![Stmt::TileLoad(Tile(3), at(0, 1), 61), Stmt::TileLoad(Tile(7), at(0, 700), 64)];
        let all = [Bytes::Unsigned, Bytes::Signed];
        for (i, (a, b)) in all.iter().flat_map(|a| all.map(|b| (*a, b))).enumerate() {
            let first = if i % 2 == 0 { Stmt::TileZero(Tile(0)) } else { Stmt::TileLoad(Tile(0), at(0, 300), 32) };
            let dot = Stmt::TileDot { acc: Tile(0), a: (Tile(3), a), b: (Tile(7), b) };
            body.extend([first, dot.clone(), dot, Stmt::TileStore(at(1, 1100 * i as i64), 64 + i as i64, Tile(0))]);
        }
        let param = |name: &str, kind| Param { name: name.into(), kind };
        let kernel = Kernel {
            name: "k".into(),
            params: vec![param("x", ParamKind::Read), param("y", ParamKind::Write)],
            locals: vec![],
            regs: vec![],
            body,
        };
        let expanded = expand(&kernel).expect("it has tiles");
        assert!(!uses_tiles(&expanded.body) && expand(&expanded).is_none());
        let input = (0..2048u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
        let mut args = vec![Value::Buffer(input), Value::Buffer(vec![0; 4700])];
        let mut other = args.clone();
        interp::run(&kernel, &mut args, 1).expect("runs");
        interp::run(&expanded, &mut other, 1).expect("the expansion is well-formed and runs");
        assert_eq!(args, other);
    }
}
