//! The promises, and whether they were kept.

use super::screen::Screen;

/// Promises in the order in which they were tried.
#[derive(Debug, Default)]
pub(super) struct Report {
    promises: Vec<Promise>,
}

#[derive(Debug)]
struct Promise {
    kept: bool,
    name: &'static str,
    seen: String,
}

impl Report {
    /// Notes a promise with what was seen.
    pub(super) fn promise(&mut self, kept: bool, name: &'static str, seen: String) {
        self.promises.push(Promise { kept, name, seen });
    }

    /// Whether all were kept.
    pub(super) fn kept(&self) -> bool {
        self.promises.iter().all(|promise| promise.kept)
    }

    /// Prints all of them, then the broken ones by name.
    pub(super) fn print(&self, screen: &Screen) {
        let width = self.promises.iter().map(|promise| promise.name.len()).max().unwrap_or_default();
        for Promise { kept, name, seen } in &self.promises {
            screen.say(&format!("  {} {name:width$}  {seen}", screen.mark(*kept)));
        }
        let broken: Vec<&str> =
            self.promises.iter().filter(|promise| !promise.kept).map(|promise| promise.name).collect();
        match broken.as_slice() {
            [] => screen.say(&format!("\nall {} promises kept", self.promises.len())),
            broken => screen.say(&format!("\nbroken: {}", broken.join("; "))),
        }
    }
}
