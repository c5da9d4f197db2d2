//! What the environment asks of a test or a benchmark.

/// A number that is asked for by an environment variable; nothing where that is missing, or empty as `make` leaves it.
///
/// # Panics
/// With the variable's name where it holds something else.
#[must_use]
pub fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok().filter(|text| !text.is_empty())?;
    let number = text.parse();
    assert!(number.is_ok(), "{name}={text} is not a number");
    number.ok()
}
