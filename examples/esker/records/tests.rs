//! Tests of the readers, each against its writer and against broken input.

use std::io::Cursor;
use std::io::Read;

use proptest::collection::vec;
use proptest::prelude::any;
use proptest::proptest;

use crate::input::Broken;
use crate::input::Format;
use crate::input::KeyField;
use crate::input::Source;
use crate::output::RecordWriter;
use crate::records::Layout;
use crate::records::RecordReader;

type Entry = (Vec<u8>, Vec<u8>);

/// Hands out a few bytes at a time, so that records straddle the buffer's refills.
struct Drip(Cursor<Vec<u8>>);

impl Read for Drip {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let len = out.len().min(3);
        self.0.read(&mut out[..len])
    }
}

fn layout(format: Format) -> Layout {
    Layout { format, key: None, header: false, escapes: true }
}

fn reader(layout: Layout, input: &[u8]) -> Result<RecordReader, Broken> {
    let bytes = Cursor::new(input.to_vec());
    RecordReader::new(Source::new(Box::new(Drip(bytes)), None, "input".to_owned()), layout)
}

fn read(layout: Layout, input: &[u8]) -> Result<Vec<Entry>, Broken> {
    let mut reader = reader(layout, input)?;
    let mut entries = Vec::new();
    while reader.read()? {
        entries.push((reader.key().to_vec(), reader.value().to_vec()));
    }
    assert_eq!(reader.source.offset, input.len() as u64);
    Ok(entries)
}

fn write(format: Format, entries: &[Entry]) -> Vec<u8> {
    let mut writer = RecordWriter::new(Vec::new(), format);
    for (key, value) in entries {
        writer.write(key, value).unwrap();
    }
    writer.finish().unwrap()
}

fn pairs(entries: &[(&str, &str)]) -> Vec<Entry> {
    entries
        .iter()
        .map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec()))
        .collect()
}

proptest! {
    #[test]
    fn what_is_written_reads_back(entries in vec((vec(any::<u8>(), 0..6), vec(any::<u8>(), 0..9)), 0..9)) {
        for format in [Format::Tsv, Format::Csv, Format::Jsonl] {
            assert_eq!(read(layout(format), &write(format, &entries)).unwrap(), entries);
        }
        let strip = |bytes: &[u8]| bytes.iter().copied().filter(|byte| *byte != 0).collect();
        let entries: Vec<Entry> = entries.iter().map(|(k, v)| (strip(k), strip(v))).collect();
        assert_eq!(read(layout(Format::Raw), &write(Format::Raw, &entries)).unwrap(), entries);
    }

    #[test]
    fn csv_of_nasty_characters_reads_back(entries in vec(("[\",\r\n\u{feff}a]{0,5}", "[\",\r\n a]{0,5}"), 0..9)) {
        let entries: Vec<Entry> =
            entries.into_iter().map(|(k, v)| (k.into_bytes(), v.into_bytes())).collect();
        assert_eq!(read(layout(Format::Csv), &write(Format::Csv, &entries)).unwrap(), entries);
    }

    #[test]
    fn no_input_makes_a_reader_panic(input in vec(proptest::sample::select(b"ab,\"\t\r\n\0\\x{}:".as_slice()), 0..40)) {
        for format in [Format::Tsv, Format::Csv, Format::Jsonl, Format::Raw] {
            let _ = read(layout(format), &input);
        }
    }

    #[test]
    fn reading_can_stop_and_resume_after_any_record(
        entries in vec((vec(any::<u8>(), 0..6), vec(any::<u8>(), 0..9)), 1..9),
        stop in 0usize..9,
    ) {
        for format in [Format::Tsv, Format::Csv, Format::Jsonl] {
            let input = write(format, &entries);
            let mut first = reader(layout(format), &input).unwrap();
            for _ in 0..stop.min(entries.len()) {
                assert!(first.read().unwrap());
            }
            let (offset, lines) = (first.source.offset, first.source.lines);
            let mut second = reader(layout(format), &input).unwrap();
            second.source.resume_at(offset, lines, first.source.head_hash(offset)).unwrap();
            let mut rest = Vec::new();
            while second.read().unwrap() {
                rest.push((second.key().to_vec(), second.value().to_vec()));
            }
            assert_eq!(rest, entries[stop.min(entries.len())..]);
        }
    }
}

#[test]
fn lines_end_as_anywhere() {
    for input in ["a\t1\nb\t2\n", "a\t1\r\nb\t2\r\n", "a\t1\nb\t2"] {
        let found = read(layout(Format::Tsv), input.as_bytes()).unwrap();
        assert_eq!(found, pairs(&[("a", "1"), ("b", "2")]), "{input:?}");
    }
    for input in ["a,1\nb,2\n", "a,1\r\n\r\nb,2\r\n", "\u{feff}a,1\n\nb,\"2\"", "\"a\",1\nb,2\n\n"]
    {
        let found = read(layout(Format::Csv), input.as_bytes()).unwrap();
        assert_eq!(found, pairs(&[("a", "1"), ("b", "2")]), "{input:?}");
    }
}

#[test]
fn the_rest_of_a_line_is_the_value() {
    let found = read(layout(Format::Tsv), b"a\t1\t2\n").unwrap();
    assert_eq!(found, pairs(&[("a", "1\t2")]));
    for (column, key, value) in [(0, "a", "b\tc"), (1, "b", "a\tc"), (2, "c", "a\tb")] {
        let layout = Layout { key: Some(KeyField::Column(column)), ..layout(Format::Tsv) };
        assert_eq!(read(layout, b"a\tb\tc\n").unwrap(), pairs(&[(key, value)]));
    }
    let layout = Layout { key: Some(KeyField::Column(1)), ..layout(Format::Csv) };
    assert_eq!(read(layout, b"a,b,\"c,d\"\n").unwrap(), pairs(&[("b", "a,\"c,d\"")]));
}

#[test]
fn a_header_names_the_key() {
    for (format, input) in [(Format::Csv, "id,name\n7,Ada\n"), (Format::Tsv, "id\tname\n7\tAda\n")]
    {
        let named = |name: &str| Layout {
            key: Some(KeyField::Named(name.to_owned())),
            header: true,
            ..layout(format)
        };
        assert_eq!(read(named("name"), input.as_bytes()).unwrap(), pairs(&[("Ada", "7")]));
        assert_eq!(read(named("id"), input.as_bytes()).unwrap(), pairs(&[("7", "Ada")]));
        assert_eq!(read(named("nom"), input.as_bytes()).unwrap_err().line, 1);
    }
}

#[test]
fn a_json_field_is_the_key_and_the_line_the_value() {
    let named = Layout { key: Some(KeyField::Named("id".to_owned())), ..layout(Format::Jsonl) };
    let input = "{\"id\":\"x\u{e9}\", \"n\": 1.50}\n\n{ \"id\" : 12 }\r\n";
    let found = read(named, input.as_bytes()).unwrap();
    assert_eq!(
        found,
        pairs(&[("x\u{e9}", "{\"id\":\"x\u{e9}\", \"n\": 1.50}"), ("12", "{ \"id\" : 12 }")])
    );
}

#[test]
fn broken_lines_are_named() {
    let named = Layout { key: Some(KeyField::Named("id".to_owned())), ..layout(Format::Jsonl) };
    let cases: &[(Layout, &str, u64, &str)] = &[
        (layout(Format::Tsv), "a\t1\nb\n", 2, "no tab"),
        (layout(Format::Tsv), "a\t1\n\n", 2, "no tab"),
        (layout(Format::Tsv), "a\t1\nb\tx\\q\n", 2, "no escape"),
        (layout(Format::Csv), "a,1\n\nb\n", 3, "no comma"),
        (layout(Format::Csv), "a,1\nb,2,3\n", 2, "3 columns"),
        (layout(Format::Csv), "a,\"1\n2\"\nb,\"2\n\n", 3, "never closed"),
        (layout(Format::Csv), "a,\"1\"2\n", 1, "after a closing quote"),
        (named.clone(), "{\"id\":\"a\"}\n{\"id\":\n", 2, "no JSON object"),
        (named.clone(), "{\"id\":\"a\"}\n[1]\n", 2, "no JSON object"),
        (named.clone(), "\n{\"ID\":\"a\"}\n", 2, "no field"),
        (named, "{\"id\":{}}\n", 1, "neither"),
        (layout(Format::Jsonl), "{\"key\":\"a\"}\n", 1, "no field \"value\""),
        (layout(Format::Jsonl), "{\"key_hex\":\"a\",\"value\":\"\"}\n", 1, "hexadecimal"),
        (layout(Format::Raw), "a\x001\x00b\x00", 2, "last value"),
        (layout(Format::Raw), "a\x001\x00b", 2, "last key"),
    ];
    for (layout, input, line, what) in cases {
        let broken = read(layout.clone(), input.as_bytes()).unwrap_err();
        assert_eq!(broken.line, *line, "{input:?}: {broken:?}");
        assert!(broken.what.contains(what), "{input:?}: {broken:?}");
    }
}

#[test]
fn another_input_is_not_resumed() {
    let input = b"a\t1\nb\t2\n";
    let mut first = reader(layout(Format::Tsv), input).unwrap();
    assert!(first.read().unwrap());
    let offset = first.source.offset;
    let hash = first.source.head_hash(offset);
    let mut changed = reader(layout(Format::Tsv), b"x\t1\nb\t2\n").unwrap();
    assert!(changed.source.resume_at(offset, 1, hash).is_err());
    let mut shorter = reader(layout(Format::Tsv), b"a\t").unwrap();
    assert!(shorter.source.resume_at(offset, 1, hash).is_err());
}
