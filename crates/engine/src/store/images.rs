//! Images in the store.

use banger_api::{Digest, HappeningKind, Id, ImageConfig, ImageName, InvalidDigest, Named, Size};
use jiff::Timestamp;
use rusqlite::{Transaction, params};

use super::{Step, Store, StoreError, json, name_taken, parsed, returned_name, to_json};

/// An image, as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct ImageRecord {
    pub(crate) id: Id,
    pub(crate) name: ImageName,
    pub(crate) size: Size,
    pub(crate) entries: u64,
    pub(crate) os: Option<String>,
    pub(crate) init: Option<String>,
    pub(crate) kernel: Option<String>,
    pub(crate) source: String,
    pub(crate) created_at: Timestamp,
    /// What it is called in its registry, nothing left out.
    pub(crate) reference: Option<String>,
    /// Of its manifest.
    pub(crate) digest: Option<Digest>,
    pub(crate) config: ImageConfig,
}

impl Named for ImageRecord {
    fn id(&self) -> &Id {
        &self.id
    }
    fn name(&self) -> &str {
        self.name.as_str()
    }
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
                source: row.get("source")?,
                created_at: parsed(row, "created_at")?,
                reference: row.get("reference")?,
                digest: row
                    .get::<_, Option<String>>("digest")?
                    .map(|text| text.parse())
                    .transpose()
                    .map_err(|error: InvalidDigest| StoreError::Value {
                        what: "digest",
                        source: Box::new(error),
                    })?,
                config: json(row, "config")?,
            })
        })
    }

    /// Publishes an image whose files are in place.
    pub(crate) fn insert_image(&self, image: &ImageRecord) -> Result<(), StoreError> {
        self.write_and_tell(Step::ImageInsert, |transaction| Ok(((), Some(insert(transaction, image)?))))
    }

    /// Publishes an image in the place of `old`, which goes; or is called `kept` from now on, if VMs use it. Tells whether it
    /// is gone.
    pub(crate) fn replace_image(
        &self,
        image: &ImageRecord,
        old: &Id,
        kept: &ImageName,
    ) -> Result<bool, StoreError> {
        self.write_and_tell(Step::ImageReplace, |transaction| {
            let gone = delete(transaction, old)?;
            if gone.is_none() {
                let rename = "UPDATE images SET name = ? WHERE id = ?";
                let renamed = transaction.execute(rename, params![kept.as_str(), old.as_str()]);
                renamed.map_err(|error| name_taken(error, kept.as_str()))?;
            }
            let created = insert(transaction, image)?;
            Ok((gone.is_some(), gone.into_iter().chain([created]).collect::<Vec<_>>()))
        })
    }

    /// Forgets an image; false when a VM uses it.
    pub(crate) fn delete_image(&self, id: &Id) -> Result<bool, StoreError> {
        self.write_and_tell(Step::ImageDelete, |transaction| {
            let gone = delete(transaction, id)?;
            Ok((gone.is_some(), gone))
        })
    }
}

fn insert(transaction: &Transaction<'_>, image: &ImageRecord) -> Result<HappeningKind, StoreError> {
    let insert = "INSERT INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
    let values = params![
        image.id.as_str(),
        image.name.as_str(),
        image.size.as_bytes(),
        image.entries,
        image.os,
        image.init,
        image.kernel,
        image.source,
        image.created_at.to_string(),
        image.reference,
        image.digest.map(|digest| digest.to_string()),
        to_json("config", &image.config)?,
    ];
    transaction.execute(insert, values).map_err(|error| name_taken(error, image.name.as_str()))?;
    Ok(HappeningKind::ImageCreated { id: image.id.clone(), name: image.name.clone() })
}

/// Deletes the row of an image that no VM uses.
fn delete(transaction: &Transaction<'_>, id: &Id) -> Result<Option<HappeningKind>, StoreError> {
    let delete = "DELETE FROM images WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM vms WHERE image_id = ?1)
        RETURNING name";
    let name = returned_name(transaction, delete, [id.as_str()])?;
    Ok(name.map(|name| HappeningKind::ImageDeleted { id: id.clone(), name }))
}
