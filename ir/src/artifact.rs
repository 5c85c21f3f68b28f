//! Artifact: a plan, its forward programs and their machine code as one checksummed container of bytes.
//!
//! Layout, little endian: magic `INFERPLN`, format version u32, number of sections u32, then per section a 16-byte
//! name (zero padded), offset u64, length u64 and the BLAKE3 hash (32 bytes) of its bytes; then the BLAKE3 hash of all
//! bytes so far; then the sections without gaps. Sections: `manifest` (who made it, for what), `plan`, `programs`,
//! `code`. Weights are never inside.
//!
//! A version, a CPU, a model that does not fit is a clean error naming the first difference. A file that was tampered
//! with *and* re-hashed is not detected: treat a plan like an executable.

use crate::code::Code;
use crate::plan::Plan;
use crate::program::Program;
use crate::rule::TokenRule;
use crate::target::Isa;
use serde::{Deserialize, Serialize};
use std::fmt;

const MAGIC: &[u8; 8] = b"INFERPLN";
/// Version of the container and of everything inside.
pub const FORMAT: u32 = 5;
const ENTRY: usize = 16 + 8 + 8 + 32;
const HEADER: usize = 8 + 4 + 4;
const SECTIONS: [&str; 4] = ["manifest", "plan", "programs", "code"];

/// Who made the artifact and what it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Compiler version.
    pub compiler: String,
    /// Back end that made the code.
    pub backend: String,
    /// CPU features the code uses.
    pub isa: Isa,
    /// Threads the plan was made for.
    pub threads: u32,
    /// Name of the strategy.
    pub strategy: String,
    /// Hash of the source text (hex).
    pub source_hash: String,
    /// Per local model: role, path as given, identity hash.
    pub models: Vec<(String, String, String)>,
}

/// Everything needed to run a strategy, except weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Artifact {
    /// Who and for what.
    pub manifest: Manifest,
    /// The plan.
    pub plan: Plan,
    /// Forward programs, one per role (`None` for roles that are no local model).
    pub programs: Vec<Option<Program>>,
    /// Compiled token rules.
    pub rules: Vec<TokenRule>,
    /// Machine code of the kernels of each role's program; empty where there is no program.
    pub code: Vec<Code>,
    /// Machine code of the token rules.
    pub rule_code: Code,
}

/// Why bytes are no artifact of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArtifactError {
    /// Not a plan at all.
    Magic,
    /// Another format version: found, ours.
    Version(u32, u32),
    /// Shorter than it says: section or `header`.
    Truncated(String),
    /// A checksum differs: section or `header`.
    Corrupt(String),
    /// Checksums hold but the content makes no sense: section and reason.
    Malformed(String, String),
}

impl fmt::Display for ArtifactError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Magic => f.write_str("not a compiled plan: it does not start with INFERPLN"),
            Self::Version(found, ours) => write!(
                f,
                "format version {found}, this inferc reads version {ours}: compile the source again with this inferc"
            ),
            Self::Truncated(what) => write!(f, "truncated: {what} is incomplete; compile the source again"),
            Self::Corrupt(what) => write!(f, "corrupt: the checksum of {what} differs; compile the source again"),
            Self::Malformed(what, why) => write!(f, "malformed {what}: {why}; compile the source again"),
        }
    }
}

impl std::error::Error for ArtifactError {}

impl Artifact {
    /// The container. Equal artifacts give equal bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let pack = |r: Result<Vec<u8>, postcard::Error>| r.expect("plain data always serialises");
        let sections = [
            pack(postcard::to_stdvec(&self.manifest)),
            pack(postcard::to_stdvec(&self.plan)),
            pack(postcard::to_stdvec(&(&self.programs, &self.rules))),
            pack(postcard::to_stdvec(&(&self.code, &self.rule_code))),
        ];
        let mut out = Vec::new();
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&(SECTIONS.len() as u32).to_le_bytes());
        let mut offset = (HEADER + ENTRY * SECTIONS.len() + 32) as u64;
        for (name, bytes) in SECTIONS.iter().zip(&sections) {
            let mut padded = [0u8; 16];
            padded[..name.len()].copy_from_slice(name.as_bytes());
            out.extend_from_slice(&padded);
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            out.extend_from_slice(blake3::hash(bytes).as_bytes());
            offset += bytes.len() as u64;
        }
        let header = blake3::hash(&out);
        out.extend_from_slice(header.as_bytes());
        for bytes in &sections {
            out.extend_from_slice(bytes);
        }
        out
    }

    /// Reads a container, checking every checksum.
    ///
    /// # Errors
    /// The first thing that is wrong, in the order magic, version, header, sections.
    pub fn decode(bytes: &[u8]) -> Result<Self, ArtifactError> {
        let sections = sections(bytes)?;
        let manifest = unpack("manifest", sections[0])?;
        let plan = unpack("plan", sections[1])?;
        let (programs, rules) = unpack("programs", sections[2])?;
        let (code, rule_code): (Vec<Code>, Code) = unpack("code", sections[3])?;
        for blob in code.iter().chain(std::iter::once(&rule_code)) {
            blob.check().map_err(|why| ArtifactError::Malformed("code".to_owned(), why))?;
        }
        let artifact = Self { manifest, plan, programs, rules, code, rule_code };
        artifact.check().map_err(|why| ArtifactError::Malformed("plan".to_owned(), why))?;
        Ok(artifact)
    }

    /// Cross-references between the sections.
    fn check(&self) -> Result<(), String> {
        let models = self.plan.models.len();
        if self.programs.len() != models || self.code.len() != models {
            return Err(format!("{} programs and {} codes for {models} models", self.programs.len(), self.code.len()));
        }
        for (role, (program, model)) in self.programs.iter().zip(&self.plan.models).enumerate() {
            if program.is_some() != model.is_some() {
                return Err(format!("role {role} has a program without a model or a model without a program"));
            }
            for kernel in program.iter().flat_map(|p| &p.kernels) {
                if self.code[role].offset(&kernel.name).is_none() {
                    return Err(format!("no code for kernel `{}` of role {role}", kernel.name));
                }
            }
        }
        for rule in &self.rules {
            if self.rule_code.offset(&rule.kernel).is_none() {
                return Err(format!("no code for rule `{}`", rule.kernel));
            }
        }
        if self.plan.sites.len() != self.plan.strategy.sites as usize {
            return Err(format!("{} site plans for {} sites", self.plan.sites.len(), self.plan.strategy.sites));
        }
        Ok(())
    }
}

/// Size and checksum-verified bytes of each section, by name; what `inspect` prints.
///
/// # Errors
/// As [`Artifact::decode`], without looking inside the sections.
pub fn section_sizes(bytes: &[u8]) -> Result<Vec<(&'static str, usize)>, ArtifactError> {
    Ok(SECTIONS.iter().copied().zip(sections(bytes)?.iter().map(|s| s.len())).collect())
}

fn sections(bytes: &[u8]) -> Result<[&[u8]; 4], ArtifactError> {
    let truncated = |what: &str| ArtifactError::Truncated(what.to_owned());
    if bytes.len() < MAGIC.len() || &bytes[..MAGIC.len()] != MAGIC {
        return Err(ArtifactError::Magic);
    }
    let word = |at: usize| bytes.get(at..at + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]));
    let version = word(8).ok_or_else(|| truncated("the header"))?;
    if version != FORMAT {
        return Err(ArtifactError::Version(version, FORMAT));
    }
    let end = HEADER + ENTRY * SECTIONS.len();
    let header = bytes.get(..end).ok_or_else(|| truncated("the header"))?;
    let hash = bytes.get(end..end + 32).ok_or_else(|| truncated("the header"))?;
    if blake3::hash(header).as_bytes() != hash {
        return Err(ArtifactError::Corrupt("the header".to_owned()));
    }
    if word(12) != Some(SECTIONS.len() as u32) {
        return Err(ArtifactError::Malformed("header".to_owned(), "another number of sections".to_owned()));
    }
    let long = |at: usize| {
        let mut b = [0u8; 8];
        b.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(b)
    };
    let mut out: [&[u8]; 4] = [&[]; 4];
    let mut expected = (end + 32) as u64;
    for (i, name) in SECTIONS.iter().enumerate() {
        let at = HEADER + ENTRY * i;
        let stored = header[at..at + 16].split(|b| *b == 0).next().unwrap_or_default();
        if stored != name.as_bytes() || long(at + 16) != expected {
            return Err(ArtifactError::Malformed(
                "header".to_owned(),
                format!("section `{name}` is not where it belongs"),
            ));
        }
        let next = expected.checked_add(long(at + 24)).ok_or_else(|| truncated(name))?;
        let range = usize::try_from(expected).ok().zip(usize::try_from(next).ok());
        let section = range.and_then(|(a, b)| bytes.get(a..b)).ok_or_else(|| truncated(name))?;
        if blake3::hash(section).as_bytes() != &header[at + 32..at + 64] {
            return Err(ArtifactError::Corrupt((*name).to_owned()));
        }
        out[i] = section;
        expected = next;
    }
    if expected != bytes.len() as u64 {
        return Err(ArtifactError::Malformed("container".to_owned(), "bytes after the last section".to_owned()));
    }
    Ok(out)
}

fn unpack<'a, T: Deserialize<'a>>(name: &str, bytes: &'a [u8]) -> Result<T, ArtifactError> {
    let malformed = |why: String| ArtifactError::Malformed(name.to_owned(), why);
    let (value, rest) = postcard::take_from_bytes(bytes).map_err(|e| malformed(e.to_string()))?;
    if rest.is_empty() { Ok(value) } else { Err(malformed("bytes after the content".to_owned())) }
}
