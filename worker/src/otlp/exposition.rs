//! Prometheus's text as the recorder renders it → metrics with their series.

use std::collections::BTreeMap;

/// Labels in the order of their names.
pub(super) type Labels = BTreeMap<String, String>;

/// All series of one metric.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Family {
    pub(super) name: String,
    pub(super) series: Series,
}

/// The series, by kind.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Series {
    Counter(Vec<(Labels, f64)>),
    Gauge(Vec<(Labels, f64)>),
    Histogram(BTreeMap<Labels, Histogram>),
}

/// One histogram.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Histogram {
    /// Upper bounds with the counts of everything up to them; the last bound is infinite.
    pub(super) buckets: Vec<(f64, u64)>,
    pub(super) sum: f64,
    pub(super) count: u64,
}

/// Reads the text; what stands for nothing (no number, quantiles of this process alone) is left out.
pub(super) fn read(text: &str) -> Vec<Family> {
    let mut families: Vec<Family> = Vec::new();
    for line in text.lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = declared.split_once(' ') else { continue };
            let series = match kind {
                "counter" => Series::Counter(Vec::new()),
                "gauge" => Series::Gauge(Vec::new()),
                "histogram" => Series::Histogram(BTreeMap::new()),
                _ => continue,
            };
            families.push(Family { name: name.to_owned(), series });
        } else if let Some((name, labels, value)) = sample(line)
            && let Some(family) = families.last_mut()
        {
            family.take(name, labels, value);
        }
    }
    families.retain(|family| !family.is_empty());
    families
}

impl Family {
    fn take(&mut self, name: &str, mut labels: Labels, value: f64) {
        let Some(part) = name.strip_prefix(self.name.as_str()) else { return };
        match (&mut self.series, part) {
            (Series::Counter(series) | Series::Gauge(series), "") if !value.is_nan() => series.push((labels, value)),
            (Series::Histogram(series), "_bucket") => {
                let Some(bound) = labels.remove("le").and_then(|bound| number(&bound)) else { return };
                series.entry(labels).or_default().buckets.push((bound, value as u64));
            }
            (Series::Histogram(series), "_sum") => series.entry(labels).or_default().sum = value,
            (Series::Histogram(series), "_count") => series.entry(labels).or_default().count = value as u64,
            (Series::Counter(_) | Series::Gauge(_) | Series::Histogram(_), _) => {}
        }
    }

    fn is_empty(&self) -> bool {
        match &self.series {
            Series::Counter(series) | Series::Gauge(series) => series.is_empty(),
            Series::Histogram(series) => series.is_empty(),
        }
    }
}

/// Reads `name{label="value",…} number`.
fn sample(line: &str) -> Option<(&str, Labels, f64)> {
    if line.starts_with('#') {
        return None;
    }
    let end = line.find(['{', ' '])?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = Labels::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (label, after) = rest.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        rest = rest.strip_prefix('}')?;
    }
    Some((name, labels, number(rest.split_whitespace().next()?)?))
}

/// Reads up to the closing quote, and returns what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                c => value.push(c),
            },
            c => value.push(c),
        }
    }
    None
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        text => text.parse().ok(),
    }
}
