//! Upper bounds of the bytes in `B64` registers: takes a well-formed kernel, returns one bound per register.
//!
//! Back ends without a widening byte product multiply faster when the unsigned side stays below 128, which is so for
//! weights of up to 7 bits. The analysis follows registers that are assigned once; all others are bounded by 255.

use ir::kernel::{Bin, Kernel, Op, Reg, Shift, Stmt, Ty};

/// Number of assignments of every register, loop counters included.
pub(crate) fn assignments(kernel: &Kernel) -> Vec<u32> {
    let mut counts = vec![0; kernel.regs.len()];
    ir::kernel_check::assigned_in(&kernel.body, &mut |reg: Reg| counts[reg.0 as usize] += 1);
    counts
}

/// For every register a value that none of its bytes exceeds (255 where nothing is known).
pub(crate) fn bounds(kernel: &Kernel, assignments: &[u32]) -> Vec<u8> {
    let mut bounds = vec![255; kernel.regs.len()];
    walk(&kernel.body, &mut |reg, op| {
        let i = reg.0 as usize;
        if assignments[i] == 1 && kernel.regs[i] == Ty::B64 {
            bounds[i] = bound(op, &bounds);
        }
    });
    bounds
}

fn walk(body: &[Stmt], f: &mut impl FnMut(Reg, &Op)) {
    for stmt in body {
        match stmt {
            Stmt::Let(reg, op) => f(*reg, op),
            Stmt::For { body, .. } | Stmt::ParFor { body, .. } => walk(body, f),
            Stmt::If { then, otherwise, .. } => {
                walk(then, f);
                walk(otherwise, f);
            }
            Stmt::Store(..) | Stmt::StoreStrided(..) | Stmt::StoreScalar(..) | Stmt::Prefetch(..) => {}
            Stmt::TileZero(_) | Stmt::TileLoad(..) | Stmt::TileStore(..) | Stmt::TileDot { .. } => {}
        }
    }
}

fn bound(op: &Op, bounds: &[u8]) -> u8 {
    let of = |reg: &Reg| bounds[reg.0 as usize];
    match op {
        Op::SplatByte(byte) => *byte,
        Op::Copy(a) => of(a),
        Op::Bin(Bin::And, a, b) => of(a).min(of(b)),
        // No bit above the highest of either side.
        Op::Bin(Bin::Or, a, b) => u8::MAX.checked_shr((of(a) | of(b)).leading_zeros()).unwrap_or(0),
        Op::Shift(Shift::RightLogical, a, bits) => of(a) >> bits,
        Op::Shift(Shift::Left, a, bits) => u8::try_from(u32::from(of(a)) << bits).unwrap_or(255),
        _ => 255,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ir::kernel::{Addr, Base, Param, ParamKind};

    #[test]
    fn follows_masks_shifts_and_unions() {
        let load = Op::LoadBytes(Addr { base: Base::Param(0), index: None, offset: 0 });
        let lets = [
            load.clone(),
            Op::SplatByte(0x0F),
            Op::Bin(Bin::And, Reg(0), Reg(1)),
            Op::Shift(Shift::RightLogical, Reg(0), 4),
            Op::SplatByte(0x10),
            Op::Bin(Bin::Or, Reg(2), Reg(4)),
            Op::Shift(Shift::Left, Reg(2), 2),
            Op::Shift(Shift::Left, Reg(0), 1),
            Op::SplatByte(0),
            Op::Bin(Bin::Or, Reg(8), Reg(8)),
        ];
        let kernel = Kernel {
            name: "k".into(),
            params: vec![Param { name: "w".into(), kind: ParamKind::Read }],
            locals: vec![],
            regs: vec![Ty::B64; lets.len()],
            body: lets.into_iter().enumerate().map(|(i, op)| Stmt::Let(Reg(i as u32), op)).collect(),
        };
        let mut counts = assignments(&kernel);
        assert_eq!(bounds(&kernel, &counts), [255, 15, 15, 15, 16, 31, 60, 255, 0, 0]);
        counts[1] = 2;
        assert_eq!(bounds(&kernel, &counts)[2], 255);
    }
}
