use serde_json::json;

use super::*;

fn page(sequences: &[Option<&str>]) -> Vec<Result<ChangeRecord, UnreadableRecord>> {
    let unreadable = |sequence: &Option<&str>| {
        let sequence = sequence.map(|text| text.parse().unwrap());
        Err(UnreadableRecord { sequence, reason: "bad".into(), ..UnreadableRecord::default() })
    };
    sequences.iter().map(unreadable).collect()
}

fn event(value: serde_json::Value) -> Event {
    Event::parse(value.to_string()).unwrap()
}

#[test]
fn the_first_undelivered_record_is_named() {
    let page = page(&[Some("1"), Some("2"), Some("3")]);
    assert_eq!(Answer::from(1, &page).unwrap().failures[0].identifier, "2");
    let json = serde_json::to_string(&Answer::from(2, &page).unwrap()).unwrap();
    assert_eq!(json, r#"{"batchItemFailures":[{"itemIdentifier":"3"}]}"#);
    assert_eq!(serde_json::to_string(&Answer::default()).unwrap(), r#"{"batchItemFailures":[]}"#);
}

#[test]
fn a_record_without_a_number_never_yields_an_empty_identifier() {
    assert_eq!(Answer::from(1, &page(&[Some("1"), None])).unwrap().failures[0].identifier, "1");
    assert_eq!(Answer::from(0, &page(&[None, Some("2")])), Err(Unnameable));
}

#[test]
fn an_event_without_records_is_none_to_complain_about() {
    for nothing in [
        json!({}),
        json!({ "Records": null }),
        json!({ "Records": [] }),
        json!({ "source": "aws.events", "detail-type": "Scheduled Event", "detail": {} }),
    ] {
        let event = event(nothing);
        let contents = event.contents().unwrap();
        assert!(contents.changes.is_empty() && contents.messages.is_empty());
    }
}

#[test]
fn an_event_that_nobody_can_read_is_said_to_be_so() {
    for (text, kind) in
        [("\"ping\"", "a text"), ("[1]", "a list"), ("7", "a number"), ("null", "null"), (" true", "a truth value")]
    {
        assert_eq!(Event::parse(text.to_owned()).unwrap().contents().unwrap_err(), UnknownEvent::NoObject(kind));
    }
    for records in [json!("x"), json!({}), json!(1), json!(true)] {
        let event = event(json!({ "Records": records }));
        assert!(matches!(event.contents(), Err(UnknownEvent::NoList(_))), "{event:?}");
    }
    let twice = Event::parse(r#"{"Records":[],"Records":[]}"#.to_owned()).unwrap();
    assert!(matches!(twice.contents(), Err(UnknownEvent::NoList(_))));
}

#[test]
fn messages_and_changes_are_told_apart_record_by_record() {
    let message = json!({
        "messageId": "m-1", "eventSource": "aws:sqs", "body": "text", "attributes": { "ApproximateReceiveCount": "3" }
    });
    let change = json!({ "eventSource": "aws:dynamodb", "dynamodb": { "NewImage": { "x": { "S": "aws:sqs" } } } });
    let event = event(json!({ "Records": [message, change, "odd"] }));
    let contents = event.contents().unwrap();
    let expected = Message { id: Some("m-1".to_owned()), body: Some("text".to_owned()), receives: 3 };
    assert_eq!(contents.messages, [expected]);
    assert_eq!(contents.changes.len(), 2);
}

#[test]
fn a_message_without_an_id_among_others_is_kept_and_alone_is_an_unreadable_record() {
    let nameless = json!({ "eventSource": "aws:sqs", "messageId": "", "body": 7 });
    let named = json!({ "eventSource": "aws:sqs", "messageId": "m-1", "body": "text" });
    let both = event(json!({ "Records": [nameless, named] }));
    let contents = both.contents().unwrap();
    assert_eq!(contents.messages.len(), 2);
    assert_eq!(contents.messages[1], Message { id: None, body: None, receives: 1 });
    let alone = event(json!({ "Records": [nameless, {}] }));
    let contents = alone.contents().unwrap();
    assert_eq!((contents.changes.len(), contents.messages.len()), (2, 0));
}
