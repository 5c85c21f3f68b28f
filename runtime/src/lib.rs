//! From an artifact to tokens: reads model files, keeps weights and keys in memory, runs compiled kernels, samples.
//!
//! Takes bytes (an artifact's plan, programs and machine code, a GGUF file) and requests; returns tokens, values and
//! measurements. It depends on neither parser, planner nor code generator, chooses no schedule and prints nothing.
//!
//! Layers, lower first: [`device`] (memory, machine code, the thread team), [`gguf`], [`quant`] and [`weights`] (files to
//! resident weights), [`kv`] (pages of keys and values), [`forward`] (steps of a model), [`sample`] (logits to tokens).
//! [`model`] is the trait between the model side and the strategy side.

pub mod chat;
pub mod device;
pub mod error;
pub mod exec;
pub mod forward;
pub mod gguf;
pub mod grammar;
pub mod kv;
pub mod metrics;
pub mod model;
pub mod model_config;
pub mod quant;
pub mod sample;
pub mod script;
pub mod session;
pub mod tokenizer;
pub mod value;
pub mod verify;
pub mod weights;

pub use error::{Error, Result};
