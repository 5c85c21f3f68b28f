//! Metadata values of a GGUF file, read in place.
//!
//! Takes the file's bytes, returns borrowed values. Structure (types, lengths, nesting) is checked once when the file is
//! opened; text is checked to be UTF-8 when it is read. Nothing here allocates in proportion to the file.

use super::error::Fault;

/// Deepest nesting of arrays.
pub const MAX_NESTING: u32 = 4;

/// A metadata value type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Unsigned 8 bits.
    U8,
    /// Signed 8 bits.
    I8,
    /// Unsigned 16 bits.
    U16,
    /// Signed 16 bits.
    I16,
    /// Unsigned 32 bits.
    U32,
    /// Signed 32 bits.
    I32,
    /// Single precision.
    F32,
    /// One byte, 0 or 1.
    Bool,
    /// Length and UTF-8 bytes.
    Str,
    /// Element type, count, elements.
    Array,
    /// Unsigned 64 bits.
    U64,
    /// Signed 64 bits.
    I64,
    /// Double precision.
    F64,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Str,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    fn from_code(code: u32) -> Result<Self, Fault> {
        usize::try_from(code).ok().and_then(|i| Self::ALL.get(i)).copied().ok_or(Fault::ValueType(code))
    }

    /// The specification's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "UINT8",
            Self::I8 => "INT8",
            Self::U16 => "UINT16",
            Self::I16 => "INT16",
            Self::U32 => "UINT32",
            Self::I32 => "INT32",
            Self::F32 => "FLOAT32",
            Self::Bool => "BOOL",
            Self::Str => "STRING",
            Self::Array => "ARRAY",
            Self::U64 => "UINT64",
            Self::I64 => "INT64",
            Self::F64 => "FLOAT64",
        }
    }

    /// Bytes of a scalar; of strings and arrays the smallest they can be.
    fn least_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Str => 8,
            Self::Array => 12,
        }
    }
}

/// A reading position in the file. Every read is bounded by the bytes that remain.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at: at.min(bytes.len()) }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The one bound of this reader: `count` things of at least `least` bytes each must fit in what is left.
    pub(super) fn room(&self, count: u64, least: u64) -> Result<usize, Fault> {
        let left = (self.bytes.len() - self.at) as u64;
        match count.checked_mul(least) {
            Some(need) if need <= left => Ok(usize::try_from(need).expect("no more than the file's length")),
            need => Err(Fault::Truncated { len: self.bytes.len() as u64, need: need.unwrap_or(u64::MAX), left }),
        }
    }

    pub(super) fn take(&mut self, count: u64) -> Result<&'a [u8], Fault> {
        let n = self.room(count, 1)?;
        let taken = &self.bytes[self.at..self.at + n];
        self.at += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        Ok(self.take(N as u64)?.try_into().expect("as many bytes as were taken"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, Fault> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Fault> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A length and that many bytes.
    pub(super) fn string(&mut self) -> Result<&'a [u8], Fault> {
        let n = self.u64()?;
        self.take(n)
    }

    /// Walks over one value and checks its structure.
    pub(super) fn skip_value(&mut self, kind: Kind, depth: u32) -> Result<(), Fault> {
        match kind {
            Kind::Bool => match self.take(1)? {
                [0 | 1] => Ok(()),
                bytes => Err(Fault::Bool(bytes.first().copied().unwrap_or_default())),
            },
            Kind::Str => self.string().map(|_| ()),
            Kind::Array => {
                if depth >= MAX_NESTING {
                    return Err(Fault::TooMany {
                        what: "levels of nested arrays",
                        count: u64::from(depth) + 1,
                        cap: u64::from(MAX_NESTING),
                    });
                }
                let element = self.kind()?;
                let count = self.u64()?;
                self.room(count, element.least_bytes())?;
                match element {
                    Kind::Bool | Kind::Str | Kind::Array => {
                        (0..count).try_for_each(|_| self.skip_value(element, depth + 1))
                    }
                    _ => self.take(count * element.least_bytes()).map(|_| ()),
                }
            }
            scalar => self.take(scalar.least_bytes()).map(|_| ()),
        }
    }

    pub(super) fn kind(&mut self) -> Result<Kind, Fault> {
        Kind::from_code(self.u32()?)
    }

    /// Reads one value that [`Self::skip_value`] accepted.
    pub(super) fn value(&mut self, kind: Kind) -> Result<Value<'a>, Fault> {
        Ok(match kind {
            Kind::U8 => Value::Unsigned(u64::from(u8::from_le_bytes(self.array()?)), kind),
            Kind::U16 => Value::Unsigned(u64::from(u16::from_le_bytes(self.array()?)), kind),
            Kind::U32 => Value::Unsigned(u64::from(self.u32()?), kind),
            Kind::U64 => Value::Unsigned(self.u64()?, kind),
            Kind::I8 => Value::Signed(i64::from(i8::from_le_bytes(self.array()?)), kind),
            Kind::I16 => Value::Signed(i64::from(i16::from_le_bytes(self.array()?)), kind),
            Kind::I32 => Value::Signed(i64::from(i32::from_le_bytes(self.array()?)), kind),
            Kind::I64 => Value::Signed(i64::from_le_bytes(self.array()?), kind),
            Kind::F32 => Value::Float(f64::from(f32::from_le_bytes(self.array()?)), kind),
            Kind::F64 => Value::Float(f64::from_le_bytes(self.array()?), kind),
            Kind::Bool => Value::Bool(self.take(1)? != [0]),
            Kind::Str => Value::Str(utf8(self.string()?)?),
            Kind::Array => {
                let kind = self.kind()?;
                let len = self.u64()?;
                let len = self.room(len, kind.least_bytes()).map(|_| len)?;
                Value::Array(Array {
                    kind,
                    len: usize::try_from(len).expect("no more than the file's length"),
                    cursor: *self,
                })
            }
        })
    }
}

fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| Fault::Name("text that is not UTF-8"))
}

/// A metadata value.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// UINT8 to UINT64.
    Unsigned(u64, Kind),
    /// INT8 to INT64.
    Signed(i64, Kind),
    /// FLOAT32 and FLOAT64.
    Float(f64, Kind),
    /// BOOL.
    Bool(bool),
    /// STRING.
    Str(&'a str),
    /// ARRAY.
    Array(Array<'a>),
}

impl<'a> Value<'a> {
    /// Its type, in the specification's words.
    #[must_use]
    pub fn type_name(&self) -> String {
        match self {
            Self::Unsigned(_, k) | Self::Signed(_, k) | Self::Float(_, k) => k.name().to_owned(),
            Self::Bool(_) => Kind::Bool.name().to_owned(),
            Self::Str(_) => Kind::Str.name().to_owned(),
            Self::Array(a) => format!("ARRAY of {} {}", a.len, a.kind.name()),
        }
    }

    /// A non-negative integer of any width.
    #[must_use]
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(v, _) => Some(*v),
            Self::Signed(v, _) => u64::try_from(*v).ok(),
            Self::Float(..) | Self::Bool(_) | Self::Str(_) | Self::Array(_) => None,
        }
    }
}

/// An array in the file: a type, a count, and where its elements begin.
#[derive(Clone, Copy)]
pub struct Array<'a> {
    kind: Kind,
    len: usize,
    cursor: Cursor<'a>,
}

impl std::fmt::Debug for Array<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "[{}; {}]", self.kind.name(), self.len)
    }
}

impl<'a> Array<'a> {
    /// Element type.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Number of elements.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "an empty array is no special case to any caller")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Strings in order; an element that is not UTF-8 ends the iteration with an error.
    ///
    /// # Errors
    /// When the elements are not strings.
    pub fn strings(&self) -> Result<impl Iterator<Item = Result<&'a str, Fault>> + use<'a>, Fault> {
        self.expect(Kind::Str, "an ARRAY of STRING")?;
        let mut cursor = self.cursor;
        Ok((0..self.len).map(move |_| cursor.string().and_then(utf8)))
    }

    /// Elements of an array of FLOAT32.
    ///
    /// # Errors
    /// When the elements are of another type.
    pub fn f32s(&self) -> Result<Vec<f32>, Fault> {
        Ok(self.words(Kind::F32, "an ARRAY of FLOAT32")?.map(f32::from_le_bytes).collect())
    }

    /// Elements of an array of INT32.
    ///
    /// # Errors
    /// When the elements are of another type.
    pub fn i32s(&self) -> Result<Vec<i32>, Fault> {
        Ok(self.words(Kind::I32, "an ARRAY of INT32")?.map(i32::from_le_bytes).collect())
    }

    fn words(&self, kind: Kind, expected: &'static str) -> Result<impl Iterator<Item = [u8; 4]> + use<'a>, Fault> {
        self.expect(kind, expected)?;
        let mut cursor = self.cursor;
        let bytes = cursor.take(self.len as u64 * 4)?;
        Ok(bytes.chunks_exact(4).map(|c| c.try_into().expect("chunks of four")))
    }

    fn expect(&self, kind: Kind, expected: &'static str) -> Result<(), Fault> {
        if self.kind == kind {
            return Ok(());
        }
        Err(Fault::Type { expected, found: Value::Array(*self).type_name() })
    }
}
