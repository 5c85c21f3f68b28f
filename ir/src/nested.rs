//! Values that contain values of their own kind are decoded by recursion: how deep, is counted here, so that bytes from
//! outside cannot use up the stack of whoever decodes, walks or drops them.

use std::cell::Cell;

/// Regions, types and statements inside each other. Programs that the checker accepts stay below: it takes expressions some
/// 280 deep and types of 512 parts.
pub const MOST_LEVELS: u32 = 1024;

thread_local! {
    static LEVELS: Cell<u32> = const { Cell::new(0) };
}

/// One level, for as long as it lives.
pub(crate) struct Level(());

impl Level {
    /// One level further in, or why not.
    pub(crate) fn enter<E: serde::de::Error>() -> Result<Self, E> {
        LEVELS.with(|levels| {
            if levels.get() == MOST_LEVELS {
                return Err(E::custom(format_args!("nested more than {MOST_LEVELS} levels deep")));
            }
            levels.set(levels.get() + 1);
            Ok(Self(()))
        })
    }
}

impl Drop for Level {
    fn drop(&mut self) {
        LEVELS.with(|levels| levels.set(levels.get() - 1));
    }
}

/// Serde's traits for types that are derived with `#[serde(remote = "Self")]`: as derived, with levels counted.
macro_rules! counted {
    ($($ty:ty),*) => {$(
        impl serde::Serialize for $ty {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                <$ty>::serialize(self, serializer)
            }
        }

        impl<'de> serde::Deserialize<'de> for $ty {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let _level = crate::nested::Level::enter::<D::Error>()?;
                <$ty>::deserialize(deserializer)
            }
        }
    )*};
}
pub(crate) use counted;

#[cfg(test)]
mod tests {
    use super::MOST_LEVELS;
    use crate::kernel::{Reg, Stmt};
    use crate::strategy::{Bind, Op, Region, Ty};

    /// Bytes that decode to `levels` of something inside each other: `open` for each level, then `rest` and `close`.
    fn bytes(levels: u32, open: &[u8], rest: &[u8], close: &[u8]) -> Vec<u8> {
        let levels = levels as usize;
        [open.repeat(levels), rest.to_vec(), close.repeat(levels)].concat()
    }

    /// What `outer` encodes before and behind what `inner` encodes.
    fn around<T: serde::Serialize>(outer: &T, inner: &T) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
        let pack = |x: &T| postcard::to_stdvec(x).expect("plain data");
        let (outer, inner) = (pack(outer), pack(inner));
        let at = outer.windows(inner.len()).position(|w| w == inner).expect("the inner is in the outer");
        (outer[..at].to_vec(), inner.clone(), outer[at + inner.len()..].to_vec())
    }

    fn ends<T: serde::Serialize + serde::de::DeserializeOwned>(outer: &T, inner: &T) {
        let (open, rest, close) = around(outer, inner);
        let decode = |levels| postcard::from_bytes::<T>(&bytes(levels, &open, &rest, &close)).map(drop);
        decode(MOST_LEVELS / 4).expect("as deep as programs are");
        decode(MOST_LEVELS + 1).expect_err("too deep");
        decode(2_000_000).expect_err("far too deep");
        decode(MOST_LEVELS / 4).expect("levels are given back after an error");
    }

    /// On a stack that unoptimised decoders have room on, as whoever reads files gives them.
    #[test]
    fn depth_ends_before_the_stack() {
        std::thread::Builder::new().stack_size(64 << 20).spawn(depths).expect("a thread").join().expect("no panic");
    }

    fn depths() {
        let leaf = Region { params: Vec::new(), binds: Vec::new(), result: None };
        let bind = |op| Bind { var: crate::strategy::Var(7), op, at: (0, 0) };
        let outer = Region { params: Vec::new(), binds: vec![bind(Op::Lambda(leaf.clone()))], result: None };
        ends(&outer, &leaf);
        ends(&Ty::Vote(Box::new(Ty::Never)), &Ty::Never);
        let leaf = Stmt::If { cond: Reg(77), then: Vec::new(), otherwise: Vec::new() };
        let outer = Stmt::If { cond: Reg(3), then: vec![leaf.clone()], otherwise: Vec::new() };
        ends(&outer, &leaf);
    }
}
