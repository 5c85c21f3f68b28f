//! A linker for one object: takes a relocatable ELF file that LLVM made of kernels, returns flat, relocation-free code.
//!
//! The text section comes first, the read-only constants behind it, each at its alignment; what code says about
//! distances between them (`R_X86_64_PC32`, `R_X86_64_PLT32`) is written into the bytes. Anything a kernel has no use
//! for is an error: outside symbols, writable sections, absolute addresses. Unwind tables are left out.

use ir::code::Code;
use object::elf::{R_X86_64_PC32, R_X86_64_PLT32, SHF_ALLOC, SHF_WRITE};
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, RelocationFlags, RelocationTarget, SectionFlags};
use object::{SectionIndex, SymbolKind};

/// Links an object.
///
/// # Errors
/// A sentence about the first thing that cannot be in code of kernels.
pub(super) fn link(file: &[u8]) -> Result<Code, String> {
    let elf: ElfFile64<'_, Endianness> =
        ElfFile64::parse(file).map_err(|e| format!("the object is unreadable: {e}"))?;
    let mut code = Code::default();
    let mut placed: Vec<(SectionIndex, u64)> = Vec::new();
    let mut sections: Vec<_> = elf.sections().filter(|s| flag(s, SHF_ALLOC) && s.name() != Ok(".eh_frame")).collect();
    sections.sort_by_key(|s| (s.name() != Ok(".text"), s.index().0));
    for section in &sections {
        let name = section.name().map_err(|e| e.to_string())?;
        let data = section.data().map_err(|e| format!("section {name} is unreadable: {e}"))?;
        if data.is_empty() {
            continue;
        }
        if flag(section, SHF_WRITE) {
            return Err(format!("kernels have no variables, but the object has section {name}"));
        }
        let align = usize::try_from(section.align()).unwrap_or(usize::MAX).max(1);
        if align > Code::ALIGN {
            return Err(format!("section {name} asks for an alignment of {align}"));
        }
        code.bytes.resize(code.bytes.len().next_multiple_of(align), 0xCC);
        placed.push((section.index(), code.bytes.len() as u64));
        code.bytes.extend_from_slice(data);
    }
    for section in &sections {
        if let Some(base) = find(&placed, section.index()) {
            relocate(&elf, section, base, &placed, &mut code.bytes)?;
        }
    }
    for symbol in elf.symbols().filter(|s| s.is_global() && s.kind() == SymbolKind::Text) {
        let name = symbol.name().map_err(|e| e.to_string())?;
        let base = symbol.section_index().and_then(|section| find(&placed, section));
        let base = base.ok_or_else(|| format!("symbol {name} is not defined"))?;
        code.symbols.push((name.to_owned(), base + symbol.address()));
    }
    code.symbols.sort_by_key(|(_, offset)| *offset);
    Ok(code)
}

fn flag<'d>(section: &impl ObjectSection<'d>, flag: u32) -> bool {
    matches!(section.flags(), SectionFlags::Elf { sh_flags } if sh_flags & u64::from(flag) != 0)
}

fn find(placed: &[(SectionIndex, u64)], section: SectionIndex) -> Option<u64> {
    placed.iter().find(|(index, _)| *index == section).map(|(_, base)| *base)
}

fn relocate<'d>(
    elf: &ElfFile64<'d, Endianness>,
    section: &impl ObjectSection<'d>,
    base: u64,
    placed: &[(SectionIndex, u64)],
    bytes: &mut [u8],
) -> Result<(), String> {
    for (offset, relocation) in section.relocations() {
        match relocation.flags() {
            RelocationFlags::Elf { r_type: R_X86_64_PC32 | R_X86_64_PLT32 } => {}
            other => return Err(format!("a relocation of an unexpected kind: {other:?}")),
        }
        let RelocationTarget::Symbol(index) = relocation.target() else {
            return Err(format!("a relocation without a symbol at {offset}"));
        };
        let symbol = elf.symbol_by_index(index).map_err(|e| e.to_string())?;
        let target = symbol.section_index().and_then(|section| find(placed, section));
        let Some(target) = target else {
            return Err(format!("kernels call nothing, but the object asks for `{}`", symbol.name().unwrap_or("?")));
        };
        let place = base + offset;
        let distance = (target + symbol.address()) as i64 + relocation.addend() - place as i64;
        let distance = i32::try_from(distance).map_err(|_| format!("a distance of {distance} bytes at {place}"))?;
        let field = usize::try_from(place).ok().and_then(|at| bytes.get_mut(at..at.checked_add(4)?));
        field
            .ok_or_else(|| format!("a relocation outside its section at {offset}"))?
            .copy_from_slice(&distance.to_le_bytes());
    }
    Ok(())
}
