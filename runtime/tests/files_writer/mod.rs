//! Writes GGUF files for tests: valid ones, and lies where a test asks for them.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its own part of the writer")]

use ir::tensor::DType;

/// GGUF's number of a type.
pub fn ggml_code(dtype: DType) -> u32 {
    (0..64).find(|c| DType::from_ggml(*c) == Some(dtype)).expect("every type has a number")
}

/// A tensor-table entry and its data.
pub struct Entry {
    pub name: Vec<u8>,
    pub dims: Vec<u64>,
    pub code: u32,
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

/// A GGUF file in the making.
pub struct Writer {
    pub version: u32,
    pub alignment: usize,
    pub kv: Vec<Vec<u8>>,
    pub tensors: Vec<Entry>,
}

pub fn string(s: &[u8]) -> Vec<u8> {
    [&(s.len() as u64).to_le_bytes()[..], s].concat()
}

/// A metadata array of strings.
pub fn strings(all: &[&str]) -> Vec<u8> {
    let mut v = [&8u32.to_le_bytes()[..], &(all.len() as u64).to_le_bytes()].concat();
    all.iter().for_each(|s| v.extend(string(s.as_bytes())));
    v
}

impl Writer {
    pub fn new() -> Self {
        Self { version: 3, alignment: 32, kv: Vec::new(), tensors: Vec::new() }
    }

    /// A metadata entry: type number and raw value.
    pub fn raw(mut self, key: &[u8], kind: u32, value: &[u8]) -> Self {
        self.kv.push([&string(key)[..], &kind.to_le_bytes(), value].concat());
        self
    }

    pub fn u32(self, key: &str, v: u32) -> Self {
        self.raw(key.as_bytes(), 4, &v.to_le_bytes())
    }

    pub fn f32(self, key: &str, v: f32) -> Self {
        self.raw(key.as_bytes(), 6, &v.to_le_bytes())
    }

    pub fn bool(self, key: &str, v: bool) -> Self {
        self.raw(key.as_bytes(), 7, &[u8::from(v)])
    }

    pub fn str(self, key: &str, v: &str) -> Self {
        self.raw(key.as_bytes(), 8, &string(v.as_bytes()))
    }

    pub fn strings(self, key: &str, v: &[&str]) -> Self {
        self.raw(key.as_bytes(), 9, &strings(v))
    }

    /// An array of words: element type number and values.
    pub fn words(self, key: &str, kind: u32, v: impl IntoIterator<Item = [u8; 4]>) -> Self {
        let v: Vec<[u8; 4]> = v.into_iter().collect();
        let value = [&kind.to_le_bytes()[..], &(v.len() as u64).to_le_bytes(), &v.concat()].concat();
        self.raw(key.as_bytes(), 9, &value)
    }

    pub fn tensor(mut self, name: &str, dims: &[u64], code: u32, data: &[u8]) -> Self {
        let (name, dims, data) = (name.as_bytes().to_vec(), dims.to_vec(), data.to_vec());
        self.tensors.push(Entry { name, dims, code, offset: None, data });
        self
    }

    /// A tensor of zeros with the right number of bytes.
    pub fn zeros(self, name: &str, dims: &[u64], dtype: DType) -> Self {
        let bytes = dtype.bytes(dims.iter().product()).expect("whole blocks");
        self.tensor(name, dims, ggml_code(dtype), &vec![0; bytes as usize])
    }

    pub fn build(self) -> Vec<u8> {
        let counts = (self.tensors.len() as u64, self.kv.len() as u64);
        self.build_with(counts.0, counts.1)
    }

    /// The file with whatever counts in its header.
    pub fn build_with(self, tensors: u64, entries: u64) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend(tensors.to_le_bytes());
        out.extend(entries.to_le_bytes());
        self.kv.iter().for_each(|kv| out.extend(kv));
        let (mut offset, align) = (0u64, self.alignment);
        for t in &self.tensors {
            out.extend(string(&t.name));
            out.extend((t.dims.len() as u32).to_le_bytes());
            t.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(t.code.to_le_bytes());
            out.extend(t.offset.unwrap_or(offset).to_le_bytes());
            offset += t.data.len().next_multiple_of(align) as u64;
        }
        for t in &self.tensors {
            out.resize(out.len().next_multiple_of(align), 0);
            out.extend(&t.data);
        }
        out
    }
}
