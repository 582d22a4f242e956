//! The two files that say what a data directory is: `_format.json` and `node.json`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::envelope;
use crate::error::Result;

pub const VERSION: u32 = 1;

/// `_format.json`, at the root of the tier as of a bucket: created once, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormatFile {
    pub format: u32,
    pub store: Uuid,
}

/// `node.json`: what belongs to this node and to no bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    pub format: u32,
    pub node: Uuid,
    /// The store this node belongs to; its own invention until a bucket is attached.
    pub store: Uuid,
    /// Pinned namespaces, `org/project/name`, in order.
    pub pins: Vec<Pin>,
}

/// A namespace whose objects are kept and kept warm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    pub name: String,
    pub since_ms: u64,
}

pub fn encode_format(file: &FormatFile) -> Result<Vec<u8>> {
    envelope::seal(file).map(|(bytes, _)| bytes)
}

pub fn decode_format(bytes: &[u8], file: &str) -> Result<FormatFile> {
    envelope::open(bytes, VERSION, file).map(|(body, _)| body)
}

pub fn encode_node(node: &NodeFile) -> Result<Vec<u8>> {
    envelope::seal(node).map(|(bytes, _)| bytes)
}

pub fn decode_node(bytes: &[u8], file: &str) -> Result<NodeFile> {
    envelope::open(bytes, VERSION, file).map(|(body, _)| body)
}

#[cfg(test)]
mod tests {
    use super::{FormatFile, NodeFile, Pin, VERSION, decode_format, decode_node, encode_format, encode_node};
    use uuid::Uuid;

    #[test]
    fn both_files_come_back_as_they_were_written() {
        let format = FormatFile { format: VERSION, store: Uuid::from_u128(1) };
        assert_eq!(decode_format(&encode_format(&format).unwrap(), "file").unwrap(), format);
        let node = NodeFile {
            format: VERSION,
            node: Uuid::from_u128(2),
            store: Uuid::from_u128(1),
            pins: vec![Pin { name: "a/b/c".into(), since_ms: 5 }],
        };
        assert_eq!(decode_node(&encode_node(&node).unwrap(), "file").unwrap(), node);
    }
}
