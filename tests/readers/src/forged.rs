//! Inputs whose digests are right, whatever else they say. Whoever makes a hostile file
//! computes them too, and behind them is most of what reads it.

use std::io::Read as _;

use serde_json::Value;
use spin_store::journal::{Entry, Event};
use spin_store::manifest::{content_of, identity_of};
use spin_store::{Manifest, digest};

/// The same manifest with every digest that belongs to it, if it is one at all.
pub fn manifest(bytes: &[u8]) -> Option<Manifest> {
    let mut m: Manifest = serde_json::from_slice(bytes).ok()?;
    m.content = content_of(&m.files);
    m.identity = identity_of(&m.stage, m.kind, &m.params, &m.parents);
    Some(m.sealed())
}

/// The lines that are entries, chained.
pub fn journal(bytes: &[u8]) -> String {
    let (mut out, mut previous) = (String::new(), "0".repeat(64));
    let entries = bytes.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice::<Entry>(line).ok());
    for (i, mut entry) in entries.enumerate() {
        (entry.entry, entry.previous, entry.digest) = (i as u64 + 1, previous, String::new());
        let text = |entry: &Entry| serde_json::to_value(entry).expect("an entry is plain JSON");
        entry.digest = digest::of_json(&text(&entry));
        previous = entry.digest.clone();
        out += &serde_json::to_string(&entry).expect("an entry is plain JSON");
        out.push('\n');
    }
    out
}

/// An entry as good as another, to begin with.
pub fn entry(artifact: &str, event: Event) -> String {
    let entry = Entry {
        entry: 0,
        at: None,
        event,
        artifact: artifact.to_owned(),
        seal: digest::of_bytes(artifact.as_bytes()),
        previous: String::new(),
        digest: String::new(),
    };
    serde_json::to_string(&entry).expect("an entry is plain JSON") + "\n"
}

/// Bytes of a block of a tar.
const BLOCK: usize = 512;

/// A tar in which every header has the checksum that belongs to it, every manifest its digests, and
/// the list of contents the manifests' seals; `None` where it is no tar of a bundle. Sizes and names
/// are left as they are.
pub fn bundle(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = bytes.to_vec();
    let mut at = 0_usize;
    while at.checked_add(BLOCK).is_some_and(|end| end <= out.len()) {
        let header = &mut out[at..at + BLOCK];
        let mut one = tar::Header::new_old();
        one.as_mut_bytes().copy_from_slice(header);
        if header.iter().any(|b| *b != 0) {
            one.set_cksum();
            header.copy_from_slice(one.as_bytes());
        }
        let size = usize::try_from(one.entry_size().unwrap_or(0)).unwrap_or(usize::MAX);
        let Some(next) = size.checked_next_multiple_of(BLOCK).and_then(|size| (at + BLOCK).checked_add(size)) else {
            break;
        };
        at = next;
    }
    with_seals(&out)
}

/// The same files, sealed; `None` where it is no tar of a bundle.
fn with_seals(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut files = Vec::new();
    for entry in tar::Archive::new(bytes).entries().ok()? {
        let mut entry = entry.ok()?;
        let mut data = Vec::new();
        entry.read_to_end(&mut data).ok()?;
        files.push((entry.header().clone(), entry.path_bytes().into_owned(), data));
    }
    let (_, _, contents) = files.first()?;
    let mut contents: Value = serde_json::from_slice(contents).ok()?;
    let mut listed = Vec::new();
    let mut at = 1;
    while at < files.len() {
        let mut m: Manifest = serde_json::from_slice(&files[at].2).ok()?;
        let count = m.files.len();
        for (file, (_, _, data)) in m.files.iter_mut().zip(&files[at + 1..]) {
            // The declared size stays: it may lie.
            (file.blake3, file.sha256) = (digest::of_bytes(data), Some(digest::sha256(data)));
        }
        let m = manifest(&serde_json::to_vec(&m).ok()?)?;
        listed.push(serde_json::json!([m.reference(), m.seal]));
        files[at].2 = m.to_text().into_bytes();
        at += 1 + count;
    }
    *contents.get_mut("artifacts")? = Value::Array(listed);
    files[0].2 = serde_json::to_vec(&contents).ok()?;
    let mut out = Vec::new();
    for (i, (mut header, _, data)) in files.into_iter().enumerate() {
        // Only what we wrote anew has another size.
        if i == 0 || header.entry_size().ok()? != data.len() as u64 {
            header.set_size(data.len() as u64);
        }
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&data);
        out.resize(out.len().next_multiple_of(BLOCK), 0);
    }
    out.resize(out.len() + 2 * BLOCK, 0);
    Some(out)
}
