//! GGUF files: takes a path, returns checked metadata, the tensor table and tensor bytes.
//!
//! Versions 2 and 3, little endian. The file is untrusted: every count is bounded by the bytes that remain before
//! anything is allocated, every size goes through one checked function, and the data section must be exactly the tensors
//! in order, each aligned, nothing between and nothing after. It does not read split models and does not convert data
//! (`quant`, `weights`).
//!
//! **The file is mapped and must not change while it is mapped**: a writer that shrinks it makes the next read fault
//! (SIGBUS). Replace model files by renaming a new file over them, which leaves a mapping intact.
//! [`Gguf::check_unchanged`] tells a changed file before it is trusted further; [`Gguf::from_bytes`] reads from memory.

mod error;
mod model;
mod value;

pub use error::{Fault, GgufError};
pub use value::{Array, Kind, MAX_NESTING, Value};

pub(crate) use error::printable;

use ir::model::Tensor;
use ir::tensor::DType;
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use value::Cursor;

/// Metadata entries a file may have. Real files have tens.
pub const MAX_METADATA: u64 = 1 << 16;
/// Tensors a file may have. Real files have hundreds to thousands.
pub const MAX_TENSORS: u64 = 1 << 16;
/// Bytes of a metadata key (the specification's limit).
pub const MAX_KEY: usize = 65_535;
/// Bytes of a tensor name (the specification's limit).
pub const MAX_NAME: usize = 64;
/// Dimensions of a tensor. None is a scalar of one element.
pub const MAX_DIMS: u32 = 4;
/// Largest `general.alignment`.
pub const MAX_ALIGNMENT: u64 = 1 << 20;

/// Where the bytes are.
enum Bytes {
    Mapped { map: memmap2::Mmap, file: File, modified: Option<SystemTime> },
    Owned(Vec<u8>),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Mapped { map, .. } => map,
            Self::Owned(v) => v,
        }
    }
}

/// Where a metadata value is.
struct Entry {
    key: String,
    kind: Kind,
    at: usize,
}

/// Where a tensor's data is, absolute in the file.
struct Extent {
    start: usize,
    len: usize,
}

/// An opened and checked GGUF file.
pub struct Gguf {
    path: PathBuf,
    bytes: Bytes,
    version: u32,
    entries: Vec<Entry>,
    keys: HashMap<String, usize>,
    tensors: Vec<Tensor>,
    extents: Vec<Extent>,
    names: HashMap<String, usize>,
    data_start: usize,
}

impl std::fmt::Debug for Gguf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Gguf({}, {} keys, {} tensors)", self.path.display(), self.entries.len(), self.tensors.len())
    }
}

/// Header and tables as parsed, before the bytes move in beside them.
struct Parsed {
    version: u32,
    entries: Vec<Entry>,
    keys: HashMap<String, usize>,
    tensors: Vec<Tensor>,
    extents: Vec<Extent>,
    names: HashMap<String, usize>,
    data_start: usize,
}

/// A fault and where it is.
type Placed<T> = Result<T, (String, Fault)>;

/// The one size function: bytes of a tensor, and bytes to the next one.
fn size(dtype: DType, dims: &[u64], alignment: u64) -> Option<(u64, u64)> {
    let row = dims.first().copied().unwrap_or(1);
    dtype.bytes(row)?;
    let elements = dims.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
    let bytes = dtype.bytes(elements)?;
    Some((bytes, bytes.checked_next_multiple_of(alignment)?))
}

/// Names of the types that exist but are not read here.
fn foreign_type(code: u32) -> &'static str {
    match code {
        4 => "Q4_2 (removed)",
        5 => "Q4_3 (removed)",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => "unknown",
    }
}

impl Gguf {
    /// Opens and checks a file.
    ///
    /// A symbolic link is followed; what it leads to must be a regular file.
    ///
    /// # Errors
    /// [`GgufError`] with the place and cause for anything that is not a whole, consistent GGUF file.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let fail = |fault| GgufError { file: path.to_path_buf(), place: "file".to_owned(), fault };
        let io = |e: std::io::Error| fail(Fault::Io(e.to_string()));
        // Non-blocking so that a pipe without a writer answers instead of waiting; no effect on regular files.
        let file = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)
            .map_err(io)?;
        let meta = file.metadata().map_err(io)?;
        if !meta.is_file() {
            return Err(fail(Fault::NotRegular));
        }
        if meta.len() < 24 {
            return Err(fail(Fault::Truncated { len: meta.len(), need: 24, left: meta.len() }));
        }
        #[allow(unsafe_code, reason = "mapping a file; the module's contract asks that it does not change meanwhile")]
        // SAFETY: read-only private mapping of a regular file; immutability while mapped is the documented contract.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(io)?;
        Self::build(path, Bytes::Mapped { map, file, modified: meta.modified().ok() })
    }

    /// Checks a file held in memory; `name` stands for its path in messages.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self, GgufError> {
        Self::build(Path::new(name), Bytes::Owned(bytes))
    }

    fn build(path: &Path, bytes: Bytes) -> Result<Self, GgufError> {
        let p =
            parse(bytes.as_slice()).map_err(|(place, fault)| GgufError { file: path.to_path_buf(), place, fault })?;
        let Parsed { version, entries, keys, tensors, extents, names, data_start } = p;
        Ok(Self { path: path.to_path_buf(), bytes, version, entries, keys, tensors, extents, names, data_start })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// GGUF version: 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Bytes of the file.
    #[must_use]
    pub fn file_bytes(&self) -> usize {
        self.bytes.as_slice().len()
    }

    /// The tensor table in file order.
    #[must_use]
    pub fn tensors(&self) -> &[Tensor] {
        &self.tensors
    }

    /// A tensor of the table.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.names.get(name).map(|i| &self.tensors[*i])
    }

    /// A tensor's bytes as stored: rows of `shape[0]` elements in blocks of its type.
    #[must_use]
    pub fn tensor_data(&self, name: &str) -> Option<&[u8]> {
        let e = &self.extents[*self.names.get(name)?];
        Some(&self.bytes.as_slice()[e.start..e.start + e.len])
    }

    /// Metadata keys in file order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|e| e.key.as_str())
    }

    /// A metadata value.
    ///
    /// # Errors
    /// When it is text that is not UTF-8.
    pub fn get(&self, key: &str) -> Result<Option<Value<'_>>, GgufError> {
        let Some(i) = self.keys.get(key) else { return Ok(None) };
        let e = &self.entries[*i];
        Cursor::new(self.bytes.as_slice(), e.at).value(e.kind).map(Some).map_err(|f| self.key_error(key, f))
    }

    /// An error at a key of this file.
    pub(crate) fn key_error(&self, key: &str, fault: Fault) -> GgufError {
        GgufError { file: self.path.clone(), place: format!("key `{}`", printable(key)), fault }
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        pick: impl Fn(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(v) = self.get(key)? else { return Ok(None) };
        pick(&v).map(Some).ok_or_else(|| self.key_error(key, Fault::Type { expected, found: v.type_name() }))
    }

    /// A non-negative integer below 2³², of any integer type.
    ///
    /// # Errors
    /// When the key holds anything else.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, GgufError> {
        self.typed(key, "an integer from 0 to 4294967295", |v| v.as_u64().and_then(|n| u32::try_from(n).ok()))
    }

    /// A float of either width, as single precision.
    ///
    /// # Errors
    /// When the key holds anything else.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, GgufError> {
        #[allow(clippy::cast_possible_truncation, reason = "rounding to single precision is the meaning")]
        self.typed(key, "a FLOAT32", |v| if let Value::Float(f, _) = v { Some(*f as f32) } else { None })
    }

    /// A boolean.
    ///
    /// # Errors
    /// When the key holds anything else.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a BOOL", |v| if let Value::Bool(b) = v { Some(*b) } else { None })
    }

    /// Text.
    ///
    /// # Errors
    /// When the key holds anything else or no UTF-8.
    pub fn str(&self, key: &str) -> Result<Option<&str>, GgufError> {
        self.typed(key, "a STRING", |v| if let Value::Str(s) = v { Some(*s) } else { None })
    }

    /// An array; its elements are read by the methods of [`Array`].
    ///
    /// # Errors
    /// When the key holds a scalar.
    pub fn array(&self, key: &str) -> Result<Option<Array<'_>>, GgufError> {
        self.typed(key, "an ARRAY", |v| if let Value::Array(a) = v { Some(*a) } else { None })
    }

    /// Whether the mapped file still has the length and modification time it was opened with.
    ///
    /// # Errors
    /// [`Fault::Changed`], or what the operating system says.
    pub fn check_unchanged(&self) -> Result<(), GgufError> {
        let Bytes::Mapped { map, file, modified } = &self.bytes else { return Ok(()) };
        let fail = |fault| GgufError { file: self.path.clone(), place: "file".to_owned(), fault };
        let meta = file.metadata().map_err(|e| fail(Fault::Io(e.to_string())))?;
        if meta.len() != map.len() as u64 || meta.modified().ok() != *modified {
            return Err(fail(Fault::Changed));
        }
        Ok(())
    }

    /// Asks the system to read the tensor data ahead. A hint: failure is no error.
    pub fn read_ahead(&self) {
        if let Bytes::Mapped { map, .. } = &self.bytes {
            // A refused hint changes speed only.
            let _ = map.advise_range(memmap2::Advice::WillNeed, self.data_start, map.len() - self.data_start);
        }
    }

    /// Gives the resident pages of the mapping back, for after the weights were repacked. Later reads fault them in again.
    pub fn release_pages(&self) {
        if let Bytes::Mapped { map, .. } = &self.bytes {
            #[allow(unsafe_code, reason = "MADV_DONTNEED has no safe wrapper")]
            // SAFETY: the mapping is read-only and file-backed: dropped pages come back with the same bytes.
            let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
        }
    }

    /// Bytes of header, metadata and tensor table.
    fn header(&self) -> &[u8] {
        &self.bytes.as_slice()[..self.data_start.min(self.bytes.as_slice().len())]
    }
}

fn parse(bytes: &[u8]) -> Placed<Parsed> {
    let mut c = Cursor::new(bytes, 0);
    let (version, tensor_count, kv_count) = header(&mut c)?;
    let (entries, keys) = metadata(&mut c, kv_count)?;
    let find = |key: &str| -> Placed<Option<Value<'_>>> {
        let Some(i) = keys.get(key) else { return Ok(None) };
        let e: &Entry = &entries[*i];
        Cursor::new(bytes, e.at).value(e.kind).map(Some).map_err(|f| (format!("key `{key}`"), f))
    };
    if let Some(v) = find("split.count")? {
        // One part is a whole model; a value of the wrong type is no reason to guess.
        match v.as_u64() {
            Some(0 | 1) => {}
            Some(n) => return Err(("key `split.count`".to_owned(), Fault::Split(n))),
            None => {
                return Err((
                    "key `split.count`".to_owned(),
                    Fault::Type { expected: "an integer", found: v.type_name() },
                ));
            }
        }
    }
    let alignment = match find("general.alignment")? {
        None => 32,
        Some(Value::Unsigned(a, Kind::U32)) if a.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(&a) => a,
        Some(v) => {
            let found = v.as_u64().map_or_else(|| v.type_name(), |n| format!("{} {n}", v.type_name()));
            let expected = "a UINT32 power of two from 8 to 1048576";
            return Err(("key `general.alignment`".to_owned(), Fault::Type { expected, found }));
        }
    };
    let (tensors, offsets, names) = tensor_table(&mut c, tensor_count)?;
    let (extents, data_start) = layout(bytes.len(), c.at(), alignment, &tensors, &offsets)?;
    Ok(Parsed { version, entries, keys, tensors, extents, names, data_start })
}

/// Magic, version and counts.
fn header(c: &mut Cursor<'_>) -> Placed<(u32, u64, u64)> {
    let at = |at: usize| move |f| (format!("byte {at}"), f);
    let magic: [u8; 4] = c.take(4).map_err(at(0))?.try_into().expect("four bytes were taken");
    if magic != *b"GGUF" {
        return Err(("byte 0".to_owned(), Fault::Magic(magic)));
    }
    let version = c.u32().map_err(at(4))?;
    match version {
        2 | 3 => {}
        // A small number in the other byte order, as llama.cpp tells it.
        v if v & 0xffff == 0 && v != 0 => return Err(("byte 4".to_owned(), Fault::BigEndian(v.swap_bytes()))),
        v => return Err(("byte 4".to_owned(), Fault::Version(v))),
    }
    let tensors = c.u64().map_err(at(8))?;
    let entries = c.u64().map_err(at(16))?;
    // The smallest entry has a length, a type and a byte; the smallest tensor a length, counts, a type and an offset.
    for (place, what, count, cap, least) in
        [(16, "metadata entries", entries, MAX_METADATA, 13), (8, "tensors", tensors, MAX_TENSORS, 24)]
    {
        c.room(count, least).map_err(at(place))?;
        if count > cap {
            return Err((format!("byte {place}"), Fault::TooMany { what, count, cap }));
        }
    }
    Ok((version, tensors, entries))
}

/// A name: not empty, at most `max` bytes, UTF-8, no control characters.
fn name<'a>(c: &mut Cursor<'a>, max: usize) -> Placed<&'a str> {
    let at = c.at();
    let bytes = c.string().map_err(|f| (format!("byte {at}"), f))?;
    let fail = |what| Err((format!("byte {at}"), Fault::Name(what)));
    if bytes.is_empty() {
        return fail("empty");
    }
    if bytes.len() > max {
        return fail("too long");
    }
    match std::str::from_utf8(bytes) {
        Err(_) => fail("not UTF-8"),
        Ok(s) if s.chars().any(char::is_control) => fail("control characters"),
        Ok(s) => Ok(s),
    }
}

fn metadata(c: &mut Cursor<'_>, count: u64) -> Placed<(Vec<Entry>, HashMap<String, usize>)> {
    let mut entries = Vec::new();
    let mut keys = HashMap::new();
    for _ in 0..count {
        let key = name(c, MAX_KEY)?;
        let here = |f| (format!("key `{}` at byte {}", printable(key), c.at()), f);
        let mut value = *c;
        let kind = value.kind().map_err(here)?;
        let at = value.at();
        value.skip_value(kind, 0).map_err(here)?;
        if keys.insert(key.to_owned(), entries.len()).is_some() {
            return Err((format!("key `{}`", printable(key)), Fault::Duplicate));
        }
        entries.push(Entry { key: key.to_owned(), kind, at });
        *c = value;
    }
    Ok((entries, keys))
}

type Table = (Vec<Tensor>, Vec<u64>, HashMap<String, usize>);

fn tensor_table(c: &mut Cursor<'_>, count: u64) -> Placed<Table> {
    let (mut tensors, mut offsets, mut names) = (Vec::new(), Vec::new(), HashMap::new());
    for _ in 0..count {
        let name = name(c, MAX_NAME)?;
        let here = |f| (format!("tensor `{}`", printable(name)), f);
        let dims = c.u32().map_err(here)?;
        if dims > MAX_DIMS {
            let (count, cap) = (u64::from(dims), u64::from(MAX_DIMS));
            return Err(here(Fault::TooMany { what: "dimensions", count, cap }));
        }
        let shape = (0..dims).map(|_| c.u64()).collect::<Result<Vec<_>, _>>().map_err(here)?;
        let code = c.u32().map_err(here)?;
        let dtype = DType::from_ggml(code).ok_or_else(|| here(Fault::DType { name: foreign_type(code), code }))?;
        offsets.push(c.u64().map_err(here)?);
        if names.insert(name.to_owned(), tensors.len()).is_some() {
            return Err(here(Fault::Duplicate));
        }
        tensors.push(Tensor { name: name.to_owned(), dtype, shape });
    }
    Ok((tensors, offsets, names))
}

/// Checks that the data section is the tensors in order, aligned and without gaps, and nothing else.
fn layout(
    len: usize,
    table_end: usize,
    alignment: u64,
    tensors: &[Tensor],
    offsets: &[u64],
) -> Placed<(Vec<Extent>, usize)> {
    let len = len as u64;
    let start = (table_end as u64).checked_next_multiple_of(alignment).expect("a file's length is below 2^63");
    let mut extents = Vec::new();
    let (mut expected, mut end) = (0u64, table_end as u64);
    for (t, &found) in tensors.iter().zip(offsets) {
        let fail = |f| (format!("tensor `{}`", printable(&t.name)), f);
        let wrong = || Fault::Size { dims: t.shape.clone(), dtype: t.dtype.name(), block: t.dtype.block() };
        let (bytes, padded) = size(t.dtype, &t.shape, alignment).ok_or_else(|| fail(wrong()))?;
        if found != expected {
            return Err(fail(Fault::Offset { expected, found }));
        }
        let at = start.checked_add(found).ok_or_else(|| fail(wrong()))?;
        end = at.checked_add(bytes).ok_or_else(|| fail(wrong()))?;
        if end > len {
            return Err(fail(Fault::Truncated { len, need: bytes, left: len.saturating_sub(at) }));
        }
        let fits = "below the file's length";
        extents.push(Extent { start: usize::try_from(at).expect(fits), len: usize::try_from(bytes).expect(fits) });
        expected = expected.checked_add(padded).ok_or_else(|| fail(wrong()))?;
    }
    // Writers pad the last tensor too; anything beyond that belongs to no tensor.
    let padded_end = end.checked_next_multiple_of(alignment).unwrap_or(u64::MAX);
    if len > padded_end {
        return Err((format!("byte {padded_end}"), Fault::Trailing(len - padded_end)));
    }
    Ok((extents, usize::try_from(start).expect("a file's length fits the address space")))
}
