//! Damage: of a record's structure, so that it stays JSON, and of a text, so that it may not.

use fastrand::Rng;
use serde_json::Value;

/// Damages one to three places of a JSON text; what comes out is JSON, but for escapes that stand for no character.
pub(crate) fn of_json(rng: &mut Rng, text: &str) -> String {
    let mut value: Value = serde_json::from_str(text).unwrap();
    let mut planted = Vec::new();
    for _ in 0..rng.usize(1..=3) {
        let depth = rng.usize(..8);
        damage(rng, &mut value, depth, &mut planted);
    }
    let mut text = value.to_string();
    for (n, raw) in planted.iter().enumerate() {
        text = text.replace(&mark(n), raw);
    }
    if rng.u8(..20) == 0 && text.starts_with('{') && text.len() > 2 {
        let name = ["eventName", "dynamodb", "eventSourceARN", "eventSource", "messageId", "body", "x"][rng.usize(..7)];
        text = text.replacen('{', &format!("{{\"{name}\":{},", odd(rng)), 1);
    }
    text
}

/// Flips, drops, doubles and inserts bytes, and cuts off.
pub(crate) fn of_text(rng: &mut Rng, text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..rng.usize(1..=8) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.usize(..bytes.len());
        match rng.u8(..6) {
            0 => bytes[at] ^= 1 << rng.u8(..7),
            1 => drop(bytes.remove(at)),
            2 => bytes.insert(at, b"{}[]\",:0\\n \t"[rng.usize(..12)]),
            3 => bytes.truncate(at),
            4 => {
                let part = bytes[at..(at + rng.usize(..40)).min(bytes.len())].to_vec();
                let to = rng.usize(..=bytes.len());
                bytes.splice(to..to, part);
            }
            _ => bytes[at] = rng.u8(..),
        }
    }
    match rng.u8(..30) {
        0 => odd(rng),
        1 => format!("{{\"Records\":{}}}", odd(rng)),
        2 => format!("{{\"Records\":[{},{}]}}", odd(rng), String::from_utf8_lossy(&bytes)),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// Walks down at random and damages what is there.
fn damage(rng: &mut Rng, value: &mut Value, depth: usize, planted: &mut Vec<String>) {
    if depth > 0 {
        match value {
            Value::Object(members) if !members.is_empty() => {
                let at = rng.usize(..members.len());
                if let Some(inner) = members.values_mut().nth(at) {
                    return damage(rng, inner, depth - 1, planted);
                }
            }
            Value::Array(items) if !items.is_empty() => {
                let at = rng.usize(..items.len());
                return damage(rng, &mut items[at], depth - 1, planted);
            }
            _ => {}
        }
    }
    match value {
        Value::Object(members) if !members.is_empty() && rng.bool() => {
            let at = rng.usize(..members.len());
            let Some(name) = members.keys().nth(at).cloned() else { return };
            let Some(inner) = members.remove(&name) else { return };
            match rng.u8(..4) {
                0 => {}
                1 => drop(members.insert(name.to_uppercase(), inner)),
                2 => drop(members.insert(String::new(), inner)),
                _ => {
                    members.insert(name, inner.clone());
                    members.insert("S".to_owned(), inner);
                }
            }
        }
        Value::Array(items) if rng.bool() => match items.first().cloned() {
            Some(first) if rng.bool() => items.extend(std::iter::repeat_n(first, rng.usize(1..50))),
            _ => items.clear(),
        },
        Value::String(text) if rng.bool() => match rng.u8(..6) {
            0 => text.clear(),
            1 => *text = "9".repeat(rng.usize(1..200)),
            2 => *text = format!("-{text}"),
            3 => *text = text.chars().rev().collect(),
            4 => *text = format!("{text}\u{0}\u{202e}\u{feff}{text}"),
            _ => *text = text.replacen(':', "", 1),
        },
        value => {
            *value = Value::String(mark(planted.len()).trim_matches('"').to_owned());
            planted.push(odd(rng));
        }
    }
}

/// What stands for a planted text until the JSON is written.
fn mark(n: usize) -> String {
    format!("\"planted-{n}-here\"")
}

/// JSON texts that nobody expects.
fn odd(rng: &mut Rng) -> String {
    let deep = |open: &str, close: &str, depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
    match rng.u8(..24) {
        0 => "null".to_owned(),
        1 => "true".to_owned(),
        2 => "\"\"".to_owned(),
        3 => "[]".to_owned(),
        4 => "{}".to_owned(),
        5 => "-1".to_owned(),
        6 => "1e308".to_owned(),
        7 => "1e999".to_owned(),
        8 => "123456789012345678901234567890123456789012345678901234567890".to_owned(),
        9 => "-0.0".to_owned(),
        10 => "\"\\ud800\"".to_owned(),
        11 => "\"\\udc00\\ud800\"".to_owned(),
        12 => "\"\\u0000\"".to_owned(),
        13 => deep("[", "]", rng.usize(1..300)),
        14 => deep("{\"M\":{\"a\":", "}}", rng.usize(1..300)),
        15 => deep("{\"L\":[", "]}", rng.usize(1..300)),
        16 => deep("{\"L\":[", "]}", rng.usize(1000..3000)),
        17 => "{\"S\":\"a\",\"S\":\"b\"}".to_owned(),
        18 => "{\"S\":\"a\",\"N\":\"1\"}".to_owned(),
        19 => "{\"N\":\"1e999999999999\"}".to_owned(),
        20 => "{\"N\":\"\"}".to_owned(),
        21 => "{\"B\":\"not base64\"}".to_owned(),
        22 => {
            let label =
                ["9999999999999999999-01-01T00:00:00", "9223372036854775807-1-1T0:0:0", "1970-99-99T99:99:99", "T"];
            format!("\"arn:aws:dynamodb:eu-west-1:1:table/products/stream/{}\"", label[rng.usize(..4)])
        }
        _ => format!("\"{}\"", "x".repeat(rng.usize(1..5000))),
    }
}
