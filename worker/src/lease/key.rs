//! A lease's key: `account:region$account$table$label:1:shardId`.
//!
//! The form that the Kinesis Client Library uses for several streams: one table holds the leases of every table that the
//! configuration routes, and a table that joins later changes no key. The form that it uses for a single stream, the stream
//! shard's id alone, is kept where an application's leases are taken over in place.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ringtide_core::record::Stream;

use crate::stream::ShardId;

/// Names one stream in lease keys. Cheap to clone: thousands of leases name the same one.
#[derive(Clone, Debug)]
pub struct StreamName(Arc<Parts>);

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Parts {
    account: String,
    region: String,
    table: String,
    /// The stream's label with `_` for `:`.
    label: String,
    /// Whether its leases are keyed by the stream shard's id alone.
    plain: bool,
}

/// Names the lease of one stream shard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseKey {
    /// The stream.
    pub stream: StreamName,
    /// The stream shard.
    pub shard: ShardId,
}

/// A text that is not the key of a lease of a table's stream.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a lease key of the form account:region$account$table$label:1:shardId")]
pub struct InvalidLeaseKey(pub String);

impl StreamName {
    /// Takes the name from a stream's ARN, `arn:aws:dynamodb:region:account:table/NAME/stream/LABEL`; `None` for any
    /// other text.
    #[must_use]
    pub fn of(stream: &Stream) -> Option<Self> {
        let mut parts = stream.arn.splitn(6, ':');
        let region = parts.nth(3)?;
        let account = parts.next()?;
        let (table, label) = parts.next()?.strip_prefix("table/")?.split_once("/stream/")?;
        let filled = [region, account, table, label].iter().all(|part| !part.is_empty() && !part.contains('$'));
        let parts = || Parts {
            account: account.to_owned(),
            region: region.to_owned(),
            table: table.to_owned(),
            label: label.replace(':', "_"),
            plain: false,
        };
        filled.then(|| Self(Arc::new(parts())))
    }

    /// The same stream, with leases that are keyed by the stream shard's id alone.
    #[must_use]
    pub fn plain(&self) -> Self {
        Self(Arc::new(Parts { plain: true, ..Parts::clone(&self.0) }))
    }

    /// Whether its leases are keyed by the stream shard's id alone.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.0.plain
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.0.table
    }

    /// Whether it is known to be newer than another stream of the same table: labels are times, to the millisecond.
    #[must_use]
    pub fn is_newer_than(&self, other: &Self) -> bool {
        let time = |name: &Self| {
            let digits: String = name.0.label.chars().filter(char::is_ascii_digit).collect();
            (name.0.label.len() == 23 && digits.len() == 17).then_some(digits)
        };
        self.same_table(other) && matches!((time(self), time(other)), (Some(one), Some(two)) if one > two)
    }

    /// The stream of this name, given another stream of the same table.
    #[must_use]
    pub fn stream(&self, sibling: &Stream) -> Option<Stream> {
        let (prefix, _) = sibling.arn.rsplit_once("/stream/")?;
        ringtide_core::record::stream_of_arn(&format!("{prefix}/stream/{}", self.0.label.replace('_', ":")))
    }

    /// Whether both are streams of one table.
    #[must_use]
    pub fn same_table(&self, other: &Self) -> bool {
        let (one, other) = (&*self.0, &*other.0);
        (&one.account, &one.region, &one.table) == (&other.account, &other.region, &other.table)
    }

    /// The key of the lease of one of its shards.
    #[must_use]
    pub fn lease(&self, shard: &ShardId) -> LeaseKey {
        LeaseKey { stream: self.clone(), shard: shard.clone() }
    }
}

impl PartialEq for StreamName {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for StreamName {}

impl Hash for StreamName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl PartialOrd for StreamName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for StreamName {
    fn cmp(&self, other: &Self) -> Ordering {
        // Most comparisons are of a name with itself.
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl fmt::Display for StreamName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { account, region, table, label, plain: _ } = &*self.0;
        write!(f, "{account}:{region}${account}${table}${label}:1")
    }
}

impl LeaseKey {
    /// Reads a key.
    ///
    /// # Errors
    /// Any other text, with itself; also the plain stream shard id that the Kinesis Client Library uses for one stream.
    pub fn parse(text: &str) -> Result<Self, InvalidLeaseKey> {
        let parsed = || {
            let mut parts = text.splitn(4, ':');
            let account = parts.next()?;
            let mut name = parts.next()?.split('$');
            let (region, inner, table, label) = (name.next()?, name.next()?, name.next()?, name.next()?);
            let (epoch, shard) = (parts.next()?, parts.next()?);
            let whole = name.next().is_none() && inner == account && epoch == "1" && !shard.is_empty();
            whole.then(|| Self {
                stream: StreamName(Arc::new(Parts {
                    account: account.to_owned(),
                    region: region.to_owned(),
                    table: table.to_owned(),
                    label: label.to_owned(),
                    plain: false,
                })),
                shard: ShardId::from(shard),
            })
        };
        parsed().ok_or_else(|| InvalidLeaseKey(text.chars().take(300).collect()))
    }
}

impl fmt::Display for LeaseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.stream.is_plain() { self.shard.fmt(f) } else { write!(f, "{}:{}", self.stream, self.shard) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:dynamodb:eu-west-1:123456789012:table/products/stream/2026-01-02T03:04:05.678";
    const KEY: &str = "123456789012:eu-west-1$123456789012$products$2026-01-02T03_04_05.678:1:shardId-00000001-a";

    fn stream() -> Stream {
        ringtide_core::record::stream_of_arn(ARN).unwrap()
    }

    #[test]
    fn a_key_is_written_as_the_kinesis_client_library_writes_it() {
        let name = StreamName::of(&stream()).unwrap();
        let key = name.lease(&"shardId-00000001-a".into());
        assert_eq!(key.to_string(), KEY);
        assert_eq!(LeaseKey::parse(KEY), Ok(key));
    }

    #[test]
    fn a_stream_is_found_again_from_its_name() {
        let newer = Stream { arn: ARN.replace("2026-01", "2026-02"), ..stream() };
        let name = StreamName::of(&stream()).unwrap();
        assert_eq!(name.stream(&newer), Some(stream()));
        assert!(name.same_table(&StreamName::of(&newer).unwrap()));
        assert_ne!(name, StreamName::of(&newer).unwrap());
    }

    #[test]
    fn the_newer_of_two_streams_is_told_by_its_label() {
        let name = |arn: &str| StreamName::of(&Stream { arn: arn.to_owned(), ..stream() }).unwrap();
        let (older, newer) = (name(ARN), name(&ARN.replace("05.678", "05.679")));
        assert!(newer.is_newer_than(&older) && !older.is_newer_than(&newer) && !older.is_newer_than(&older));
        let odd = name(&ARN.replace("2026-01-02T03:04:05.678", "second"));
        assert!(!odd.is_newer_than(&older) && !older.is_newer_than(&odd), "nothing is known of it");
        let elsewhere = name(&ARN.replace("products", "orders").replace("2026", "2027"));
        assert!(!elsewhere.is_newer_than(&older));
    }

    #[test]
    fn a_single_streams_leases_are_keyed_by_the_stream_shard_alone() {
        let plain = StreamName::of(&stream()).unwrap().plain();
        assert_eq!(plain.lease(&"shardId-00000001-a".into()).to_string(), "shardId-00000001-a");
        assert!(plain.same_table(&StreamName::of(&stream()).unwrap()));
    }

    #[test]
    fn other_rows_of_the_table_are_not_keys_of_leases() {
        for text in ["", "shardId-1", "Migration3.0", "a:b:1:c", "1:r$2$t$l:1:s", "1:r$1$t$l:1:", "1:r$1$t$l:7:s"] {
            assert!(LeaseKey::parse(text).is_err(), "{text}");
        }
    }
}
