//! Images in the store.

use std::path::PathBuf;

use banger_api::{Digest, EventKind, Id, ImageConfig, ImageName, ImageSource, InvalidDigest, Named, Size};
use jiff::Timestamp;
use rusqlite::{Transaction, params};
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, deleted, json, name_taken, parsed, returned_name, to_json};
use crate::step::Step;

/// An image's row.
#[derive(Debug, Clone)]
pub(crate) struct ImageRecord {
    pub(crate) id: Id,
    pub(crate) name: ImageName,
    pub(crate) size: Size,
    pub(crate) entries: u64,
    pub(crate) os: Option<String>,
    pub(crate) init: Option<String>,
    pub(crate) kernel: Option<String>,
    pub(crate) source: ImageSource,
    pub(crate) created_at: Timestamp,
    /// Full reference in its registry, with all defaults filled in.
    pub(crate) reference: Option<String>,
    /// Digest of its manifest.
    pub(crate) digest: Option<Digest>,
    pub(crate) config: ImageConfig,
    /// The user's file, if the image is a registered one.
    pub(crate) registered_file: Option<RegisteredFile>,
    /// Digest of all inputs of the build that created it.
    pub(crate) build_key: Option<Digest>,
}

/// A user's file, in its state when it was registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RegisteredFile {
    pub(crate) path: PathBuf,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Seconds and nanoseconds.
    pub(crate) mtime: (i64, i64),
}

impl Named for ImageRecord {
    fn id(&self) -> &Id {
        &self.id
    }
    fn name(&self) -> &str {
        self.name.as_str()
    }
}

const DELETE_BUILT: &str = "DELETE FROM images WHERE id = ?1 AND build_key IS NOT NULL
    AND NOT EXISTS (SELECT 1 FROM vms WHERE image_id = ?1) RETURNING name";

fn digest(row: &rusqlite::Row<'_>, column: &'static str) -> Result<Option<Digest>, StoreError> {
    let text: Option<String> = row.get(column)?;
    let digest = text.map(|text| text.parse()).transpose();
    digest.map_err(|error: InvalidDigest| StoreError::Value { what: column, source: Box::new(error) })
}

fn source(row: &rusqlite::Row<'_>) -> Result<ImageSource, StoreError> {
    let word = serde_json::Value::String(row.get("source")?);
    serde_json::from_value(word)
        .map_err(|source| StoreError::Value { what: "source", source: Box::new(source) })
}

impl Store {
    pub(crate) fn images(&self) -> Result<Vec<ImageRecord>, StoreError> {
        self.query("SELECT * FROM images ORDER BY name", [], |row| {
            Ok(ImageRecord {
                id: parsed(row, "id")?,
                name: parsed(row, "name")?,
                size: Size::bytes(row.get("size")?),
                entries: row.get("entries")?,
                os: row.get("os")?,
                init: row.get("init")?,
                kernel: row.get("kernel")?,
                source: source(row)?,
                created_at: parsed(row, "created_at")?,
                reference: row.get("reference")?,
                digest: digest(row, "digest")?,
                config: json(row, "config")?,
                registered_file: match row.get::<_, Option<String>>("outside")? {
                    Some(_) => json(row, "outside")?,
                    None => None,
                },
                build_key: digest(row, "build_key")?,
            })
        })
    }

    /// Inserts an image whose files are in place.
    pub(crate) fn insert_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        self.write_and_publish(Step::ImageInsert, |transaction| Ok(((), Some(insert(transaction, image)?))))
    }

    /// Inserts an image in place of `old`, which is deleted, or renamed to `old_name` if VMs use it. Returns whether it
    /// was deleted.
    pub(crate) fn replace_image(
        &self,
        image: &ImageRecord,
        old: &Id,
        old_name: &ImageName,
    ) -> Result<bool, StoreError> {
        self.write_and_publish(Step::ImageReplace, |transaction| {
            let deleted = delete(transaction, old)?;
            if deleted.is_none() {
                let rename = "UPDATE images SET name = ? WHERE id = ?";
                let renamed = transaction.execute(rename, params![old_name.as_str(), old.as_str()]);
                renamed.map_err(|error| name_taken(error, old_name.as_str()))?;
            }
            let created = insert(transaction, image)?;
            Ok((deleted.is_some(), deleted.into_iter().chain([created]).collect::<Vec<_>>()))
        })
    }

    /// Inserts an image in place of `old`. Deletes `old` if a build created it and no VM uses it.
    pub(crate) fn insert_image_replacing(&self, image: &ImageRecord, old: &Id) -> Result<(), StoreError> {
        self.write_and_publish(Step::ImageInsert, |transaction| {
            let name = returned_name(transaction, DELETE_BUILT, [old.as_str()])?;
            if name.is_some() {
                deleted::record(transaction, old)?;
            }
            let deleted = name.map(|name| EventKind::ImageDeleted { id: old.clone(), name });
            let created = insert(transaction, image)?;
            Ok(((), deleted.into_iter().chain([created]).collect::<Vec<_>>()))
        })
    }

    /// Renames an image.
    pub(crate) fn rename_image(&self, image: &ImageRecord, name: &ImageName) -> Result<(), StoreError> {
        let update = "UPDATE images SET name = ? WHERE id = ?";
        self.write_and_publish(Step::ImageRename, |transaction| {
            let renamed = transaction.execute(update, [name.as_str(), image.id.as_str()]);
            let renamed = renamed.map_err(|error| name_taken(error, name.as_str()))?;
            let (id, from, name) = (image.id.clone(), image.name.clone(), name.clone());
            Ok(((), (renamed > 0).then_some(EventKind::ImageRenamed { id, from, name })))
        })
    }

    /// Records that an image's file is now banger's own.
    pub(crate) fn promote_image(&self, id: &Id) -> Result<(), StoreError> {
        let update = "UPDATE images SET outside = NULL WHERE id = ? RETURNING name";
        self.write_and_publish(Step::ImagePromote, |transaction| {
            let name = returned_name(transaction, update, [id.as_str()])?;
            Ok(((), name.map(|name| EventKind::ImagePromoted { id: id.clone(), name })))
        })
    }

    /// Deletes an image's row; returns false if a VM uses it.
    pub(crate) fn delete_image(&self, id: &Id) -> Result<bool, StoreError> {
        self.write_and_publish(Step::ImageDelete, |transaction| {
            let deleted = delete(transaction, id)?;
            Ok((deleted.is_some(), deleted))
        })
    }
}

fn insert(transaction: &Transaction<'_>, image: &ImageRecord) -> Result<EventKind, StoreError> {
    let insert = "INSERT INTO images (id, name, size, entries, os, init, kernel, source, created_at, reference, digest, config,
        outside, build_key) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let registered_file = image
        .registered_file
        .as_ref()
        .map(|registered_file| to_json("outside", registered_file))
        .transpose()?;
    let values = params![
        image.id.as_str(),
        image.name.as_str(),
        image.size.as_bytes(),
        image.entries,
        image.os,
        image.init,
        image.kernel,
        image.source.as_str(),
        image.created_at.to_string(),
        image.reference,
        image.digest.map(|digest| digest.to_string()),
        to_json("config", &image.config)?,
        registered_file,
        image.build_key.map(|key| key.to_string()),
    ];
    transaction.execute(insert, values).map_err(|error| name_taken(error, image.name.as_str()))?;
    Ok(EventKind::ImageCreated { id: image.id.clone(), name: image.name.clone() })
}

/// Deletes the row of an image, unless a VM uses it.
fn delete(transaction: &Transaction<'_>, id: &Id) -> Result<Option<EventKind>, StoreError> {
    let delete = "DELETE FROM images WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM vms WHERE image_id = ?1)
        RETURNING name";
    let name = returned_name(transaction, delete, [id.as_str()])?;
    if name.is_some() {
        deleted::record(transaction, id)?;
    }
    Ok(name.map(|name| EventKind::ImageDeleted { id: id.clone(), name }))
}
