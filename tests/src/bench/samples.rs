//! Measurements of one thing, and what is said of them.

/// Measured values.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// One more.
    pub fn add(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The value that this share of them (0 to 1) does not exceed, by the
    /// nearest rank; 0 without any.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0.0)
    }

    /// The middle one.
    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// The 99th percentile: with fewer than a hundred, the largest.
    pub fn p99(&self) -> f64 {
        self.quantile(0.99)
    }
}

impl From<Vec<f64>> for Samples {
    fn from(values: Vec<f64>) -> Self {
        Self(values)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_ranks() {
        let mut samples = Samples::default();
        assert_eq!(samples.median(), 0.0);
        for value in (1..=200).rev() {
            samples.add(f64::from(value));
        }
        assert_eq!((samples.median(), samples.p99()), (100.0, 198.0));
        assert_eq!(samples.quantile(1.0), 200.0);
        assert_eq!(samples.count(), 200);
    }
}
