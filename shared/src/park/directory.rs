//! Parked records as files of a directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::stream::{self, BoxStream};
use futures_util::{StreamExt, TryStreamExt};

use super::reader::{SUFFIX, is_id};
use super::{Kept, ParkError, ParkReader, ParkStore, ParkedRecord};

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
        let (name, json) = (record.name(), record.to_json());
        self.blocking(move |root| write(root, &name, &json)).await
    }
}

impl DirectoryPark {
    /// Does what blocks on a thread that may.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, ParkError> {
        let root = Arc::clone(&self.root);
        let done = tokio::task::spawn_blocking(move || work(&root)).await;
        let store = || Arc::from(self.root.display().to_string());
        match done {
            Ok(done) => done.map_err(|error| refused(store(), &error)),
            Err(_) => Err(ParkError::Unavailable { store: store(), reason: "the work broke off".to_owned() }),
        }
    }

    async fn read(&self, name: String) -> Result<Option<Kept>, ParkError> {
        let path = name.clone();
        let text = self.blocking(move |root| found(fs::read(root.join(path)))).await?;
        let id = name.strip_suffix(SUFFIX).unwrap_or(&name).to_owned();
        Ok(text.map(|text| Kept::named(id, name, &text)))
    }
}

#[async_trait]
impl ParkReader for DirectoryPark {
    fn place(&self) -> String {
        format!("file://{}", self.root.display())
    }

    fn list(&self) -> BoxStream<'_, Result<Kept, ParkError>> {
        let names = async { Ok(stream::iter(self.blocking(names).await?).map(Ok)) };
        let records = stream::once(names).try_flatten();
        records.try_filter_map(|name| self.read(name)).boxed()
    }

    async fn find(&self, id: &str) -> Result<Vec<Kept>, ParkError> {
        let found = if is_id(id) { self.read(format!("{id}{SUFFIX}")).await? } else { None };
        Ok(found.into_iter().collect())
    }

    async fn remove(&self, kept: &Kept) -> Result<(), ParkError> {
        let name = kept.handle.clone();
        self.blocking(move |root| found(fs::remove_file(root.join(name))).map(drop)).await
    }

    async fn count(&self, most: u64) -> Result<u64, ParkError> {
        Ok(most.min(self.blocking(names).await?.len() as u64))
    }
}

/// What is not there is no error.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The names of all files that are there as a whole, in order; none where nothing was ever parked.
fn names(root: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let Some(entries) = found(fs::read_dir(root.join(&folder)))? else { continue };
        for entry in entries {
            let entry = entry?;
            // What this product writes has a name in UTF-8.
            let Ok(name) = entry.file_name().into_string() else { continue };
            let name = if folder.is_empty() { name } else { format!("{folder}/{name}") };
            if entry.file_type()?.is_dir() {
                folders.push(name);
            } else if name.ends_with(SUFFIX) {
                names.push(name);
            }
        }
    }
    names.sort_unstable();
    Ok(names)
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

    #[tokio::test]
    async fn what_is_parked_is_listed_found_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let store = DirectoryPark::new(folder.path().join("parked"));
        assert!(store.list().next().await.is_none(), "nothing was ever parked");
        let record = |sequence: &str| ParkedRecord {
            table: Some("products".into()),
            sequence: Some(sequence.parse().unwrap()),
            reason: "bad".into(),
            ..ParkedRecord::default()
        };
        for sequence in ["7", "42"] {
            store.park(&record(sequence)).await.unwrap();
        }
        fs::write(folder.path().join("parked/notes.json"), "[]").unwrap();
        fs::write(folder.path().join("parked/.1-2.tmp"), "half").unwrap();
        let listed: Vec<Kept> = store.list().try_collect().await.unwrap();
        let ids: Vec<&str> = listed.iter().map(|kept| kept.id.as_str()).collect();
        assert_eq!(ids, ["notes", "products/1970/01/01/42", "products/1970/01/01/7"]);
        assert!(listed[0].record.is_err());
        assert_eq!(listed[1].record, Ok(record("42")));
        assert_eq!(store.count(10).await.unwrap(), 3);

        let found = store.find("products/1970/01/01/7").await.unwrap();
        assert_eq!(found, listed[2..]);
        store.remove(&found[0]).await.unwrap();
        store.remove(&found[0]).await.unwrap();
        assert!(store.find("products/1970/01/01/7").await.unwrap().is_empty());
        fs::write(folder.path().join("outside.json"), r#"{"reason":"x"}"#).unwrap();
        assert!(store.find("../outside").await.unwrap().is_empty());
    }
}
