//! Readers of the data sets: JSON lines, judgements, NumPy arrays plain, packed with zstd, or stored in an archive.

use std::collections::HashMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use base64::Engine;
use half::f16;
use serde_json::Value;

/// The folder of the data sets, or `None` after saying that the test is skipped.
pub fn folder(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SHOAL_DATA").filter(|folder| !folder.is_empty());
    if folder.is_none() {
        println!("SKIPPED {test}: SHOAL_DATA names no folder of data sets");
    }
    folder.map(PathBuf::from)
}

fn read(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if path.extension().is_none_or(|extension| extension != "zst") {
        return bytes;
    }
    let mut out = Vec::new();
    ruzstd::decoding::StreamingDecoder::new(bytes.as_slice()).unwrap().read_to_end(&mut out).unwrap();
    out
}

/// One JSON value a line.
pub fn json_lines(path: &Path) -> Vec<Value> {
    let bytes = read(path);
    let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
}

/// Per query the documents judged relevant, with their grades.
pub fn judgements(path: &Path) -> HashMap<String, HashMap<String, f64>> {
    let mut out: HashMap<String, HashMap<String, f64>> = HashMap::new();
    for line in String::from_utf8(read(path)).unwrap().lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let grade: f64 = fields[2].parse().unwrap();
        if grade > 0.0 {
            out.entry(fields[0].into()).or_default().insert(fields[1].into(), grade);
        }
    }
    out
}

/// A NumPy array's element type, shape and bytes.
struct Array {
    element: String,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

impl Array {
    fn parse(file: &[u8]) -> Self {
        assert_eq!(&file[..8], b"\x93NUMPY\x01\x00", "expected a NumPy array of format 1.0");
        let header_length = usize::from(u16::from_le_bytes([file[8], file[9]]));
        let (header, bytes) = file[10..].split_at(header_length);
        let header = std::str::from_utf8(header).unwrap();
        assert!(header.contains("'fortran_order': False"), "{header}");
        let after = |key: &str| header.split_once(key).unwrap().1;
        let element = after("'descr': '").split('\'').next().unwrap().to_owned();
        let shape = after("'shape': (").split(')').next().unwrap();
        let shape = shape.split(',').map(str::trim).filter(|n| !n.is_empty()).map(|n| n.parse().unwrap()).collect();
        Array { element, shape, bytes: bytes.to_vec() }
    }

    fn elements<const N: usize, T>(&self, element: &str, from: impl Fn([u8; N]) -> T) -> Vec<T> {
        assert_eq!(self.element, element);
        let out: Vec<T> = self.bytes.as_chunks::<N>().0.iter().map(|bytes| from(*bytes)).collect();
        assert_eq!(out.len(), self.shape.iter().product::<usize>());
        out
    }
}

/// Vectors of one length, normalised, one behind the other.
pub struct Vectors {
    pub dims: usize,
    values: Vec<f32>,
}

impl Vectors {
    /// Reads half-precision vectors, from `path` or from `path.zst`, widens and normalises them.
    pub fn read(path: &Path) -> Self {
        let packed = PathBuf::from(format!("{}.zst", path.display()));
        let array = Array::parse(&read(if path.exists() { path } else { &packed }));
        let mut values = array.elements("<f2", |bytes| f16::from_le_bytes(bytes).to_f32());
        let dims = array.shape[1];
        for vector in values.chunks_exact_mut(dims) {
            let norm = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
            vector.iter_mut().for_each(|x| *x = (f64::from(*x) / norm) as f32);
        }
        Vectors { dims, values }
    }

    pub fn len(&self) -> usize {
        self.values.len() / self.dims
    }

    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.dims..][..self.dims]
    }

    /// A row as the API takes and gives it.
    pub fn base64(&self, row: usize) -> String {
        base64::engine::general_purpose::STANDARD.encode(bytemuck::cast_slice::<f32, u8>(self.row(row)))
    }
}

/// Rows of ids; a row ends at its first -1.
pub fn id_table(path: &Path) -> Vec<Vec<u64>> {
    let array = Array::parse(&read(path));
    let values = array.elements("<i4", i32::from_le_bytes);
    let rows = values.chunks_exact(array.shape[1]);
    rows.map(|row| row.iter().map_while(|id| u64::try_from(*id).ok()).collect()).collect()
}

/// Sparse vectors: per row dimensions and weights.
pub fn sparse(path: &Path) -> Vec<Vec<(u16, f32)>> {
    let members = stored_members(&read(path));
    let array = |name: &str| Array::parse(&members[name]);
    let ends = array("indptr.npy").elements("<i8", i64::from_le_bytes);
    let dimensions = array("indices.npy").elements("<u2", u16::from_le_bytes);
    let weights = array("values.npy").elements("<f2", |bytes| f16::from_le_bytes(bytes).to_f32());
    let rows = ends.windows(2).map(|ends| ends[0] as usize..ends[1] as usize);
    rows.map(|row| dimensions[row.clone()].iter().copied().zip(weights[row].iter().copied()).collect()).collect()
}

/// The members of a zip archive, all of which must be stored uncompressed, as NumPy stores them.
fn stored_members(file: &[u8]) -> HashMap<String, Vec<u8>> {
    let u16_at = |at: usize| usize::from(u16::from_le_bytes([file[at], file[at + 1]]));
    let u32_at = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap()) as usize;
    let end = file.windows(4).rposition(|bytes| bytes == b"PK\x05\x06").unwrap();
    let mut at = u32_at(end + 16);
    let mut members = HashMap::new();
    for _ in 0..u16_at(end + 10) {
        assert_eq!(&file[at..at + 4], b"PK\x01\x02");
        let (method, size, local) = (u16_at(at + 10), u32_at(at + 24), u32_at(at + 42));
        let lengths = [u16_at(at + 28), u16_at(at + 30), u16_at(at + 32)];
        let name = String::from_utf8(file[at + 46..][..lengths[0]].to_vec()).unwrap();
        assert_eq!(method, 0, "{name}: expected it stored, got compression method {method}");
        let begin = local + 30 + u16_at(local + 26) + u16_at(local + 28);
        members.insert(name, file[begin..][..size].to_vec());
        at += 46 + lengths.iter().sum::<usize>();
    }
    members
}
