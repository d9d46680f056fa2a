//! The engine's errors, and what each is to the API.

use std::{io, path::PathBuf};

use banger_api::{ApiError, ErrorKind};

/// What went wrong in the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// A file or folder could not be used.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// In the infinitive: "make".
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program could not be run, or ended badly.
    #[error("cannot run {}: {source}", program.display())]
    Program {
        /// Which.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An image, kernel or disk could not be made.
    #[error(transparent)]
    Image(#[from] banger_image::ImageError),
    /// The VMM, or the way to the guest.
    #[error(transparent)]
    Vmm(#[from] banger_vmm::VmmError),
    /// The guest does not answer as it must.
    #[error("{0}")]
    Guest(String),
    /// It was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// Already told as the API tells it.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl EngineError {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = chain(&error);
        match error {
            EngineError::Api(error) => error,
            EngineError::Store(error) => error.into(),
            EngineError::File { source, .. } | EngineError::Program { source, .. } => {
                let kind = match source.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
                    io::ErrorKind::PermissionDenied => ErrorKind::NotPermitted,
                    _ => ErrorKind::Io,
                };
                Self::new(kind, message)
            }
            EngineError::Image(error) => crate::images::image_error(&error, message),
            EngineError::Vmm(error) => crate::vm::vmm_error(&error, message),
            EngineError::Guest(_) => Self::new(ErrorKind::Guest, message),
            EngineError::Cancelled => Self::new(ErrorKind::Cancelled, message),
        }
    }
}

/// An error with its sources, skipping those that say what the one above has already said.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
