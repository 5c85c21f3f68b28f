//! Tokens drawn by the program's kernels: fills the tables that [`ir::program`] describes, launches, reads the answers.
//!
//! Rows are those of the step that just ran, or copies of rows of earlier steps. A mask is written into the logits, so a
//! masked draw has a row for itself.

use super::{LocalModel, profile, program_error};
use crate::error::{Error, Result};
use crate::model::Row;
use crate::sample::{Choice, Draw};
use ir::program::{Buf, CHOICE_WORDS, DRAW_WORDS, FACT_WORDS, mask_bytes};
use std::sync::atomic::Ordering;
use std::time::Instant;

/// A row of the logits buffer and how to choose from it.
pub(super) struct Asked<'a> {
    /// Which row of the buffer.
    pub(super) row: usize,
    /// How.
    pub(super) draw: &'a Draw,
}

impl LocalModel {
    /// A row of the logits buffer with its summary, as the head left them.
    pub(super) fn row(&self, i: usize) -> Row<'_> {
        let vocab = self.info.vocab;
        let logits = &self.buffers[&Buf::Logits].f32s()[i * vocab.next_multiple_of(16)..][..vocab];
        let facts = &self.buffers[&Buf::Facts].f32s()[i * FACT_WORDS..][..FACT_WORDS];
        let argmax = facts[3].to_bits();
        let argmax = if (argmax as usize) < vocab { argmax } else { 0 };
        Row { logits, max: facts[0], log_z: facts[1], entropy: facts[2], argmax }
    }

    /// Draws from rows of the logits buffer, at most `max_head_rows` of them. With `copied`, the statistics of the rows'
    /// blocks are not there.
    pub(super) fn draw(&mut self, asked: &[Asked<'_>], copied: bool) -> Result<Vec<Option<Choice>>> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let start = Instant::now();
        let vocab = self.info.vocab;
        let words = mask_bytes(vocab as u64) as usize / 4;
        for (i, Asked { row, draw }) in asked.iter().enumerate() {
            if let Some(allowed) = &draw.allowed {
                let to = &mut self.buffer(Buf::Masks).i32s_mut()[i * words..][..words];
                let used = allowed.len().min(words);
                for (to, bits) in to.iter_mut().zip(allowed.iter()) {
                    *to = *bits as i32;
                }
                to[used..].fill(0);
            }
            let how = &draw.how;
            let top_k = if how.top_k == 0 { vocab } else { (how.top_k as usize).min(vocab) };
            let top_p = if how.top_p < 1.0 { how.top_p } else { 1.0 };
            let min_p = if how.min_p > 0.0 { how.min_p } else { 0.0 };
            let float = |x: f32| i64::from(x.to_bits());
            let entry: [i64; DRAW_WORDS] = [
                *row as i64,
                if draw.allowed.is_some() { i as i64 } else { -1 },
                top_k as i64,
                float(draw.scale()),
                float(top_p),
                float(min_p),
                draw.uniform.to_bits() as i64,
                i64::from(copied),
            ];
            self.buffer(Buf::Draws).i64s_mut()[i * DRAW_WORDS..][..DRAW_WORDS].copy_from_slice(&entry);
        }
        self.buffer(Buf::Step).i64s_mut()[4] = asked.len() as i64;
        let program = &self.loaded.program;
        profile::run(&mut self.team, &self.sample, &program.weights, &program.sample, self.profile.as_mut())?;
        let answers = self.buffers[&Buf::Choices].f32s();
        let choice = |words: &[f32]| {
            let token = words[0].to_bits();
            ((token as usize) < vocab).then_some(Choice { token, logprob: words[1] })
        };
        let choices = answers.chunks_exact(CHOICE_WORDS).take(asked.len()).map(choice).collect();
        self.metrics.draws += asked.len() as u64;
        self.metrics.sample_seconds += start.elapsed().as_secs_f64();
        Ok(choices)
    }

    /// Draws from rows of earlier steps: every row is put back once, and once more for each mask.
    pub(super) fn draw_from(&mut self, rows: &[Row<'_>], draws: &[(usize, Draw)]) -> Result<Vec<Option<Choice>>> {
        if self.cancel.as_ref().is_some_and(|c| c.load(Ordering::Relaxed)) {
            return Err(Error::Cancelled);
        }
        let most = self.loaded.program.max_head_rows as usize;
        let mut choices = Vec::with_capacity(draws.len());
        for draws in draws.chunks(most) {
            let mut asked = Vec::with_capacity(draws.len());
            // Where each row lies, and the places in use: one per draw at most.
            let mut places = vec![None; rows.len()];
            let mut used = 0;
            for (which, draw) in draws {
                let row = rows.get(*which).filter(|r| r.logits.len() == self.info.vocab).ok_or_else(|| {
                    program_error("a draw", format!("row {which} of {} is not one of this model", rows.len()))
                })?;
                let place = match places[*which].filter(|_| draw.allowed.is_none()) {
                    Some(place) => place,
                    None => {
                        self.put_row(used, row);
                        if draw.allowed.is_none() {
                            places[*which] = Some(used);
                        }
                        used += 1;
                        used - 1
                    }
                };
                asked.push(Asked { row: place, draw });
            }
            choices.extend(self.draw(&asked, true)?);
        }
        Ok(choices)
    }

    /// Puts a row where the head would have left it.
    fn put_row(&mut self, place: usize, row: &Row<'_>) {
        let padded = self.info.vocab.next_multiple_of(16);
        let logits = &mut self.buffer(Buf::Logits).f32s_mut()[place * padded..][..padded];
        logits[..row.logits.len()].copy_from_slice(row.logits);
        logits[row.logits.len()..].fill(f32::NEG_INFINITY);
        let facts = [row.max, row.log_z, row.entropy, f32::from_bits(row.argmax)];
        self.buffer(Buf::Facts).f32s_mut()[place * FACT_WORDS..][..FACT_WORDS].copy_from_slice(&facts);
    }
}
