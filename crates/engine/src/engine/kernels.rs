//! What can be asked about kernels.

use std::{io::Read, sync::Arc};

use banger_api::{ApiError, AvailableKernel, Kernel, Name, OperationKind, Size, resolve};

use super::{Engine, Events};
use crate::{
    error::EngineError,
    host::{Host, unresolved},
    operation::{Context, OnHangUp},
    store::KernelRecord,
};

impl Engine {
    /// All kernels, by name.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn kernels(&self) -> Result<Vec<Kernel>, ApiError> {
        let vms = self.0.store.vms()?;
        Ok(self.0.store.kernels()?.iter().map(|kernel| self.0.show_kernel(kernel, &vms)).collect())
    }

    /// The catalog's kernels, in its order.
    ///
    /// # Errors
    /// When one of its files is broken, or the store cannot be read.
    pub fn available_kernels(&self) -> Result<Vec<AvailableKernel>, ApiError> {
        let kernels = self.0.store.kernels()?;
        let here = |name: &str| kernels.iter().any(|kernel| kernel.name.as_str() == name);
        let catalog = self.0.catalog()?;
        let available = catalog.kernels.iter().map(|entry| AvailableKernel {
            name: entry.name.to_string(),
            description: entry.description.to_string(),
            size: Size::mib(entry.space_mib),
            source: entry.source.to_string(),
            here: here(entry.name.as_str()),
        });
        Ok(available.collect())
    }

    /// The kernel that `reference` names, with what it brings. It is read for that, which takes a moment.
    ///
    /// # Errors
    /// When none or several do, or its files cannot be read.
    pub fn kernel(&self, reference: &str) -> Result<Kernel, ApiError> {
        let kernels = self.0.store.kernels()?;
        let kernel = resolve(&kernels, reference).map_err(|error| unresolved("kernel", reference, error))?;
        let details = Some(self.0.kernel_details(kernel)?);
        Ok(Kernel { details, ..self.0.show_kernel(kernel, &self.0.store.vms()?) })
    }

    /// Makes a kernel of a package, a kernel, or a tar of such.
    pub fn import_kernel(&self, name: Name, input: impl Read + Send + 'static) -> Events {
        let target = name.to_string();
        self.kernel_operation(OperationKind::KernelImport, &target, move |host, context| async move {
            host.import_kernel(name, input, &context).await
        })
    }

    /// Gets a kernel from the catalog.
    pub fn pull_kernel(&self, name: Name) -> Events {
        let target = name.to_string();
        self.kernel_operation(OperationKind::KernelPull, &target, move |host, context| async move {
            host.pull_kernel(name, &context).await
        })
    }

    fn kernel_operation<W>(
        &self,
        kind: OperationKind,
        target: &str,
        work: impl FnOnce(Arc<Host>, Context) -> W + Send + 'static,
    ) -> Events
    where
        W: Future<Output = Result<KernelRecord, EngineError>> + Send + 'static,
    {
        let host = self.0.clone();
        let work = |context| async move { Ok(host.show_kernel(&work(host.clone(), context).await?, &[])) };
        self.0.operations.start(kind, target, OnHangUp::Cancel, work, |_, _| async {})
    }

    /// Deletes a kernel that no VM uses.
    ///
    /// # Errors
    /// When there is none, or it is in use.
    pub fn delete_kernel(&self, reference: &str) -> Result<(), ApiError> {
        Ok(self.0.delete_kernel(reference)?)
    }
}
