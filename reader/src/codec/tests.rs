use std::collections::BTreeMap;
use std::fmt::Debug;

use proptest::prelude::*;
use ringtide_core::key::Template;
use serde::Deserialize;

use super::*;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Product {
    name: String,
    price: u64,
    weight: Option<f64>,
    tags: Vec<String>,
    stock: BTreeMap<String, i32>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Wrapped(Vec<u8>);

fn encoding(codec: Codec, compress_above: Option<usize>) -> Encoding {
    Encoding { codec, compress_above }
}

fn read<T: DeserializeOwned>(payload: &Payload) -> Result<T, BoxError> {
    decode(payload.codec, payload.compression, &payload.bytes)
}

fn comes_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(encoding: Encoding, value: &T) -> Payload {
    let payload = encoding.encode(value).unwrap();
    assert_eq!(&read::<T>(&payload).unwrap(), value, "{encoding:?}");
    payload
}

fn any_product() -> impl Strategy<Value = Product> {
    // JSON is read with the last bit of some floating-point numbers rounded differently.
    let weight = proptest::option::of(any::<i32>().prop_map(|quarters| f64::from(quarters) / 4.0));
    let stock = proptest::collection::btree_map("[a-z]{0,3}", any::<i32>(), 0..4);
    (".{0,20}", any::<u64>(), weight, proptest::collection::vec(".{0,5}", 0..4), stock)
        .prop_map(|(name, price, weight, tags, stock)| Product { name, price, weight, tags, stock })
}

proptest! {
    #[test]
    fn every_codec_that_is_built_in_brings_values_back(product in any_product(), bytes: Vec<u8>, text in ".{0,40}") {
        let codecs = [Codec::Json, Codec::MessagePack];
        for codec in codecs.into_iter().filter(|codec| *codec == Codec::Json || cfg!(feature = "messagepack")) {
            for above in [None, Some(0), Some(20)].into_iter().filter(|above| above.is_none() || cfg!(feature = "zstd")) {
                comes_back(encoding(codec, above), &product);
                comes_back(encoding(codec, above), &bytes);
                comes_back(encoding(codec, above), &text);
            }
        }
        prop_assert_eq!(&comes_back(encoding(Codec::Raw, None), &bytes).bytes[..], &bytes[..]);
        prop_assert_eq!(&comes_back(encoding(Codec::Raw, None), &text).bytes[..], text.as_bytes());
        comes_back(encoding(Codec::Raw, None), &Wrapped(bytes));
    }
}

#[test]
fn raw_payloads_are_bytes_or_text_and_nothing_else() {
    let raw = encoding(Codec::Raw, None);
    assert_eq!(comes_back(raw, &[1_u8, 2, 3]).bytes, &[1_u8, 2, 3][..]);
    let refused = |payload: Result<Payload, BoxError>| payload.unwrap_err().to_string();
    for (error, what) in [
        (refused(raw.encode(&7_u8)), "a number"),
        (refused(raw.encode(&vec![1_u16])), "a number"),
        (refused(raw.encode(&vec!["a"])), "a sequence of texts"),
        (refused(raw.encode(&Some("a"))), "an option"),
        (refused(raw.encode(&BTreeMap::from([("a", 1)]))), "a map"),
        (read::<Product>(&raw.encode(&"{}").unwrap()).unwrap_err().to_string(), "a struct"),
        (read::<Vec<u16>>(&raw.encode(&"ab").unwrap()).unwrap_err().to_string(), "a sequence of anything but bytes"),
    ] {
        assert!(error.contains(what) && error.contains("use the codec json or messagepack"), "{error}");
    }
    let error = read::<String>(&raw.encode(b"\xff").unwrap()).unwrap_err().to_string();
    assert!(error.contains("not UTF-8"), "{error}");
    assert!(read::<[u8; 2]>(&raw.encode(b"abc").unwrap()).is_err(), "a byte too many");
}

#[cfg(feature = "messagepack")]
#[test]
fn messagepack_names_its_fields_and_ends_where_its_value_ends() {
    #[derive(Serialize)]
    struct Earlier {
        name: &'static str,
    }
    #[derive(Debug, PartialEq, Deserialize)]
    struct Later {
        #[serde(default)]
        price: u64,
        name: String,
    }
    let payload = encoding(Codec::MessagePack, None).encode(&Earlier { name: "tea" }).unwrap();
    assert_eq!(payload.bytes, &b"\x81\xa4name\xa3tea"[..]);
    assert_eq!(read::<Later>(&payload).unwrap(), Later { price: 0, name: "tea".into() });
    for trailing in 0..=255 {
        let grown = [&payload.bytes[..], &[trailing]].concat();
        let error = decode::<Later>(Codec::MessagePack, Compression::None, &grown).unwrap_err();
        assert!(error.to_string().contains("goes on"), "{trailing}: {error}");
    }
    let deep = [vec![0x91; 100_000], vec![0]].concat();
    assert!(decode::<serde_json::Value>(Codec::MessagePack, Compression::None, &deep).is_err());
}

#[cfg(feature = "zstd")]
#[test]
fn only_what_is_long_enough_and_shrinks_is_compressed() {
    let json = encoding(Codec::Json, Some(100));
    let compression = |value: &str| comes_back(json, &value.to_owned()).compression;
    assert_eq!(compression(&"x".repeat(98)), Compression::None, "100 bytes with its quotes");
    assert_eq!(compression(&"x".repeat(99)), Compression::Zstd);
    let random: Vec<u8> = (0..1000).map(|_| fastrand::u8(..)).collect();
    assert_eq!(comes_back(encoding(Codec::Raw, Some(100)), &random).compression, Compression::None);
}

#[cfg(feature = "zstd")]
#[test]
fn a_frame_that_would_fill_the_memory_is_refused() {
    use std::io::Write;
    let max = zstandard::DECOMPRESSED_MAX;
    let read = |frame: &[u8]| decode::<Vec<u8>>(Codec::Raw, Compression::Zstd, frame);
    let told = |length: usize| zstd::bulk::compress(&vec![0; length], 1).unwrap();
    let untold = |length: usize| {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.write_all(&vec![0; length]).unwrap();
        encoder.finish().unwrap()
    };
    assert_eq!(read(&untold(1000)).unwrap(), vec![0; 1000]);
    assert_eq!(decompressed(&told(max)).unwrap().len(), max);
    assert_eq!(decompressed(&untold(max)).unwrap().len(), max);
    for frame in [told(max + 1), untold(max + 1), [told(max), told(1)].concat()] {
        assert!(frame.len() < 10_000 && decompressed(&frame).is_err());
    }
    for garbage in [&b""[..], b"garbage", &told(1000)[..12], &[&told(1000)[..], b"x"].concat(), &untold(1000)[..12]] {
        assert!(read(garbage).is_err());
    }
}

#[test]
fn settings_that_this_build_lacks_name_their_feature() {
    let space = KeySpace {
        codec: Codec::MessagePack,
        compress_above: Some(1000),
        ..KeySpace::new("product", Template::parse("product:{pk}").unwrap())
    };
    let found: Vec<String> = violations(&space).iter().map(ToString::to_string).collect();
    let lacks = [("messagepack", cfg!(feature = "messagepack")), ("zstd", cfg!(feature = "zstd"))];
    for (feature, built_in) in lacks {
        assert_eq!(found.iter().any(|violation| violation.contains(&format!("{feature:?}"))), !built_in, "{found:?}");
    }
    assert!(violations(&KeySpace { codec: Codec::Raw, compress_above: None, ..space }).is_empty());
}

#[cfg(all(feature = "messagepack", feature = "zstd"))]
#[test]
fn payloads_of_other_languages_are_read() {
    #[derive(Deserialize)]
    struct Vector {
        name: String,
        entry: String,
    }
    let vectors: Vec<Vector> = serde_json::from_str(include_str!("../../../tests/golden/entry/entries.json")).unwrap();
    let value = |name: &str| -> serde_json::Value {
        let hex = &vectors.iter().find(|vector| vector.name == name).unwrap().entry;
        let bytes = (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
        let entry = ringtide_core::entry::Entry::parse(&bytes.collect()).unwrap();
        if entry.header.codec == Codec::Raw {
            return decode::<String>(entry.header.codec, entry.header.compression, &entry.payload).unwrap().into();
        }
        decode(entry.header.codec, entry.header.compression, &entry.payload).unwrap()
    };
    let long = serde_json::json!({ "pk": "tea ".repeat(12) });
    assert_eq!(value("a MessagePack value"), serde_json::json!({ "pk": "42" }));
    assert_eq!(value("a raw text"), "tea");
    assert_eq!(value("a JSON value, compressed"), long);
    assert_eq!(value("a MessagePack value, compressed, whose frame has a checksum"), long);
}
