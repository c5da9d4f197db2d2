//! The forms in which a record comes to hand → records. Pure.

use std::collections::BTreeMap;

use ringtide_core::park::ParkedRecord;
use ringtide_core::record::{ChangeRecord, UnreadableRecord, record_from_json};
use serde_json::value::{RawValue, to_raw_value};

type Object = BTreeMap<String, Box<RawValue>>;

/// Reads a record, a list of them, an event or an answer of the stream's API with `Records`, or a parked record.
///
/// `table` stands for the table where a record does not tell it.
///
/// # Errors
/// What the text is, where it is none of these; it repeats no values.
pub(super) fn records(text: &str, table: Option<&str>) -> Result<Vec<Result<ChangeRecord, UnreadableRecord>>, String> {
    let no_json =
        |error: serde_json::Error| format!("it is not JSON, at line {} column {}", error.line(), error.column());
    let whole: Box<RawValue> = serde_json::from_str(text).map_err(no_json)?;
    let listed = match serde_json::from_str::<Object>(whole.get()) {
        Ok(object) => match object.get("Records") {
            Some(records) => {
                serde_json::from_str(records.get()).map_err(|_| "its \"Records\" are not a list".to_owned())?
            }
            None => vec![whole],
        },
        Err(_) => {
            serde_json::from_str(whole.get()).map_err(|_| "it is neither a record nor a list of them".to_owned())?
        }
    };
    if listed.is_empty() {
        return Err("there is no record in it".to_owned());
    }
    listed.iter().map(|record| one(record, table)).collect()
}

fn one(record: &RawValue, table: Option<&str>) -> Result<Result<ChangeRecord, UnreadableRecord>, String> {
    let Ok(mut object) = serde_json::from_str::<Object>(record.get()) else { return Ok(record_from_json(record)) };
    if !object.contains_key("dynamodb")
        && let Ok(parked) = ParkedRecord::from_json(record.get().as_bytes())
    {
        let content = parked.content.ok_or("it is a parked record whose content was not kept")?;
        return one(content.as_raw(), table);
    }
    if object.contains_key("eventSourceARN") {
        return Ok(record_from_json(record));
    }
    let table = table.ok_or("the record does not tell its table; name it with --table")?;
    // A stream of no account: only its table matters here.
    let arn = format!("arn:aws:dynamodb:::table/{table}/stream/1970-01-01T00:00:00.000");
    let failed = |error: serde_json::Error| error.to_string();
    object.insert("eventSourceARN".to_owned(), to_raw_value(&arn).map_err(failed)?);
    Ok(record_from_json(&to_raw_value(&object).map_err(failed)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGE: &str = r#""dynamodb":{"Keys":{"pk":{"S":"1"}},"SequenceNumber":"7"}"#;
    const ARN: &str = r#""eventSourceARN":"arn:aws:dynamodb:r:1:table/t/stream/2026-01-02T03:04:05.678""#;

    /// The tables of the records, or what is wrong.
    fn tables(text: &str, table: Option<&str>) -> Vec<String> {
        let table_of = |record: Result<ChangeRecord, UnreadableRecord>| match record {
            Ok(record) => record.stream.table.clone(),
            Err(unreadable) => unreadable.reason,
        };
        records(text, table).map_or_else(|problem| vec![problem], |records| records.into_iter().map(table_of).collect())
    }

    #[test]
    fn every_form_of_a_record_is_read() {
        let told = format!(r#"{{"eventName":"INSERT",{ARN},{CHANGE}}}"#);
        let untold = format!(r#"{{"eventName":"INSERT","eventSource":"aws:dynamodb",{CHANGE}}}"#);
        let parked = format!(r#"{{"reason":"bad","content":{told}}}"#);
        for text in [told.clone(), format!("[{told}]"), format!(r#"{{"Records":[{told}]}}"#), parked] {
            assert_eq!(tables(&text, Some("other")), ["t"], "{text}");
        }
        assert_eq!(tables(&format!("[{told},{untold}]"), Some("u")), ["t", "u"]);
        assert!(tables(&untold, None)[0].contains("--table"));
    }

    #[test]
    fn what_is_no_record_says_so_without_repeating_it() {
        for (text, problem) in [
            ("hush", "not JSON"),
            (r#""hush""#, "neither"),
            ("[]", "no record"),
            (r#"{"Records":"hush"}"#, "not a list"),
            (r#"[7]"#, "type"),
            (r#"{"reason":"hush"}"#, "not kept"),
        ] {
            let told = tables(text, Some("t"));
            assert!(told[0].contains(problem) && !told[0].contains("hush"), "{text}: {told:?}");
        }
    }
}
