//! How far a pull is.

use std::collections::HashMap;

use tepui_types::Digest;

/// How far a pull is. Bytes are those that are sent, so that both halves have one total.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Progress {
    /// The registry is asked what the reference names.
    #[default]
    Resolving,
    /// Layers are fetched.
    Downloading {
        /// Bytes that are here.
        done: u64,
        /// Bytes of all layers.
        total: u64,
    },
    /// All are here; they are unpacked.
    Unpacking {
        /// Bytes that are unpacked.
        done: u64,
        /// Bytes of all layers.
        total: u64,
    },
    /// The image can be used.
    Done,
}

/// How far one layer is, in bytes as they are sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LayerProgress {
    /// Fetched.
    pub fetched: u64,
    /// Unpacked.
    pub unpacked: u64,
}

/// Sums the layers of an image.
#[derive(Debug)]
pub struct Tally {
    total: u64,
    layers: HashMap<Digest, LayerProgress>,
}

impl Tally {
    /// For layers that have `total` bytes.
    pub fn new(total: u64) -> Self {
        Self {
            total,
            layers: HashMap::new(),
        }
    }

    /// Takes what one of them says, and says what it means for all.
    pub fn take(&mut self, layer: Digest, progress: LayerProgress) -> Progress {
        self.layers.insert(layer, progress);
        let sum = |of: fn(&LayerProgress) -> u64| self.layers.values().map(of).sum::<u64>();
        let total = self.total;
        // A layer that was here already counts by what the manifest says it has.
        match sum(|layer| layer.fetched).min(total) {
            done if done < total => Progress::Downloading { done, total },
            _ => Progress::Unpacking {
                done: sum(|layer| layer.unpacked).min(total),
                total,
            },
        }
    }
}
