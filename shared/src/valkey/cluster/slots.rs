//! Slots: which one a name falls into, and which master serves it.

use redis::Value;

/// Slots of a cluster.
pub(super) const SLOTS: u16 = 16_384;

/// CRC-16/XMODEM of every byte.
const CRC: [u16; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// The slot of a name: of its hash tag where it has one.
pub(in crate::valkey) fn slot_of(name: &[u8]) -> u16 {
    let hashed = tag(name).unwrap_or(name);
    let crc = hashed.iter().fold(0u16, |crc, byte| crc << 8 ^ CRC[usize::from((crc >> 8) as u8 ^ byte)]);
    crc % SLOTS
}

fn tag(name: &[u8]) -> Option<&[u8]> {
    let open = name.iter().position(|byte| *byte == b'{')?;
    let after = name.get(open + 1..)?;
    let close = after.iter().position(|byte| *byte == b'}')?;
    after.get(..close).filter(|tag| !tag.is_empty())
}

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Slots that one master serves.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) master: Address,
    /// How redirections name it, where that is not by its host name.
    pub(super) address: Option<Address>,
}

/// Reads the answer to `CLUSTER SLOTS`; a server that does not tell its own host is where it was `asked`. Where
/// connections are `encrypted`, host names go before addresses, which certificates seldom hold.
pub(super) fn read(answer: Value, asked: &str, encrypted: bool) -> Option<Vec<Range>> {
    let Value::Array(ranges) = answer else { return None };
    let mut read = Vec::with_capacity(ranges.len());
    for range in ranges {
        let Value::Array(fields) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(master), ..] = &fields[..] else { return None };
        let (first, last) = (u16::try_from(*first).ok()?, u16::try_from(*last).ok()?);
        if last >= SLOTS {
            return None;
        }
        // A range whose master is not known to the one that was asked is not served as yet.
        if let Some((master, address)) = addresses(master, asked, encrypted) {
            read.push(Range { first, last, master, address });
        }
    }
    Some(read)
}

/// What most masters say about who serves what; of as many, the first. One that is cut off from the others says what
/// was true before.
pub(super) fn told_most(mut views: Vec<Vec<Range>>) -> Option<Vec<Range>> {
    let times = |view: &Vec<Range>| views.iter().filter(|other| *other == view).count();
    let most = (0..views.len()).rev().max_by_key(|at| times(&views[*at]))?;
    Some(views.swap_remove(most))
}

/// Where a master is reached, and what else it is called.
fn addresses(node: &[Value], asked: &str, encrypted: bool) -> Option<(Address, Option<Address>)> {
    let [host, Value::Int(port), rest @ ..] = node else { return None };
    let port = u16::try_from(*port).ok()?;
    let preferred = match host {
        Value::Nil => Some(asked),
        host => match text(host)? {
            "" => Some(asked),
            "?" => None,
            host => Some(host),
        },
    };
    let preferred = preferred.map(|host| Address { host: host.to_owned(), port });
    match rest.get(1).and_then(host_name).filter(|_| encrypted) {
        Some(host) => Some((Address { host, port }, preferred)),
        None => preferred.map(|address| (address, None)),
    }
}

/// The host name among what a node tells besides its preferred address.
fn host_name(more: &Value) -> Option<String> {
    let is_name = |field: &Value| text(field) == Some("hostname");
    let found = match more {
        Value::Map(pairs) => pairs.iter().find(|(field, _)| is_name(field)).map(|(_, value)| value),
        Value::Array(fields) => fields.chunks_exact(2).find(|pair| is_name(&pair[0])).map(|pair| &pair[1]),
        _ => None,
    };
    text(found?).filter(|name| !name.is_empty() && *name != "?").map(str::to_owned)
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// Where else a server says that a command belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Redirect {
    /// The slot has moved.
    Moved(Address),
    /// The slot is moving, and the names are not here any more.
    Ask(Address),
}

impl Redirect {
    /// Reads a server's error; one that does not tell its own host is where it was `asked`.
    pub(super) fn of(error: &redis::ServerError, asked: &str) -> Option<Self> {
        let kind = match error.code() {
            "MOVED" => Redirect::Moved,
            "ASK" => Redirect::Ask,
            _ => return None,
        };
        let (host, port) = error.details()?.split(' ').nth(1)?.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = if host.is_empty() { asked } else { host };
        Some(kind(Address { host: host.to_owned(), port: port.parse().ok()? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    #[test]
    fn names_fall_into_the_slots_that_servers_say() {
        // As `CLUSTER KEYSLOT` answers.
        for (name, slot) in [("", 0), ("123456789", 12739), ("foo", 12182), ("lock:{foo}", 12182), ("{foo}:bar", 12182)]
        {
            assert_eq!(slot_of(name.as_bytes()), slot, "{name}");
        }
        for untagged in ["{}foo", "{foo", "foo}", "{foo}{bar"] {
            assert_eq!(slot_of(untagged.as_bytes()) == 12182, untagged == "{foo}{bar", "{untagged}");
        }
    }

    #[test]
    fn redirections_are_read() {
        let redirect = |text: &str| {
            let value = redis::parse_redis_value(format!("-{text}\r\n").as_bytes()).unwrap();
            let Value::ServerError(error) = value else { panic!("{value:?}") };
            Redirect::of(&error, "asked")
        };
        let address = |host: &str, port| Address { host: host.to_owned(), port };
        assert_eq!(redirect("MOVED 3999 127.0.0.1:6381"), Some(Redirect::Moved(address("127.0.0.1", 6381))));
        assert_eq!(redirect("ASK 3999 cache.internal:6381"), Some(Redirect::Ask(address("cache.internal", 6381))));
        assert_eq!(redirect("MOVED 3999 :6381"), Some(Redirect::Moved(address("asked", 6381))));
        assert_eq!(redirect("MOVED 3999 ::1:6381"), Some(Redirect::Moved(address("::1", 6381))));
        for other in ["MOVED", "MOVED 3999", "MOVED 3999 host", "TRYAGAIN later", "ERR MOVED 1 h:1"] {
            assert_eq!(redirect(other), None, "{other}");
        }
    }

    #[test]
    fn what_most_masters_say_counts_and_of_as_many_the_first() {
        let view = |host: &str| {
            let master = Address { host: host.to_owned(), port: 1 };
            vec![Range { first: 0, last: SLOTS - 1, master, address: None }]
        };
        let most = |hosts: &[&str]| told_most(hosts.iter().map(|host| view(host)).collect());
        assert_eq!(most(&["old", "new", "new"]), Some(view("new")));
        assert_eq!(most(&["old", "new", "new", "old"]), Some(view("old")));
        assert_eq!(most(&[]), None);
    }

    #[test]
    fn a_map_of_slots_is_read_with_hosts_that_are_left_out_or_named() {
        let node = |host: Value, more: Value| Value::Array(vec![host, Value::Int(7000), bulk("id"), more]);
        let range = |first, node| Value::Array(vec![Value::Int(first), Value::Int(first + 9), node, bulk("replica")]);
        let named = Value::Map(vec![(bulk("hostname"), bulk("a.cache"))]);
        let answer = || {
            Value::Array(vec![
                range(0, node(bulk("10.0.0.1"), named.clone())),
                range(10, node(Value::Nil, Value::Array(Vec::new()))),
                range(20, node(bulk("?"), Value::Array(Vec::new()))),
            ])
        };
        let hosts = |encrypted| -> Vec<_> {
            read(answer(), "seed", encrypted).unwrap().into_iter().map(|range| range.master.host).collect()
        };
        assert_eq!(hosts(false), ["10.0.0.1", "seed"]);
        assert_eq!(hosts(true), ["a.cache", "seed"]);
        let called = read(answer(), "seed", true).unwrap().remove(0).address.unwrap();
        assert_eq!(called, Address { host: "10.0.0.1".to_owned(), port: 7000 });
        assert_eq!(read(Value::Okay, "seed", false), None);
        assert_eq!(read(Value::Array(vec![range(16_380, node(Value::Nil, Value::Nil))]), "seed", false), None);
    }
}
