//! The rows of a suite: a table on the terminal, and `bench/results.json`.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use crate::measure::{Figure, Sample, Samples};

/// Which way a figure gets better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// A figure of a suite and how it follows from the samples of one load.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    /// Index of the load whose samples it is made from.
    pub(crate) load: usize,
    pub(crate) value: fn(&Sample) -> f64,
}

/// One comparison, as it stands in `bench/results.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) suite: &'static str,
    pub(crate) metric: &'static str,
    pub(crate) peer: &'static str,
    /// Median of the rounds.
    pub(crate) ours: f64,
    /// Median of the rounds.
    pub(crate) theirs: f64,
    /// `ours / theirs`, whichever way is better.
    pub(crate) ratio: f64,
    pub(crate) better: Better,
    pub(crate) spread: Spread,
    #[serde(skip)]
    unit: &'static str,
}

/// Lowest and highest value of the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) ours: [f64; 2],
    pub(crate) theirs: [f64; 2],
}

/// The rows that follow from the samples, one per metric.
pub(crate) fn rows(suite: &'static str, peer: &'static str, metrics: &[Metric], samples: &[Samples]) -> Vec<Row> {
    metrics
        .iter()
        .map(|metric| {
            let ours = Figure::of(&samples[metric.load].ours, metric.value);
            let theirs = Figure::of(&samples[metric.load].theirs, metric.value);
            Row {
                suite,
                metric: metric.name,
                peer,
                ours: ours.median,
                theirs: theirs.median,
                ratio: ours.median / theirs.median,
                better: metric.better,
                spread: Spread { ours: [ours.min, ours.max], theirs: [theirs.min, theirs.max] },
                unit: metric.unit,
            }
        })
        .collect()
}

/// The rows for people.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut table = String::new();
    let peer = rows.first().map_or("theirs", |row| row.peer);
    let names = rows.iter().map(|row| row.metric.len()).max().unwrap_or(0).max(20);
    let peers = peer.len().max(9);
    let ranges = (peer.len() + 9).max(17);
    let range = |[min, max]: [f64; 2]| format!("{}..{}", short(min), short(max));
    let _ = writeln!(
        table,
        "{:<names$} {:<8} {:<7} {:>9} {:>peers$} {:>7}  {:>17} {:>ranges$}",
        "metric",
        "unit",
        "better",
        "ours",
        peer,
        "ratio",
        "ours min..max",
        format!("{peer} min..max")
    );
    for row in rows {
        let better = match row.better {
            Better::Higher => "higher",
            Better::Lower => "lower",
        };
        let _ = writeln!(
            table,
            "{:<names$} {:<8} {:<7} {:>9} {:>peers$} {:>7.3}  {:>17} {:>ranges$}",
            row.metric,
            row.unit,
            better,
            short(row.ours),
            short(row.theirs),
            row.ratio,
            range(row.spread.ours),
            range(row.spread.theirs)
        );
    }
    table
}

/// The median of a share.
pub(crate) fn percent(samples: &[Sample], share: impl Fn(&Sample) -> f64) -> String {
    format!("{:.0} %", Figure::of(samples, share).median * 100.0)
}

/// The median of a figure that is no row.
pub(crate) fn median(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> String {
    short(Figure::of(samples, value).median)
}

/// About three significant digits.
fn short(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

/// Puts the rows of `suite` in the place of its elder rows; those of other suites stay as they are. Whoever reads
/// the file meanwhile sees the old list or the new one.
pub(crate) fn keep(file: &Path, suite: &str, rows: &[Row]) -> Result<()> {
    let mut all: Vec<Value> = match fs::read(file) {
        Ok(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} is no list of rows: mend or remove it", file.display()))?,
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
    };
    all.retain(|row| row.get("suite").and_then(Value::as_str) != Some(suite));
    for row in rows {
        all.push(serde_json::to_value(row).context("a row cannot be written as JSON")?);
    }
    let mut text = serde_json::to_vec_pretty(&all).context("rows cannot be written as JSON")?;
    text.push(b'\n');

    let temporary = file.with_extension("json.tmp");
    let write = || {
        let mut output = File::create(&temporary)?;
        output.write_all(&text)?;
        output.sync_all()?;
        fs::rename(&temporary, file)
    };
    write().with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const METRICS: [Metric; 2] = [
        Metric { name: "rate", unit: "1/s", better: Better::Higher, load: 0, value: |s| s.requests / s.seconds },
        Metric { name: "cost", unit: "us", better: Better::Lower, load: 0, value: |s| s.cpu / s.requests * 1e6 },
    ];

    fn samples(ours: &[f64], theirs: &[f64]) -> Vec<Samples> {
        let side = |rates: &[f64]| {
            let of = |requests: &f64| Sample { requests: *requests, bytes: 0.0, seconds: 2.0, cpu: 1.0 };
            rates.iter().map(of).collect()
        };
        vec![Samples { ours: side(ours), theirs: side(theirs) }]
    }

    #[test]
    fn the_ratio_is_ours_to_theirs_whichever_way_is_better() {
        let rows = rows("http", "nginx", &METRICS, &samples(&[300.0, 400.0, 500.0], &[200.0, 100.0, 250.0]));
        assert_eq!((rows[0].ours, rows[0].theirs, rows[0].ratio), (200.0, 100.0, 2.0));
        assert_eq!((rows[1].ours, rows[1].theirs, rows[1].ratio), (2500.0, 5000.0, 0.5));
        assert_eq!(rows[0].spread, Spread { ours: [150.0, 250.0], theirs: [50.0, 125.0] });
    }

    #[test]
    fn the_table_names_all() {
        let table = table(&rows("http", "nginx", &METRICS, &samples(&[400.0], &[200.0])));
        assert_eq!(table.lines().count(), 3);
        assert!(table.lines().nth(1).expect("a row").starts_with("rate"), "{table}");
        assert!(table.contains("nginx") && table.contains("2.000") && table.contains("lower"), "{table}");
    }

    #[test]
    fn a_run_replaces_its_own_rows_and_no_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("results.json");
        let other = json!({"suite": "tunnel", "metric": "rate", "peer": "wireguard-go", "extra": [1]});
        let old = json!({"suite": "http", "metric": "forgotten", "peer": "nginx"});
        fs::write(&file, json!([old, other]).to_string()).expect("written");

        let rows = rows("http", "nginx", &METRICS, &samples(&[400.0], &[200.0]));
        keep(&file, "http", &rows).expect("kept");
        keep(&file, "http", &rows).expect("kept again");

        let all: Vec<Value> = serde_json::from_slice(&fs::read(&file).expect("a file")).expect("a list");
        assert_eq!(all.len(), 3);
        assert_eq!(all[0], other);
        assert_eq!(
            all[1],
            json!({"suite": "http", "metric": "rate", "peer": "nginx", "ours": 200.0, "theirs": 100.0, "ratio": 2.0,
                   "better": "higher", "spread": {"ours": [200.0, 200.0], "theirs": [100.0, 100.0]}})
        );
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1);
    }

    #[test]
    fn a_broken_file_is_not_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("results.json");
        fs::write(&file, "[{").expect("written");
        assert!(keep(&file, "http", &[]).is_err());
        assert_eq!(fs::read_to_string(&file).expect("a file"), "[{");
    }
}
