//! The machine below the programs: memory, machine code and threads of this computer.
//!
//! [`cpu`] holds memory, code and threads, [`extensions`] what not every processor has (these two need `unsafe`), [`gate`] how
//! threads wait for each other, [`probe`] what the machine offers. Nothing here knows models or launches by name.

// The emulator of the code generator's tests: the trial of tiles runs on machines without them.
#[cfg(test)]
#[path = "../../../codegen/tests/backends/amx.rs"]
mod amx;
pub mod cpu;
pub mod extensions;
pub mod gate;
pub mod probe;
