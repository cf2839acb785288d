//! A framework that wants an import that no host has: for the test of how it is refused.

use tepui_sdk::{Context, Scheduler, StartReason};

/// The scheduler.
#[derive(Debug)]
pub struct Greedy;

#[cfg(target_arch = "wasm32")]
#[link(wasm_import_module = "tepui:unknown/thing")]
unsafe extern "C" {
    fn mystery();
}

impl Scheduler for Greedy {
    fn start(_cx: &mut Context<'_>, _reason: StartReason, _config: &str) -> Result<Self, String> {
        #[cfg(target_arch = "wasm32")]
        // SAFETY: it takes and gives nothing; and no host links it.
        unsafe {
            mystery();
        }
        Ok(Self)
    }
}

tepui_sdk::export!(Greedy);
