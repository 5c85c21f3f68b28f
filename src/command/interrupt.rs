//! Ctrl-C: the first asks a run to stop at its next step, the second ends the process.
//!
//! What a person asked for is kept apart from what stops a run, because limits stop runs, too. It stops nothing itself.

use anyhow::{Context as _, Result};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What a person asked for, and what runs look at.
#[derive(Debug, Default)]
pub(crate) struct Interrupt {
    asked: AtomicBool,
    cancel: Arc<AtomicBool>,
}

impl Interrupt {
    /// Watches for Ctrl-C from now on; once per process.
    pub(crate) fn watch() -> Result<Arc<Self>> {
        let interrupt = Arc::new(Self::default());
        let watched = interrupt.clone();
        let pressed = move || {
            if !watched.ask() {
                super::give_up();
            }
        };
        ctrlc::set_handler(pressed).context("cannot watch for Ctrl-C")?;
        Ok(interrupt)
    }

    /// The flag that stops a run: set by the person or by a limit.
    pub(crate) fn cancel(&self) -> &Arc<AtomicBool> {
        &self.cancel
    }

    /// The person asked to stop.
    pub(crate) fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    /// Asks in the person's name; whether that was for the first time.
    pub(crate) fn ask(&self) -> bool {
        let first = !self.asked.swap(true, Ordering::SeqCst);
        self.cancel.store(true, Ordering::SeqCst);
        first
    }

    /// Stops the run that goes on, in the name of a limit.
    pub(crate) fn stop_run(&self) {
        self.cancel.store(true, Ordering::SeqCst);
    }

    /// The next run is not stopped, unless the person asked: that is looked at last, so that it is never lost.
    pub(crate) fn go_on(&self) {
        self.cancel.store(false, Ordering::SeqCst);
        if self.asked() {
            self.cancel.store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_no_first_interrupt() {
        let interrupt = Interrupt::default();
        interrupt.stop_run();
        assert!(!interrupt.asked() && interrupt.cancel().load(Ordering::SeqCst));
        assert!(interrupt.ask(), "the person's first, although the run was being stopped");
        interrupt.go_on();
        assert!(interrupt.cancel().load(Ordering::SeqCst), "what the person asked for stays");
        assert!(!interrupt.ask(), "the second ends the process");
    }
}
