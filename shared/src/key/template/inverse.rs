//! From a key back to the values that it was rendered from.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::{KeyPart, Template};
use crate::record::{Attribute, canonical_number};

impl Template {
    /// Reads the rendered values back from a key, in the order of [`Template::attributes`]; `None` for a text that the
    /// template does not render.
    ///
    /// A text says nothing of its type: `42` may have been a number as well as a text. [`attribute_of_rendered`] makes the
    /// attribute, where the type is known.
    #[must_use]
    pub fn invert(&self, key: &str) -> Option<Vec<String>> {
        let mut rest = key.strip_prefix(&self.prefix)?;
        let mut values = Vec::with_capacity(self.placeholders.len());
        for placeholder in &self.placeholders {
            let value = match placeholder.separator {
                Some(separator) => {
                    let end = rest.find(char::from(separator))?;
                    let (value, after) = rest.split_at(end);
                    rest = after.strip_prefix(placeholder.after.as_str())?;
                    decoded(value)?
                }
                None => std::mem::take(&mut rest).strip_suffix(placeholder.after.as_str())?.to_owned(),
            };
            values.push(value);
        }
        let parts: Vec<KeyPart<'_>> = values.iter().map(KeyPart::from).collect();
        let same = rest.is_empty() && self.render(&parts).is_ok_and(|rendered| rendered.as_str() == key);
        same.then_some(values)
    }
}

/// The attribute of a type (`S`, `N`, `B`) that a key renders as this text; `None` where no attribute of the type does.
#[must_use]
pub fn attribute_of_rendered(text: &str, type_name: &str) -> Option<Attribute> {
    match type_name {
        "S" => Some(Attribute::S(text.to_owned())),
        "N" => canonical_number(text).filter(|number| number == text).map(|number| Attribute::N(number.into_owned())),
        "B" => URL_SAFE_NO_PAD.decode(text).ok().map(Attribute::B),
        _ => None,
    }
}

/// Undoes percent-encoding.
fn decoded(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let code = u8::from_str_radix(after.get(..2)?, 16).ok().filter(u8::is_ascii)?;
        out.push(char::from(code));
        rest = after.get(2..)?;
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_rendered_is_read_back(a in "[a-c:%/3Aä]{0,6}", b in "[a-c:%/3Aä]{0,6}") {
            for text in ["k:{x}:{y}", "k:{x}:{y}:end", "k:{x}/{y}", "{{{x}:{y}}}"] {
                let template = Template::parse(text).unwrap();
                let key = template.render(&[(&a).into(), (&b).into()]).unwrap();
                prop_assert_eq!(template.invert(key.as_str()), Some(vec![a.clone(), b.clone()]), "{} {}", text, key);
            }
        }

        #[test]
        fn no_text_panics(key in "[k:%x3A/ä]{0,12}") {
            for text in ["k:{x}:{y}", "k:{x}/{y}:end", "k:"] {
                let _any = Template::parse(text).unwrap().invert(&key);
            }
        }
    }

    #[test]
    fn a_key_of_another_template_is_not_read() {
        let template = Template::parse("product:{pk}:{sk}").unwrap();
        for key in ["product:1", "order:1:2", "product", "product:%3a:2", "product:%41:2", ""] {
            assert_eq!(template.invert(key), None, "{key}");
        }
        assert_eq!(template.invert("product:1:2:3"), Some(vec!["1".to_owned(), "2:3".to_owned()]));
    }

    #[test]
    fn a_rendered_text_is_an_attribute_only_of_types_that_render_it() {
        assert_eq!(attribute_of_rendered("42", "N"), Some(Attribute::N("42".to_owned())));
        assert_eq!(attribute_of_rendered("042", "N"), None);
        assert_eq!(attribute_of_rendered("__4", "B"), Some(Attribute::B(vec![0xff, 0xfe])));
        assert_eq!(attribute_of_rendered("a b", "B"), None);
        assert_eq!(attribute_of_rendered("x", "BOOL"), None);
    }
}
