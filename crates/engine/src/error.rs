//! The engine's errors, and what each is to the API.

use std::{io, path::PathBuf};

use banger_api::{ApiError, ErrorKind, Remedy};
use banger_image::{FailureKind, ImageError, KernelError, ModuleError};
use banger_vmm::VmmError;

use crate::store::StoreError;

/// What went wrong in the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    Image(#[from] ImageError),
    /// The VMM, or the way to the guest.
    #[error(transparent)]
    Vmm(#[from] VmmError),
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
            EngineError::Image(error) => image_error(&error, message),
            EngineError::Vmm(error) => vmm_error(&error, message),
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

/// An image error as the API tells it.
fn image_error(error: &ImageError, message: String) -> ApiError {
    let kind = match error.kind() {
        FailureKind::Invalid => ErrorKind::Invalid,
        FailureKind::NoSpace => ErrorKind::NoSpace,
        FailureKind::MissingProgram => ErrorKind::MissingProgram,
        FailureKind::Cancelled => ErrorKind::Cancelled,
        FailureKind::Timeout => ErrorKind::Timeout,
        FailureKind::NotFound => ErrorKind::NotFound,
        FailureKind::NotPermitted => ErrorKind::NotPermitted,
        FailureKind::Unreachable => ErrorKind::Unreachable,
        _ => ErrorKind::Io,
    };
    let told = ApiError::new(kind, message);
    match error {
        ImageError::NoKernel
        | ImageError::Kernel(KernelError::Missing { .. })
        | ImageError::Modules(ModuleError::Dependency { .. }) => told.remedy(Remedy::ImportPackagesTogether),
        ImageError::Unsigned { .. } => told.remedy(Remedy::CheckCatalogSignature),
        ImageError::MissingProgram { program } => {
            told.remedy(Remedy::InstallProgram { program: (*program).to_owned() })
        }
        ImageError::NoSubordinateIds => told.remedy(Remedy::AddSubordinateIds),
        _ => told,
    }
}

/// A VMM error as the API tells it.
fn vmm_error(error: &VmmError, message: String) -> ApiError {
    let kind = match error {
        VmmError::NoVmm { .. } | VmmError::Unusable { .. } => ErrorKind::MissingProgram,
        VmmError::NoKvm { .. } => ErrorKind::NoKvm,
        VmmError::Timeout { .. } | VmmError::KvmUnknown { .. } => ErrorKind::Timeout,
        _ => ErrorKind::Io,
    };
    let told = ApiError::new(kind, message);
    match error {
        VmmError::KvmUnknown { .. } => told.remedy(Remedy::TryWhenLessBusy),
        VmmError::NoVmm { .. } | VmmError::Unusable { .. } => told.remedy(Remedy::RunDoctor),
        _ => told,
    }
}
