//! Dashboard, alerts and runbook go by metrics that exist, and by each other.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeSet;

use ringtide_core::metrics::ALL;
use serde_json::Value;

fn file(path: &str) -> String {
    std::fs::read_to_string(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// The names of metrics in an expression.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    expression.split(|c| !word(c)).filter(|name| name.starts_with("ringtide_")).map(str::to_owned).collect()
}

/// What a worker exposes under a metric's name: a histogram has three series.
fn exposed() -> BTreeSet<String> {
    let series = |(name, kind, _): &(&str, &str, &str)| match *kind {
        "histogram" => ["_bucket", "_sum", "_count"].map(|part| format!("{name}{part}")).to_vec(),
        _ => vec![(*name).to_owned()],
    };
    ALL.iter().flat_map(series).collect()
}

#[test]
fn every_panel_shows_metrics_that_exist() {
    let dashboard: Value = serde_json::from_str(&file("infra/grafana/ringtide.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{} has the id of another panel", panel["title"]);
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty(), "{} shows nothing", panel["title"]);
        for target in targets {
            let expression = target["expr"].as_str().unwrap();
            let shown = metrics_of(expression);
            assert!(!shown.is_empty(), "{}: {expression}", panel["title"]);
            let unknown: Vec<_> = shown.difference(&exposed()).cloned().collect();
            assert!(unknown.is_empty(), "{}: {unknown:?} does not exist", panel["title"]);
        }
    }
    assert!(panels.len() > 20);
}

#[test]
fn every_alert_goes_by_metrics_that_exist_and_has_a_place_in_the_runbook() {
    let text = file("infra/prometheus/alerts.yaml");
    let alerts: BTreeSet<&str> = text.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 12, "{alerts:?}");
    let rules = text.lines().filter(|line| !line.trim_start().starts_with('#')).collect::<Vec<_>>().join("\n");
    let unknown: Vec<_> = metrics_of(&rules).difference(&exposed()).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?} does not exist");
    let runbook = file("docs/runbook.md");
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(alerts, sections, "alerts, and sections of the runbook");
    for alert in &alerts {
        let anchor = format!("runbook: docs/runbook.md#{}\n", alert.to_lowercase());
        assert!(text.contains(&anchor), "{alert} does not lead to its section");
        assert!(file("infra/prometheus/alerts_test.yaml").contains(alert), "{alert} was never seen to fire");
    }
}

#[test]
fn every_metric_that_the_runbook_names_exists() {
    let known: BTreeSet<String> = ALL.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let unknown: Vec<_> = metrics_of(&file("docs/runbook.md")).difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}
