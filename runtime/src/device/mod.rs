//! The machine below the programs: memory, machine code and threads of this computer.
//!
//! [`cpu`] holds everything that needs `unsafe`, [`gate`] how threads wait for each other, [`probe`] what the machine
//! offers. Nothing here knows models or launches by name.

pub mod cpu;
pub mod gate;
pub mod probe;
