//! The name under which a parked record is kept: `table/yyyy/mm/dd/sequence.json`.

use serde::Deserialize;
use xxhash_rust::xxh3::xxh3_128;

use super::ParkedRecord;

/// What stands for a table or a name that is not known.
const UNKNOWN: &str = "unknown";

impl ParkedRecord {
    /// The name under which a store keeps the record, the same however often it is parked.
    ///
    /// The day is that of the change where the record tells it. A record without a sequence number is named by its
    /// content. Nothing of it leads out of the folder that it is appended to.
    #[must_use]
    pub fn name(&self) -> String {
        let table = self.table.as_deref().map_or_else(|| UNKNOWN.to_owned(), plain);
        let (year, month, day) = date(self.changed_at_s().unwrap_or(self.parked_at_ms / 1000));
        let record = match (&self.sequence, &self.content) {
            (Some(sequence), _) => sequence.to_string(),
            (None, Some(content)) => format!("unnumbered-{:032x}", xxh3_128(content.get().as_bytes())),
            (None, None) => format!("unnumbered-{:032x}", xxh3_128(self.reason.as_bytes())),
        };
        format!("{table}/{year:04}/{month:02}/{day:02}/{record}.json")
    }

    /// A name for the record among all that are parked in one place, of 32 digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let stream = self.stream_arn.as_deref().unwrap_or_default();
        format!("{:032x}", xxh3_128(format!("{stream} {}", self.name()).as_bytes()))
    }

    fn changed_at_s(&self) -> Option<u64> {
        #[derive(Deserialize)]
        struct Record {
            dynamodb: Change,
        }
        #[derive(Deserialize)]
        struct Change {
            #[serde(rename = "ApproximateCreationDateTime")]
            at: f64,
        }
        let record: Record = serde_json::from_str(self.content.as_ref()?.get()).ok()?;
        // Past the year 9999 it is no time.
        Some(record.dynamodb.at as u64).filter(|at| (1..253_402_300_800).contains(at))
    }
}

/// Keeps what a table's name may hold, which is also what a file's name may hold.
fn plain(text: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' };
    let plain: String = text.chars().take(255).map(keep).collect();
    if plain.trim_matches('.').is_empty() { UNKNOWN.to_owned() } else { plain }
}

/// Year, month and day in UTC of a unix time in seconds.
fn date(unix_s: u64) -> (u64, u64, u64) {
    // Days since 0000-03-01 of the proleptic Gregorian calendar: the leap day is the last one of its year.
    let days = unix_s / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    (era * 400 + year_of_era + year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::RawRecord;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (unix, expected) in [
            (0, (1970, 1, 1)),
            (951_825_600, (2000, 2, 29)),
            (951_868_800, (2000, 3, 1)),
            (1_767_225_599, (2025, 12, 31)),
            (1_767_225_600, (2026, 1, 1)),
            (4_107_542_400, (2100, 3, 1)),
        ] {
            assert_eq!(date(unix), expected, "{unix}");
        }
    }

    #[test]
    fn the_name_is_the_records_place_and_does_not_change_with_the_time_of_parking() {
        let content = r#"{"dynamodb":{"ApproximateCreationDateTime":1767225599.0}}"#;
        let parked = |parked_at_ms| ParkedRecord {
            table: Some("products".into()),
            sequence: Some("42".parse().unwrap()),
            parked_at_ms,
            content: Some(RawRecord::parse(content.to_owned()).unwrap()),
            ..ParkedRecord::default()
        };
        assert_eq!(parked(1_767_312_000_000).name(), "products/2025/12/31/42.json");
        assert_eq!(parked(1_767_312_000_000).name(), parked(1_800_000_000_000).name());
        assert_eq!(parked(1).fingerprint(), parked(2).fingerprint());
    }

    #[test]
    fn no_name_leads_out_of_its_folder() {
        for table in ["..", ".", "../../etc", "a/b", "", "\0"] {
            let name = ParkedRecord { table: Some(table.into()), ..ParkedRecord::default() }.name();
            let parts: Vec<&str> = name.split('/').collect();
            assert_eq!(parts.len(), 5, "{name}");
            assert!(parts.iter().all(|part| !part.is_empty() && *part != ".." && *part != "."), "{name}");
        }
        let other = ParkedRecord { reason: "other".into(), ..ParkedRecord::default() };
        assert_ne!(ParkedRecord::default().name(), other.name());
    }
}
