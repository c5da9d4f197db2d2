//! Key templates: `product:{pk}`, `category:{category}:top`.

mod inverse;

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use smol_str::{SmolStr, SmolStrBuilder};

pub use inverse::attribute_of_rendered;

use super::{CacheKey, KeyError, MAX_KEY_LEN};
use crate::record::{Attribute, canonical_number};

/// A key with placeholders for attributes; `{{` and `}}` stand for braces (a hash tag around a placeholder is `{{{pk}}}`).
///
/// Texts are rendered as they are, numbers in plain decimal notation, bytes in unpadded base64url, truth values as
/// `true` and `false`. In a placeholder that another one follows, `%` and the first byte after it in the template are
/// percent-encoded within the value, so that two different lists of values never render the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    /// What stands before the first placeholder.
    prefix: String,
    placeholders: Vec<Placeholder>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Placeholder {
    attribute: String,
    /// The literal text up to the next placeholder or the end.
    after: String,
    /// The byte that is encoded within the value, where another placeholder follows.
    separator: Option<u8>,
}

/// A template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template has no byte.
    #[error("the template is empty")]
    Empty,
    /// It begins with a placeholder.
    #[error("the template begins with a placeholder, so that its keys cannot be told from others")]
    NoPrefix,
    /// A placeholder is not closed.
    #[error("the placeholder that opens at byte {at} is not closed; write {{{{ for a brace")]
    Unclosed {
        /// The offset of its brace.
        at: usize,
    },
    /// A closing brace that opens nothing.
    #[error("the brace at byte {at} closes nothing; write }}}} for a brace")]
    Unopened {
        /// The offset of the brace.
        at: usize,
    },
    /// A placeholder without a name.
    #[error("the placeholder at byte {at} names no attribute")]
    Unnamed {
        /// The offset of its brace.
        at: usize,
    },
    /// The same attribute twice.
    #[error("the attribute {0:?} stands in it twice")]
    Twice(String),
    /// Two placeholders with nothing between them.
    #[error("{{{0}}} and {{{1}}} touch; put a separator such as \":\" between them, or different items share a key")]
    Touching(String, String),
    /// A separator that could be part of a longer character.
    #[error("the text after {{{0}}} has to begin with an ASCII character that separates it from the next placeholder")]
    Separator(String),
}

/// A value for a placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyPart<'a> {
    /// A text, rendered as it is.
    Text(Cow<'a, str>),
    /// A number in plain decimal notation.
    Number(Cow<'a, str>),
    /// An integer.
    Unsigned(u64),
    /// An integer.
    Signed(i64),
    /// Bytes, rendered in unpadded base64url.
    Bytes(Cow<'a, [u8]>),
    /// A truth value.
    Bool(bool),
}

impl<'a> KeyPart<'a> {
    /// Takes an attribute; `None` for types that no key is made of (null, lists, maps, sets) and for malformed numbers.
    #[must_use]
    pub fn of(attribute: &'a Attribute) -> Option<Self> {
        match attribute {
            Attribute::S(text) => Some(KeyPart::Text(Cow::Borrowed(text))),
            Attribute::N(digits) => canonical_number(digits).map(KeyPart::Number),
            Attribute::B(bytes) => Some(KeyPart::Bytes(Cow::Borrowed(bytes))),
            Attribute::Bool(value) => Some(KeyPart::Bool(*value)),
            Attribute::Null
            | Attribute::L(_)
            | Attribute::M(_)
            | Attribute::Ss(_)
            | Attribute::Ns(_)
            | Attribute::Bs(_) => None,
        }
    }

    /// How many bytes it takes at least.
    #[inline]
    fn least(&self) -> usize {
        match self {
            KeyPart::Text(text) | KeyPart::Number(text) => text.len(),
            KeyPart::Bytes(bytes) => bytes.len(),
            KeyPart::Unsigned(_) | KeyPart::Signed(_) | KeyPart::Bool(_) => 1,
        }
    }

    fn write(&self, separator: Option<u8>, key: &mut impl Write) -> fmt::Result {
        match self {
            KeyPart::Text(text) | KeyPart::Number(text) => write_value(text, separator, key),
            KeyPart::Unsigned(number) => write_value(itoa::Buffer::new().format(*number), separator, key),
            KeyPart::Signed(number) => write_value(itoa::Buffer::new().format(*number), separator, key),
            KeyPart::Bytes(bytes) => write_value(&URL_SAFE_NO_PAD.encode(bytes), separator, key),
            KeyPart::Bool(true) => write_value("true", separator, key),
            KeyPart::Bool(false) => write_value("false", separator, key),
        }
    }
}

impl<'a> From<&'a str> for KeyPart<'a> {
    fn from(text: &'a str) -> Self {
        KeyPart::Text(Cow::Borrowed(text))
    }
}

impl<'a> From<&'a String> for KeyPart<'a> {
    fn from(text: &'a String) -> Self {
        KeyPart::Text(Cow::Borrowed(text))
    }
}

impl From<String> for KeyPart<'_> {
    fn from(text: String) -> Self {
        KeyPart::Text(Cow::Owned(text))
    }
}

impl<'a> From<&'a [u8]> for KeyPart<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        KeyPart::Bytes(Cow::Borrowed(bytes))
    }
}

impl<'a> From<&'a Vec<u8>> for KeyPart<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        KeyPart::Bytes(Cow::Borrowed(bytes))
    }
}

impl<'a> From<&'a &str> for KeyPart<'a> {
    fn from(text: &'a &str) -> Self {
        KeyPart::Text(Cow::Borrowed(text))
    }
}

impl From<bool> for KeyPart<'_> {
    fn from(value: bool) -> Self {
        KeyPart::Bool(value)
    }
}

impl From<&bool> for KeyPart<'_> {
    fn from(value: &bool) -> Self {
        KeyPart::Bool(*value)
    }
}

macro_rules! from_integers {
    ($part:expr; $($integer:ty),*) => {$(
        impl From<$integer> for KeyPart<'_> {
            fn from(number: $integer) -> Self {
                $part(number as _)
            }
        }

        impl From<&$integer> for KeyPart<'_> {
            fn from(number: &$integer) -> Self {
                (*number).into()
            }
        }
    )*};
}

from_integers!(KeyPart::Unsigned; u8, u16, u32, u64, usize);
from_integers!(KeyPart::Signed; i8, i16, i32, i64, isize);
from_integers!(|number: u128| KeyPart::Number(Cow::Owned(number.to_string())); u128);
from_integers!(|number: i128| KeyPart::Number(Cow::Owned(number.to_string())); i128);

thread_local! {
    /// What the next long key is rendered into, so that it costs one allocation.
    static SCRATCH: Cell<String> = const { Cell::new(String::new()) };
}

/// A key that takes no allocation; writing fails once it would.
#[derive(Default)]
struct Short(SmolStrBuilder);

impl Write for Short {
    #[inline]
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > SmolStr::INLINE_CAP {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

impl Template {
    /// The template of keys that are given whole: `{key}`.
    #[must_use]
    pub fn whole() -> Self {
        let only = Placeholder { attribute: "key".to_owned(), after: String::new(), separator: None };
        Self { text: "{key}".to_owned(), prefix: String::new(), placeholders: vec![only] }
    }

    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`], with the place.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        if text.is_empty() {
            return Err(TemplateError::Empty);
        }
        let (prefix, mut rest) = literal(text, 0)?;
        let mut placeholders: Vec<Placeholder> = Vec::new();
        while let Some(at) = rest {
            let (name, after_name) = text[at + 1..].split_once('}').ok_or(TemplateError::Unclosed { at })?;
            if name.is_empty() {
                return Err(TemplateError::Unnamed { at });
            }
            if placeholders.iter().any(|p| p.attribute == name) {
                return Err(TemplateError::Twice(name.to_owned()));
            }
            let (after, next) = literal(text, text.len() - after_name.len())?;
            placeholders.push(Placeholder { attribute: name.to_owned(), after, separator: None });
            rest = next;
        }
        let names: Vec<String> = placeholders.iter().skip(1).map(|p| p.attribute.clone()).collect();
        for (placeholder, next) in placeholders.iter_mut().zip(names) {
            placeholder.separator = match placeholder.after.bytes().next() {
                None => return Err(TemplateError::Touching(placeholder.attribute.clone(), next)),
                Some(byte) if byte.is_ascii() && byte != b'%' && !byte.is_ascii_hexdigit() => Some(byte),
                Some(_) => return Err(TemplateError::Separator(placeholder.attribute.clone())),
            };
        }
        if prefix.is_empty() {
            return Err(TemplateError::NoPrefix);
        }
        Ok(Self { text: text.to_owned(), prefix, placeholders })
    }

    /// The attributes it names, in order.
    pub fn attributes(&self) -> impl ExactSizeIterator<Item = &str> {
        self.placeholders.iter().map(|placeholder| placeholder.attribute.as_str())
    }

    /// What every key of the template begins with.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Renders a key from values in the order of [`Template::attributes`].
    ///
    /// # Errors
    /// [`KeyError::Parts`] where the number of values differs, [`KeyError::TooLong`] and [`KeyError::Empty`].
    pub fn render(&self, parts: &[KeyPart<'_>]) -> Result<CacheKey, KeyError> {
        if parts.len() != self.placeholders.len() {
            return Err(KeyError::Parts {
                template: self.text.clone(),
                expected: self.placeholders.len(),
                given: parts.len(),
            });
        }
        let mut short = Short::default();
        let least = self.prefix.len() + parts.iter().map(KeyPart::least).sum::<usize>();
        if least <= SmolStr::INLINE_CAP && self.write(parts, &mut short).is_ok() && !short.0.is_empty() {
            return Ok(CacheKey(short.0.finish()));
        }
        // There is none while the thread ends.
        let mut key = SCRATCH.try_with(Cell::take).unwrap_or_default();
        key.clear();
        let _infallible = self.write(parts, &mut key);
        let rendered = CacheKey::new(key.as_str());
        if key.capacity() <= 2 * MAX_KEY_LEN {
            let _kept = SCRATCH.try_with(|scratch| scratch.set(key));
        }
        rendered
    }

    #[inline]
    fn write(&self, parts: &[KeyPart<'_>], key: &mut impl Write) -> fmt::Result {
        key.write_str(&self.prefix)?;
        for (placeholder, part) in self.placeholders.iter().zip(parts) {
            part.write(placeholder.separator, key)?;
            if !placeholder.after.is_empty() {
                key.write_str(&placeholder.after)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn write_value(value: &str, separator: Option<u8>, key: &mut impl Write) -> fmt::Result {
    match separator {
        Some(separator) if value.bytes().any(|byte| byte == separator || byte == b'%') => {
            value.chars().try_for_each(|character| {
                if character == '%' || character == char::from(separator) {
                    write!(key, "%{:02X}", character as u32)
                } else {
                    key.write_char(character)
                }
            })
        }
        Some(_) | None => key.write_str(value),
    }
}

/// Reads literal text from byte `at` to the next placeholder, and tells where that opens.
fn literal(text: &str, at: usize) -> Result<(String, Option<usize>), TemplateError> {
    let mut out = String::new();
    let mut characters = text[at..].char_indices().peekable();
    while let Some((offset, character)) = characters.next() {
        let doubled = characters.peek().is_some_and(|(_, next)| *next == character);
        match character {
            '{' | '}' if doubled => {
                characters.next();
                out.push(character);
            }
            '{' => return Ok((out, Some(at + offset))),
            '}' => return Err(TemplateError::Unopened { at: at + offset }),
            other => out.push(other),
        }
    }
    Ok((out, None))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn render(template: &str, parts: &[KeyPart<'_>]) -> String {
        Template::parse(template).unwrap().render(parts).unwrap().as_str().to_owned()
    }

    #[test]
    fn each_type_has_one_rendering() {
        assert_eq!(render("product:{pk}", &["a:b%c".into()]), "product:a:b%c");
        assert_eq!(render("product:{pk}", &[42_u64.into()]), "product:42");
        assert_eq!(render("product:{pk}", &[i64::MIN.into()]), "product:-9223372036854775808");
        assert_eq!(render("product:{pk}", &[u64::MAX.into()]), "product:18446744073709551615");
        assert_eq!(render("product:{pk}", &[i128::MIN.into()]), "product:-170141183460469231731687303715884105728");
        assert_eq!(render("product:{pk}", &[KeyPart::of(&Attribute::N("42.0".into())).unwrap()]), "product:42");
        assert_eq!(render("blob:{pk}", &[(&b"\xff\xfe"[..]).into()]), "blob:__4");
        assert_eq!(render("flag:{on}:x", &[true.into()]), "flag:true:x");
        assert_eq!(render("home:top", &[]), "home:top");
        assert_eq!(render("{{{pk}}}:cart", &["u7".into()]), "{u7}:cart");
        assert_eq!(KeyPart::of(&Attribute::Null), None);
    }

    #[test]
    fn a_key_of_any_length_is_rendered_alike() {
        let longest = MAX_KEY_LEN - "product::x".len();
        for length in (0..60).chain([longest]) {
            let name = "ü".repeat(length / 2) + &"n".repeat(length % 2);
            assert_eq!(render("product:{pk}:x", &[name.as_str().into()]), format!("product:{name}:x"));
        }
        let template = Template::parse("product:{pk}:x").unwrap();
        let error = template.render(&["n".repeat(longest + 1).into()]).unwrap_err();
        assert_eq!(error, KeyError::TooLong { len: MAX_KEY_LEN + 1 });
        assert_eq!(Template::whole().render(&["".into()]), Err(KeyError::Empty));
    }

    proptest! {
        #[test]
        fn different_values_never_share_a_key(
            a in ("[a:%3A]{0,4}", "[a:%3A]{0,4}"), b in ("[a:%3A]{0,4}", "[a:%3A]{0,4}")
        ) {
            prop_assume!(a != b);
            let key = |(x, y): &(String, String)| render("k:{x}:{y}", &[x.into(), y.into()]);
            prop_assert_ne!(key(&a), key(&b));
        }
    }

    #[test]
    fn a_malformed_template_is_refused_with_its_place() {
        let error = |text: &str| Template::parse(text).unwrap_err();
        assert_eq!(error(""), TemplateError::Empty);
        assert_eq!(error("product:{pk"), TemplateError::Unclosed { at: 8 });
        assert_eq!(error("product:pk}"), TemplateError::Unopened { at: 10 });
        assert_eq!(error("product:{}"), TemplateError::Unnamed { at: 8 });
        assert_eq!(error("{a}{b}"), TemplateError::Touching("a".into(), "b".into()));
        assert_eq!(error("{a}:{a}"), TemplateError::Twice("a".into()));
        assert_eq!(error("{a}7{b}"), TemplateError::Separator("a".into()));
        assert_eq!(error("{a}:b"), TemplateError::NoPrefix);
    }

    #[test]
    fn the_prefix_is_what_all_keys_begin_with() {
        assert_eq!(Template::parse("category:{c}:top").unwrap().prefix(), "category:");
        assert_eq!(Template::parse("{{{c}}}").unwrap().prefix(), "{");
    }
}
