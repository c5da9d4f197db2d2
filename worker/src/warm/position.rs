//! How far a warm-up has come, in a file, so that it can go on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use ringtide_core::record::{Attributes, JsonImage};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::item::Item;

/// Between two writes of the file.
const BETWEEN: Duration = Duration::from_secs(1);

/// Where one segment is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Position {
    /// At its beginning.
    Beginning,
    /// After the item with this key.
    After(Item),
    /// At its end.
    Done,
}

/// The positions of all segments, and the file that they are kept in.
#[derive(Debug)]
pub(crate) struct Positions {
    file: Option<PathBuf>,
    table: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    positions: Vec<Position>,
    stored: Option<Instant>,
}

/// A file that cannot be gone on from.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unusable {
    /// It cannot be read.
    #[error("{path} cannot be read: {reason}; remove it to begin anew")]
    Unreadable {
        /// The file.
        path: String,
        /// Why.
        reason: String,
    },
    /// It is of another warm-up.
    #[error("{path} is of table {table} in {segments} segments; give another file, or the same --table and --segments")]
    Another {
        /// The file.
        path: String,
        /// Its table.
        table: String,
        /// Its segments.
        segments: usize,
    },
}

#[derive(Serialize, Deserialize)]
struct File {
    table: String,
    segments: Vec<Segment>,
}

#[derive(Serialize, Deserialize)]
struct Segment {
    done: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<Box<RawValue>>,
}

/// A file that could not be written, and why.
type NotStored = (String, std::io::Error);

impl Positions {
    /// Goes on where a file stands, or begins where there is none.
    ///
    /// # Errors
    /// A file that cannot be read, or is of another table or number of segments.
    pub(crate) fn open_file(file: Option<&Path>, table: &str, segments: usize) -> Result<Self, Unusable> {
        let positions = match file.map(|file| (file, std::fs::read_to_string(file))) {
            None => vec![Position::Beginning; segments],
            Some((_, Err(error))) if error.kind() == std::io::ErrorKind::NotFound => {
                vec![Position::Beginning; segments]
            }
            Some((file, text)) => {
                let path = file.display().to_string();
                let read = text.map_err(|error| error.to_string()).and_then(|text| parse(&text));
                let (of, positions) = read.map_err(|reason| Unusable::Unreadable { path: path.clone(), reason })?;
                if of != table || positions.len() != segments {
                    return Err(Unusable::Another { path, table: of, segments: positions.len() });
                }
                positions
            }
        };
        let state = Mutex::new(State { positions, stored: None });
        Ok(Self { file: file.map(Path::to_owned), table: table.to_owned(), state })
    }

    /// The number of segments.
    pub(crate) fn segments(&self) -> usize {
        self.state().positions.len()
    }

    /// The segments that are not done, and where each goes on.
    pub(crate) fn open(&self) -> Vec<(usize, Option<Item>)> {
        let state = self.state();
        let open = state.positions.iter().enumerate().filter_map(|(segment, position)| match position {
            Position::Beginning => Some((segment, None)),
            Position::After(key) => Some((segment, Some(key.clone()))),
            Position::Done => None,
        });
        open.collect()
    }

    /// Notes how far a segment is; the file follows about once a second.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn reached(&self, segment: usize, position: Position) -> Result<(), NotStored> {
        let due = {
            let mut state = self.state();
            if let Some(place) = state.positions.get_mut(segment) {
                *place = position;
            }
            state.stored.is_none_or(|stored| stored.elapsed() >= BETWEEN)
        };
        if due { self.store() } else { Ok(()) }
    }

    /// Writes the file, whole or not at all; removes it once everything is done.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn store(&self) -> Result<(), NotStored> {
        let Some(file) = &self.file else { return Ok(()) };
        let mut state = self.state();
        state.stored = Some(Instant::now());
        let written = if state.positions.iter().all(|position| *position == Position::Done) {
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                Ok(()) | Err(_) => Ok(()),
            }
        } else {
            let mut name = file.as_os_str().to_owned();
            name.push(".new");
            let new = PathBuf::from(name);
            std::fs::write(&new, render(&self.table, &state.positions)?.as_bytes())
                .and_then(|()| std::fs::rename(&new, file))
        };
        written.map_err(|error| (file.display().to_string(), error))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn render(table: &str, positions: &[Position]) -> Result<String, NotStored> {
    let after = |position: &Position| match position {
        Position::After(key) => {
            let mut text = Vec::new();
            key.write_dynamodb_json(&mut text);
            String::from_utf8(text).ok().and_then(|text| RawValue::from_string(text).ok())
        }
        Position::Beginning | Position::Done => None,
    };
    let segment = |position: &Position| Segment { done: *position == Position::Done, after: after(position) };
    let file = File { table: table.to_owned(), segments: positions.iter().map(segment).collect() };
    serde_json::to_string_pretty(&file).map_err(|error| (String::new(), error.into()))
}

fn parse(text: &str) -> Result<(String, Vec<Position>), String> {
    let file: File = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let position = |segment: Segment| match (segment.done, segment.after) {
        (true, _) => Ok(Position::Done),
        (false, None) => Ok(Position::Beginning),
        (false, Some(key)) => {
            let key: BTreeMap<_, _> = JsonImage::new(key).all().map_err(|error| error.to_string())?;
            Ok(Position::After(key))
        }
    };
    let positions = file.segments.into_iter().map(position).collect::<Result<Vec<_>, String>>()?;
    Ok((file.table, positions))
}

#[cfg(test)]
mod tests {
    use ringtide_core::record::Attribute;

    use super::*;

    #[test]
    fn a_file_is_gone_on_from_and_removed_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("warm.json");
        let positions = Positions::open_file(Some(&path), "t", 2).unwrap();
        let key =
            Item::from([("pk".to_owned(), Attribute::B(vec![0, 255])), ("sk".to_owned(), Attribute::N("7".into()))]);
        positions.reached(1, Position::After(key.clone())).unwrap();
        let again = Positions::open_file(Some(&path), "t", 2).unwrap();
        assert_eq!(again.open(), [(0, None), (1, Some(key))]);
        again.reached(0, Position::Done).unwrap();
        again.reached(1, Position::Done).unwrap();
        again.store().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_file_of_another_warm_up_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("warm.json");
        Positions::open_file(Some(&path), "t", 2).unwrap().store().unwrap();
        for (table, segments) in [("u", 2), ("t", 3)] {
            let error = Positions::open_file(Some(&path), table, segments).unwrap_err();
            assert!(matches!(error, Unusable::Another { .. }), "{error}");
        }
        std::fs::write(&path, "{").unwrap();
        assert!(Positions::open_file(Some(&path), "t", 2).unwrap_err().to_string().contains("remove it"));
    }
}
