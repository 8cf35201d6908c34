//! Signals that end a run: the first lets its step finish and saves a checkpoint, the second ends the process at once.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// The signals that were received.
pub(super) struct Signals {
    /// Exit code of the first; 0 for none.
    code: Arc<AtomicUsize>,
}

impl Signals {
    /// Watches for an interrupt (exit code 130) and a request to terminate (143). A terminal that is closed ends nothing.
    pub(super) fn watch() -> &'static Signals {
        static SIGNALS: OnceLock<Signals> = OnceLock::new();
        SIGNALS.get_or_init(|| {
            let (armed, code) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
            for (signal, exit) in [(SIGINT, 130), (SIGTERM, 143)] {
                // A signal that cannot be watched ends the process as it always does, and the last checkpoint stands.
                let _ = flag::register_conditional_shutdown(signal, exit, Arc::clone(&armed));
                let _ = flag::register(signal, Arc::clone(&armed));
                let _ = flag::register_usize(signal, Arc::clone(&code), exit as usize);
            }
            let _ = flag::register(SIGHUP, Arc::new(AtomicBool::new(false)));
            Signals { code }
        })
    }

    /// Exit code of a signal that was received.
    pub(super) fn received(&self) -> Option<u8> {
        u8::try_from(self.code.load(Ordering::Relaxed)).ok().filter(|code| *code > 0)
    }
}
