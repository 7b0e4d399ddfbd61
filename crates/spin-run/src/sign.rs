//! Signatures beside artifacts: Ed25519 over an in-toto statement in a DSSE envelope,
//! as other tools read them (in-toto attestation v1; DSSE v1.0.2).
//!
//! A signature is of a manifest, by its seal and SHA-256. The manifest has the digests
//! of all files and the seals of its parents, so one signature covers all that an
//! artifact is from. Keys are those of OpenSSL: PKCS#8 and SubjectPublicKeyInfo, in PEM.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde_json::{Value, json};

use spin_store::error::{Result, StoreError};
use spin_store::{Artifact, Manifest, Store, digest, fsutil, manifest};

const DIR: &str = "signatures";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "urn:spin:manifest:2";

/// What stands before the 32 bytes of an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The bytes of a PEM file with this label.
fn pem(path: &Path, label: &str) -> Result<Vec<u8>> {
    let text = std::fs::read_to_string(path).map_err(StoreError::io("read", path))?;
    let bad = |problem: &str| {
        let remedy = "make one with `openssl genpkey -algorithm ed25519 -out KEY` and `openssl pkey -in KEY -pubout`";
        StoreError::corrupt(path, problem, remedy)
    };
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let inside = text.split_once(&begin).and_then(|(_, rest)| rest.split_once(&end));
    let (inside, _) = inside.ok_or_else(|| bad(&format!("has no {label} in PEM")))?;
    let inside: String = inside.split_whitespace().collect();
    BASE64.decode(inside).map_err(|_| bad("is not PEM"))
}

/// The name of a key: SHA-256 of its SubjectPublicKeyInfo.
fn id_of(key: &[u8]) -> String {
    digest::sha256(&[&SPKI, key].concat())
}

/// What is signed of a payload: DSSE's pre-authentication encoding.
fn encoded(payload: &[u8]) -> Vec<u8> {
    let head = format!("DSSEv1 {} {PAYLOAD_TYPE} {} ", PAYLOAD_TYPE.len(), payload.len());
    [head.as_bytes(), payload].concat()
}

fn statement(m: &Manifest) -> Value {
    let own = json!({
        "name": format!("{}/{}", m.reference(), manifest::FILE_NAME),
        "digest": {"sha256": digest::sha256(m.to_text().as_bytes())},
    });
    let files = m.files.iter().filter_map(|file| {
        Some(json!({"name": format!("{}/{}", m.reference(), file.path), "digest": {"sha256": file.sha256.as_ref()?}}))
    });
    let subject: Vec<Value> = [own].into_iter().chain(files).collect();
    json!({
        "_type": STATEMENT, "subject": subject, "predicateType": PREDICATE,
        "predicate": {"artifact": m.reference(), "seal": m.seal, "content": m.content, "identity": m.identity},
    })
}

fn place(store: &Store, m: &Manifest) -> PathBuf {
    store.root().join(DIR).join(m.kind.dir()).join(&m.name)
}

/// Signs an artifact with the private key in a file; returns the signature's path.
///
/// # Errors
/// When the artifact is not as recorded, the key is none, or the signature cannot be
/// written.
pub fn seal(store: &Store, artifact: &Artifact, key: &Path) -> Result<PathBuf> {
    artifact.verify_wholly()?;
    let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pem(key, "PRIVATE KEY")?)
        .map_err(|e| StoreError::corrupt(key, format!("is no Ed25519 key ({e})"), "give one of Ed25519"))?;
    let payload = serde_json::to_vec(&statement(&artifact.manifest)).expect("a statement is plain JSON");
    let id = id_of(pair.public_key().as_ref());
    let envelope = json!({
        "payloadType": PAYLOAD_TYPE, "payload": BASE64.encode(&payload),
        "signatures": [{"keyid": id, "sig": BASE64.encode(pair.sign(&encoded(&payload)))}],
    });
    let dir = place(store, &artifact.manifest);
    fsutil::create_dir_all(&dir)?;
    let path = dir.join(format!("v{}.{}.dsse.json", artifact.manifest.version, &id[..16]));
    fsutil::write_atomic(&path, format!("{envelope}\n").as_bytes())?;
    Ok(path)
}

/// Keys that are trusted.
#[derive(Clone, Debug, Default)]
pub struct Keys(Vec<(String, Vec<u8>)>);

impl Keys {
    /// The public keys in a file, or in the `.pub` and `.pem` files of a directory; each
    /// is called as its file.
    ///
    /// # Errors
    /// When there are none, or one cannot be read.
    pub fn read(path: &Path) -> Result<Keys> {
        let mut files = vec![path.to_path_buf()];
        if path.is_dir() {
            let entries = std::fs::read_dir(path).map_err(StoreError::io("read", path))?;
            files = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
            files.retain(|file| file.extension().is_some_and(|end| end == "pub" || end == "pem"));
            files.sort();
        }
        let key = |file: PathBuf| {
            let bytes = pem(&file, "PUBLIC KEY")?;
            let Some(key) = bytes.strip_prefix(&SPKI).filter(|key| key.len() == 32) else {
                return Err(StoreError::corrupt(&file, "is no key of Ed25519", "give one of Ed25519"));
            };
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            Ok((name, key.to_vec()))
        };
        let keys: Vec<_> = files.into_iter().map(key).collect::<Result<_>>()?;
        match keys.is_empty() {
            true => Err(StoreError::corrupt(path, "has no key (*.pub, *.pem)", "give a file or directory of keys")),
            false => Ok(Keys(keys)),
        }
    }
}

/// The names of the trusted keys that an artifact is signed with.
///
/// # Errors
/// When a signature with one of them is of another manifest, or damaged: of keys that
/// are not trusted nothing is said.
pub fn signers(store: &Store, artifact: &Artifact, keys: &Keys) -> Result<Vec<String>> {
    let m = &artifact.manifest;
    let dir = place(store, m);
    let entries = match std::fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StoreError::io("read", dir)(e)),
    };
    let prefix = format!("v{}.", m.version);
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&prefix)));
    paths.sort();
    let mut names = Vec::new();
    for path in paths {
        let bad =
            |problem: &str| StoreError::corrupt(&path, problem, "seal the artifact again, or delete the signature");
        let text = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
        let envelope: Value = serde_json::from_slice(&text).map_err(|_| bad("is no envelope"))?;
        let bytes = |value: &Value| value.as_str().and_then(|text| BASE64.decode(text).ok());
        let payload = bytes(&envelope["payload"]).filter(|_| envelope["payloadType"] == PAYLOAD_TYPE);
        let payload = payload.ok_or_else(|| bad("is no envelope of a statement"))?;
        for signature in envelope["signatures"].as_array().into_iter().flatten() {
            let known = keys.0.iter().find(|(_, key)| signature["keyid"] == id_of(key).as_str());
            let Some((name, key)) = known else { continue };
            let sig = bytes(&signature["sig"]).ok_or_else(|| bad("has a signature that is none"))?;
            UnparsedPublicKey::new(&ED25519, key)
                .verify(&encoded(&payload), &sig)
                .map_err(|_| bad(&format!("was not signed with the key {name}")))?;
            let said: Value = serde_json::from_slice(&payload).map_err(|_| bad("signs no statement"))?;
            if said != statement(m) {
                return Err(bad(&format!("is of another manifest than {} has", m.reference())));
            }
            names.push(name.clone());
        }
    }
    Ok(names)
}
