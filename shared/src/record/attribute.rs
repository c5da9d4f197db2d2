//! DynamoDB's attribute values, and the seam behind which an edge keeps its own form of an image.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// One attribute's value. Sets are ordered, so that two equal sets compare equal whatever order they came in.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A text.
    S(String),
    /// A number, as the digits DynamoDB sent.
    N(String),
    /// Bytes.
    B(Vec<u8>),
    /// A truth value.
    Bool(bool),
    /// Null.
    Null,
    /// A list.
    L(Vec<Attribute>),
    /// A map.
    M(BTreeMap<String, Attribute>),
    /// A set of texts.
    Ss(BTreeSet<String>),
    /// A set of numbers.
    Ns(BTreeSet<String>),
    /// A set of bytes.
    Bs(BTreeSet<Vec<u8>>),
}

/// An attribute that could not be decoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// The image as a whole is not a map of attributes.
    #[error("the image is not a map of attributes: {0}")]
    Image(String),
    /// One attribute is not one of DynamoDB's types.
    #[error("attribute {name:?} cannot be decoded: {reason}")]
    Attribute {
        /// The attribute's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// An item's image in an edge's own form, decoded attribute by attribute.
pub trait Attributes: Send + Sync + Debug {
    /// Decodes the named attributes, in the order of `names`; `None` for one the image does not have.
    ///
    /// # Errors
    /// The first named attribute that cannot be decoded. Attributes that are not named are not looked at.
    fn pick(&self, names: &[String]) -> Result<Vec<Option<Attribute>>, AttributeError>;

    /// Decodes the whole image.
    ///
    /// # Errors
    /// The first attribute that cannot be decoded.
    fn all(&self) -> Result<BTreeMap<String, Attribute>, AttributeError>;

    /// Appends the whole image in DynamoDB's JSON, also what cannot be decoded.
    fn write_dynamodb_json(&self, out: &mut Vec<u8>);
}

impl Attributes for BTreeMap<String, Attribute> {
    fn pick(&self, names: &[String]) -> Result<Vec<Option<Attribute>>, AttributeError> {
        Ok(names.iter().map(|name| self.get(name).cloned()).collect())
    }

    fn all(&self) -> Result<BTreeMap<String, Attribute>, AttributeError> {
        Ok(self.clone())
    }

    fn write_dynamodb_json(&self, out: &mut Vec<u8>) {
        write_members(self, out, Attribute::write_dynamodb_json);
    }
}

impl Attribute {
    /// The name of its type as DynamoDB spells it.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Attribute::S(_) => "S",
            Attribute::N(_) => "N",
            Attribute::B(_) => "B",
            Attribute::Bool(_) => "BOOL",
            Attribute::Null => "NULL",
            Attribute::L(_) => "L",
            Attribute::M(_) => "M",
            Attribute::Ss(_) => "SS",
            Attribute::Ns(_) => "NS",
            Attribute::Bs(_) => "BS",
        }
    }

    /// Appends the value as plain JSON: numbers with the digits DynamoDB sent, bytes in base64, sets as arrays.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        match self {
            Attribute::S(text) => write_text(text, out),
            Attribute::N(digits) => write_number(digits, out),
            Attribute::B(bytes) => write_text(&STANDARD.encode(bytes), out),
            Attribute::Bool(true) => out.extend_from_slice(b"true"),
            Attribute::Bool(false) => out.extend_from_slice(b"false"),
            Attribute::Null => out.extend_from_slice(b"null"),
            Attribute::L(items) => write_list(items, out, |item, out| item.write_json(out)),
            Attribute::M(map) => write_json_object(map, out),
            Attribute::Ss(set) => write_list(set, out, |text, out| write_text(text, out)),
            Attribute::Ns(set) => write_list(set, out, |digits, out| write_number(digits, out)),
            Attribute::Bs(set) => write_list(set, out, |bytes, out| write_text(&STANDARD.encode(bytes), out)),
        }
    }

    /// Appends the value in DynamoDB's JSON, `{"S":"text"}`.
    pub fn write_dynamodb_json(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"");
        out.extend_from_slice(self.type_name().as_bytes());
        out.extend_from_slice(b"\":");
        match self {
            Attribute::S(_) | Attribute::B(_) | Attribute::Bool(_) | Attribute::Ss(_) | Attribute::Bs(_) => {
                self.write_json(out);
            }
            Attribute::N(digits) => write_text(digits, out),
            Attribute::Null => out.extend_from_slice(b"true"),
            Attribute::L(items) => write_list(items, out, |item, out| item.write_dynamodb_json(out)),
            Attribute::M(map) => write_members(map, out, Attribute::write_dynamodb_json),
            Attribute::Ns(set) => write_list(set, out, |digits, out| write_text(digits, out)),
        }
        out.push(b'}');
    }
}

/// Appends a map of attributes as a plain JSON object.
pub(crate) fn write_json_object<'a>(
    attributes: impl IntoIterator<Item = (&'a String, &'a Attribute)>,
    out: &mut Vec<u8>,
) {
    write_members(attributes, out, Attribute::write_json);
}

fn write_members<'a>(
    attributes: impl IntoIterator<Item = (&'a String, &'a Attribute)>,
    out: &mut Vec<u8>,
    write: impl Fn(&Attribute, &mut Vec<u8>),
) {
    out.push(b'{');
    for (index, (name, value)) in attributes.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_text(name, out);
        out.push(b':');
        write(value, out);
    }
    out.push(b'}');
}

fn write_list<T>(items: impl IntoIterator<Item = T>, out: &mut Vec<u8>, write: impl Fn(T, &mut Vec<u8>)) {
    out.push(b'[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    // A text is always representable, so that the only error of this call, a failing writer, cannot occur.
    let _infallible = serde_json::to_writer(out, text);
}

fn write_number(digits: &str, out: &mut Vec<u8>) {
    match canonical_number(digits) {
        Some(number) => out.extend_from_slice(number.as_bytes()),
        None => write_text(digits, out),
    }
}

/// Writes a DynamoDB number the one way in which keys and JSON carry it: plain decimal notation without exponent,
/// plus sign, leading or trailing zeros; zero is `0`. `None` where the text is no number DynamoDB can hold.
#[must_use]
pub fn canonical_number(text: &str) -> Option<Cow<'_, str>> {
    if is_plain_integer(text) {
        return Some(Cow::Borrowed(text));
    }
    let (negative, unsigned) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
    if !digits.iter().all(u8::is_ascii_digit) || exponent.unsigned_abs() > 200 || digits.len() > 200 {
        return None;
    }
    let point = whole.len() as i64 + i64::from(exponent);
    Some(Cow::Owned(plain_notation(negative, &digits, point)))
}

fn is_plain_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes();
    match digits.first() {
        Some(b'0') => text == "0",
        Some(_) => digits.len() <= 200 && digits.iter().all(u8::is_ascii_digit),
        None => false,
    }
}

/// Writes `0.digits × 10^point` without exponent; `point` counts the digits before the decimal point.
fn plain_notation(negative: bool, digits: &[u8], point: i64) -> String {
    let digit_at = |place: i64| match usize::try_from(place) {
        Ok(place) => digits.get(place).copied().unwrap_or(b'0') as char,
        Err(_) => '0',
    };
    let whole: String = (0..point).map(digit_at).collect();
    let fraction: String = (point..digits.len() as i64).map(digit_at).collect();
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    let mut out = String::with_capacity(whole.len() + fraction.len() + 3);
    if negative && !(whole.is_empty() && fraction.is_empty()) {
        out.push('-');
    }
    out.push_str(if whole.is_empty() { "0" } else { whole });
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_one_rendering() {
        for (given, expected) in [
            ("42", "42"),
            ("-42", "-42"),
            ("0", "0"),
            ("-0", "0"),
            ("+7", "7"),
            ("007", "7"),
            ("1.50", "1.5"),
            ("1.0", "1"),
            (".5", "0.5"),
            ("-0.25", "-0.25"),
            ("1e3", "1000"),
            ("1.5E-3", "0.0015"),
            ("12.34e1", "123.4"),
            ("123456789012345678901234567890.12345678", "123456789012345678901234567890.12345678"),
        ] {
            assert_eq!(canonical_number(given).as_deref(), Some(expected), "{given}");
        }
        assert_eq!(canonical_number("1e125").map(|n| n.len()), Some(126));
        for no_number in ["", "-", ".", "e5", "abc", "1e", "1e999", "0x10", "NaN", "1.2.3"] {
            assert_eq!(canonical_number(no_number), None, "{no_number}");
        }
    }

    #[test]
    fn json_keeps_every_digit_and_escapes_texts() {
        let item = BTreeMap::from([
            ("n".to_owned(), Attribute::N("12345678901234567890123456789012345678".to_owned())),
            ("s".to_owned(), Attribute::S("a \"quoted\"\nline".to_owned())),
            ("b".to_owned(), Attribute::B(vec![0, 255])),
            ("set".to_owned(), Attribute::Ns(BTreeSet::from(["1.50".to_owned()]))),
            ("l".to_owned(), Attribute::L(vec![Attribute::Null, Attribute::Bool(true)])),
        ]);
        let mut out = Vec::new();
        Attribute::M(item).write_json(&mut out);
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"b":"AP8=","l":[null,true],"n":12345678901234567890123456789012345678,"s":"a \"quoted\"\nline","set":[1.5]}"#
        );
    }
}
