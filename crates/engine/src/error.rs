//! The engine's errors, and their conversion to API errors.

use std::{io, path::PathBuf};

use banger_api::{ApiError, ErrorKind, Remedy};
use banger_image::{FailureKind, ImageError, KernelError, ModuleError};
use banger_vmm::VmmError;

use crate::store::StoreError;

/// An error of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A store error.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file or directory operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// The verb, in the infinitive: "create".
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A program could not be run, or failed.
    #[error("cannot run {}: {source}", program.display())]
    Program {
        /// The program.
        program: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A VM's network could not be created.
    #[error("cannot create the network of VM {name}: {source}")]
    Network {
        /// The VM's name.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// A running VM's network could not be changed.
    #[error("cannot change the network of VM {name}: {source}")]
    NetworkChange {
        /// The VM's name.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// An image, kernel or disk could not be created.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An error of the VMM or of the connection to the guest.
    #[error(transparent)]
    Vmm(#[from] VmmError),
    /// The guest did not answer as expected.
    #[error("{0}")]
    Guest(String),
    /// The operation was cancelled.
    #[error("cancelled")]
    Cancelled,
    /// An error that already has the API's form.
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
            EngineError::File { source, .. }
            | EngineError::Program { source, .. }
            | EngineError::Network { source, .. }
            | EngineError::NetworkChange { source, .. } => {
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

/// Returns an error's message with its sources, skipping sources that the text already contains.
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

/// Converts an image error to an API error.
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
    let api_error = ApiError::new(kind, message);
    match error {
        ImageError::NoKernel
        | ImageError::Kernel(KernelError::Missing { .. })
        | ImageError::Modules(ModuleError::Dependency { .. }) => {
            api_error.remedy(Remedy::ImportPackagesTogether)
        }
        ImageError::Unsigned { .. } => api_error.remedy(Remedy::CheckCatalogSignature),
        ImageError::MissingProgram { program } => {
            api_error.remedy(Remedy::InstallProgram { program: (*program).to_owned() })
        }
        ImageError::NoSubordinateIds => api_error.remedy(Remedy::AddSubordinateIds),
        _ => api_error,
    }
}

/// Converts a VMM error to an API error.
fn vmm_error(error: &VmmError, message: String) -> ApiError {
    let kind = match error {
        VmmError::NoVmm { .. } | VmmError::Unusable { .. } => ErrorKind::MissingProgram,
        VmmError::NoKvm { .. } => ErrorKind::NoKvm,
        VmmError::Timeout { .. } | VmmError::KvmUnknown { .. } => ErrorKind::Timeout,
        _ => ErrorKind::Io,
    };
    let api_error = ApiError::new(kind, message);
    match error {
        VmmError::KvmUnknown { .. } => api_error.remedy(Remedy::TryWhenLessBusy),
        VmmError::NoVmm { .. } | VmmError::Unusable { .. } => api_error.remedy(Remedy::RunDoctor),
        _ => api_error,
    }
}
