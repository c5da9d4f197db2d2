//! Parked records as files of a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use super::{ParkError, ParkStore, ParkedRecord};

/// Keeps each parked record in a file of its own, `table/yyyy/mm/dd/sequence.json` below the directory.
///
/// A file is there as a whole or not at all, and survives the machine once it is acknowledged.
#[derive(Clone, Debug)]
pub struct DirectoryPark {
    root: Arc<Path>,
}

impl DirectoryPark {
    /// Keeps records below `root`, which is created when the first one comes.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { root: Arc::from(root) }
    }
}

#[async_trait]
impl ParkStore for DirectoryPark {
    async fn park(&self, record: &ParkedRecord) -> Result<(), ParkError> {
        let (root, name, json) = (Arc::clone(&self.root), record.name(), record.to_json());
        let written = tokio::task::spawn_blocking(move || write(&root, &name, &json)).await;
        let store = || Arc::from(self.root.display().to_string());
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(refused(store(), &error)),
            Err(_) => Err(ParkError::Unavailable { store: store(), reason: "the writing broke off".to_owned() }),
        }
    }
}

fn refused(store: Arc<str>, error: &io::Error) -> ParkError {
    let reason = error.to_string();
    match error.kind() {
        io::ErrorKind::PermissionDenied | io::ErrorKind::NotADirectory | io::ErrorKind::ReadOnlyFilesystem => {
            ParkError::Refused { store, reason }
        }
        _ => ParkError::Unavailable { store, reason },
    }
}

/// Writes beside the place and renames: a reader never sees half a file.
fn write(root: &Path, name: &str, json: &str) -> io::Result<()> {
    static WRITTEN: AtomicU64 = AtomicU64::new(0);
    let path = root.join(name);
    let folder = path.parent().unwrap_or(root);
    fs::create_dir_all(folder)?;
    let number = WRITTEN.fetch_add(1, Ordering::Relaxed);
    let unfinished = folder.join(format!(".{}-{number}.tmp", std::process::id()));
    let stored = (|| {
        // What a process of the same id left behind is overwritten.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&unfinished)?;
        file.write_all(json.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&unfinished, &path)
    })();
    if let Err(error) = stored {
        // The error that matters is the first one.
        let _left_behind = fs::remove_file(&unfinished);
        return Err(error);
    }
    // A name is kept only when its folder is, up to the folder that was there before.
    for folder in folder.ancestors().take_while(|folder| folder.starts_with(root)) {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(root: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else {
                    found.push(path.strip_prefix(root).unwrap().display().to_string());
                }
            }
        }
        found
    }

    #[tokio::test]
    async fn a_record_that_comes_again_overwrites_itself() {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryPark::new(folder.path().join("parked"));
        let mut record = ParkedRecord {
            table: Some("products".into()),
            sequence: Some("42".parse().unwrap()),
            reason: "first".into(),
            ..ParkedRecord::default()
        };
        store.park(&record).await.unwrap();
        record.reason = "second".into();
        store.park(&record).await.unwrap();
        assert_eq!(files(folder.path()), ["parked/products/1970/01/01/42.json"]);
        let text = fs::read_to_string(folder.path().join("parked/products/1970/01/01/42.json")).unwrap();
        assert_eq!(serde_json::from_str::<ParkedRecord>(&text).unwrap(), record);
    }

    #[tokio::test]
    async fn what_cannot_be_written_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryPark::new(folder.path().to_owned());
        let record = ParkedRecord { sequence: Some("42".parse().unwrap()), ..ParkedRecord::default() };
        // A folder stands where the file should go.
        fs::create_dir_all(folder.path().join(record.name()).join("in the way")).unwrap();
        store.park(&record).await.unwrap_err();
        assert!(files(folder.path()).is_empty());
        let file = folder.path().join("file");
        fs::write(&file, "no folder").unwrap();
        let error = DirectoryPark::new(file).park(&record).await.unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
