//! What reads are given as keys.

use std::borrow::Cow;

use ringtide_core::key::{CacheKey, KeyError, KeyPart, Template};

/// A whole key: a text, or a [`CacheKey`] made once, which saves an allocation a read.
pub trait IntoKey {
    /// Makes it a key.
    ///
    /// # Errors
    /// [`KeyError::Empty`] and [`KeyError::TooLong`].
    fn into_key(self) -> Result<CacheKey, KeyError>;
}

impl IntoKey for &str {
    fn into_key(self) -> Result<CacheKey, KeyError> {
        CacheKey::new(self)
    }
}

impl IntoKey for String {
    fn into_key(self) -> Result<CacheKey, KeyError> {
        CacheKey::new(self)
    }
}

impl IntoKey for &String {
    fn into_key(self) -> Result<CacheKey, KeyError> {
        CacheKey::new(self.as_str())
    }
}

impl IntoKey for CacheKey {
    fn into_key(self) -> Result<CacheKey, KeyError> {
        Ok(self)
    }
}

impl IntoKey for &CacheKey {
    fn into_key(self) -> Result<CacheKey, KeyError> {
        Ok(self.clone())
    }
}

/// The values of a key template's placeholders, in its order: one value, or a tuple or array of them.
///
/// Texts, integers, truth values and byte slices are values, and so are references to them; each is rendered as the
/// invalidators render the attribute of that type.
pub trait IntoKeyParts<'a> {
    /// An array of the values.
    type Parts: AsRef<[KeyPart<'a>]>;

    /// Makes them key parts.
    fn into_key_parts(self) -> Self::Parts;
}

/// A key of a key space: the values of its template's placeholders, or a [`CacheKey`] that [`crate::Space::key`] has
/// rendered before.
pub trait SpaceKey<'a> {
    /// Makes it a key, by the key space's template where it is none yet.
    ///
    /// # Errors
    /// [`KeyError::Parts`] where the number of values differs, and [`KeyError::TooLong`].
    fn of_space(self, template: &Template) -> Result<Cow<'a, CacheKey>, KeyError>;
}

impl<'a, P: IntoKeyParts<'a>> SpaceKey<'a> for P {
    #[inline]
    fn of_space(self, template: &Template) -> Result<Cow<'a, CacheKey>, KeyError> {
        template.render(self.into_key_parts().as_ref()).map(Cow::Owned)
    }
}

impl<'a> SpaceKey<'a> for &'a CacheKey {
    #[inline]
    fn of_space(self, _: &Template) -> Result<Cow<'a, CacheKey>, KeyError> {
        Ok(Cow::Borrowed(self))
    }
}

impl SpaceKey<'static> for CacheKey {
    #[inline]
    fn of_space(self, _: &Template) -> Result<Cow<'static, CacheKey>, KeyError> {
        Ok(Cow::Owned(self))
    }
}

macro_rules! single {
    ($($value:ty),*) => {$(
        impl<'a> IntoKeyParts<'a> for $value {
            type Parts = [KeyPart<'a>; 1];

            fn into_key_parts(self) -> Self::Parts {
                [self.into()]
            }
        }
    )*};
}

single!(
    &'a str,
    &'a String,
    String,
    &'a [u8],
    bool,
    KeyPart<'a>,
    u8,
    u16,
    u32,
    u64,
    u128,
    usize,
    i8,
    i16,
    i32,
    i64,
    i128,
    isize
);

single!(
    &'a Vec<u8>,
    &'a bool,
    &'a u8,
    &'a u16,
    &'a u32,
    &'a u64,
    &'a u128,
    &'a usize,
    &'a i8,
    &'a i16,
    &'a i32,
    &'a i64,
    &'a i128,
    &'a isize
);

impl<'a, 'b: 'a> IntoKeyParts<'a> for &'a &'b str {
    type Parts = [KeyPart<'a>; 1];

    fn into_key_parts(self) -> Self::Parts {
        [self.into()]
    }
}

impl<'a, V: Into<KeyPart<'a>>, const N: usize> IntoKeyParts<'a> for [V; N] {
    type Parts = [KeyPart<'a>; N];

    fn into_key_parts(self) -> Self::Parts {
        self.map(Into::into)
    }
}

impl<'a, V, const N: usize> IntoKeyParts<'a> for &'a [V; N]
where
    &'a V: Into<KeyPart<'a>>,
{
    type Parts = [KeyPart<'a>; N];

    fn into_key_parts(self) -> Self::Parts {
        self.each_ref().map(Into::into)
    }
}

macro_rules! tuple {
    ($count:literal: $($value:ident)*) => {
        impl<'a, $($value: Into<KeyPart<'a>>),*> IntoKeyParts<'a> for ($($value,)*) {
            type Parts = [KeyPart<'a>; $count];

            #[allow(non_snake_case)]
            fn into_key_parts(self) -> Self::Parts {
                let ($($value,)*) = self;
                [$($value.into()),*]
            }
        }

        impl<'a, $($value),*> IntoKeyParts<'a> for &'a ($($value,)*)
        where
            $(&'a $value: Into<KeyPart<'a>>),*
        {
            type Parts = [KeyPart<'a>; $count];

            #[allow(non_snake_case)]
            fn into_key_parts(self) -> Self::Parts {
                let ($($value,)*) = self;
                [$($value.into()),*]
            }
        }
    };
}

tuple!(0:);
tuple!(1: A);
tuple!(2: A B);
tuple!(3: A B C);
tuple!(4: A B C D);

#[cfg(test)]
mod tests {
    use ringtide_core::key::Template;

    use super::*;

    #[test]
    fn parts_of_every_shape_render_as_the_template_says() {
        fn render<'a>(template: &str, parts: impl IntoKeyParts<'a>) -> String {
            Template::parse(template).unwrap().render(parts.into_key_parts().as_ref()).unwrap().to_string()
        }
        assert_eq!(render("product:{pk}", 42), "product:42");
        assert_eq!(render("product:{pk}", "a"), "product:a");
        assert_eq!(render("line:{pk}:{sk}", ("order", 7_u64)), "line:order:7");
        assert_eq!(render("line:{pk}:{sk}", ["a", "b"]), "line:a:b");
        assert_eq!(render("home:top", ()), "home:top");
    }

    #[test]
    fn a_reference_renders_as_what_it_points_to() {
        fn both<K>(template: &str, key: K) -> String
        where
            for<'k> &'k K: IntoKeyParts<'k>,
        {
            Template::parse(template).unwrap().render((&key).into_key_parts().as_ref()).unwrap().to_string()
        }
        assert_eq!(both("product:{pk}", 42_u64), "product:42");
        assert_eq!(both("product:{pk}", "a"), "product:a");
        assert_eq!(both("product:{pk}", "a".to_owned()), "product:a");
        assert_eq!(both("line:{pk}:{sk}", ("order".to_owned(), -7_i32)), "line:order:-7");
        assert_eq!(both("line:{pk}:{sk}", ["a", "b"]), "line:a:b");
        assert_eq!(both("blob:{pk}", vec![0xff_u8, 0xfe]), "blob:__4");
        assert_eq!(both("home:top", ()), "home:top");
    }
}
