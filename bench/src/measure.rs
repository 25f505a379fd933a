//! Rounds and medians.

use anyhow::Result;

/// The two programs compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Ours,
    Theirs,
}

/// What one side did under one load in one round.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) requests: f64,
    /// Bytes the client received, heads included.
    pub(crate) bytes: f64,
    pub(crate) seconds: f64,
    /// CPU seconds of the proxy under test.
    pub(crate) cpu: f64,
}

/// The samples of one load, one per round and side.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Samples {
    pub(crate) ours: Vec<Sample>,
    pub(crate) theirs: Vec<Sample>,
}

/// Measures `loads` loads in `rounds` rounds. Within a round the sides follow each other directly under each load, so
/// that a slow drift of the machine meets both; who begins alternates.
pub(crate) fn interleave(
    rounds: u32,
    loads: usize,
    mut run: impl FnMut(usize, Side) -> Result<Sample>,
) -> Result<Vec<Samples>> {
    let mut samples: Vec<Samples> = (0..loads).map(|_| Samples::default()).collect();
    for round in 0..rounds {
        let order = if round % 2 == 0 { [Side::Ours, Side::Theirs] } else { [Side::Theirs, Side::Ours] };
        for (load, samples) in samples.iter_mut().enumerate() {
            for side in order {
                let sample = run(load, side)?;
                match side {
                    Side::Ours => samples.ours.push(sample),
                    Side::Theirs => samples.theirs.push(sample),
                }
            }
        }
    }
    Ok(samples)
}

/// Median and range of one figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figure {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Figure {
    /// Of at least one value.
    pub(crate) fn of(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> Self {
        let mut values: Vec<f64> = samples.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Self { median, min: values[0], max: values[values.len() - 1] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(requests: f64) -> Sample {
        Sample { requests, bytes: 0.0, seconds: 1.0, cpu: 0.5 }
    }

    #[test]
    fn sides_alternate_under_each_load() {
        let mut order = Vec::new();
        let samples = interleave(3, 2, |load, side| {
            order.push((load, side));
            Ok(sample(f64::from(u32::try_from(order.len())?)))
        })
        .expect("measured");
        use Side::{Ours, Theirs};
        let even = [(0, Ours), (0, Theirs), (1, Ours), (1, Theirs)];
        let odd = [(0, Theirs), (0, Ours), (1, Theirs), (1, Ours)];
        assert_eq!(order, [even, odd, even].concat());
        assert_eq!(samples[0].ours, [sample(1.0), sample(6.0), sample(9.0)]);
        assert_eq!(samples[1].theirs, [sample(4.0), sample(7.0), sample(12.0)]);
    }

    #[test]
    fn a_failed_measurement_ends_the_run() {
        let mut runs = 0;
        let result = interleave(5, 1, |_, _| {
            runs += 1;
            anyhow::bail!("wrk failed")
        });
        assert!(result.is_err());
        assert_eq!(runs, 1);
    }

    #[test]
    fn the_median_ignores_an_outlier() {
        let samples = [5.0, 1.0, 900.0, 3.0, 4.0].map(sample);
        let figure = Figure::of(&samples, |sample| sample.requests);
        assert_eq!(figure, Figure { median: 4.0, min: 1.0, max: 900.0 });
        assert_eq!(Figure::of(&samples[..2], |sample| sample.requests).median, 3.0);
    }
}
