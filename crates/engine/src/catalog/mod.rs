//! Catalogs of the images and kernels that can be fetched by name.

mod catalogs;
mod files;
mod signed;

pub use catalogs::Catalogs;
pub(crate) use files::CatalogFiles;
pub(crate) use signed::check as check_signed;
