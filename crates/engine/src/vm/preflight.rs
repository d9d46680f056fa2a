//! Checks before a start: those that are fast and start no process. All problems are reported together.

use std::{io, path::Path};

use banger_api::{ApiError, CreateVm, ErrorKind, Remedy, SubjectKind};

use super::services::Services;
use crate::{
    admission,
    doctor::{check_agent, check_disk_space, check_private_dir, check_record},
    error::EngineError,
    operation::Context,
    spans::now_ns,
    store::VmRecord,
};

/// Checks before a VM is created, so that nothing is fetched or reserved for a VM that could not start.
pub(crate) async fn before_create(
    services: &Services,
    request: &CreateVm,
    context: &Context,
) -> Result<(), EngineError> {
    let began = now_ns();
    let mut problems = check_host(services);
    problems.add(services.vmms.choose(request.vmm).await.map(drop));
    problems.add(check_disk_space(&services.dirs));
    if !request.no_start {
        let memory =
            request.memory.map_or_else(|| services.config.current().map(|config| config.memory()), Ok);
        problems.add(memory.and_then(admission::check_memory));
    }
    context.spans.end("checks before create", began);
    problems.into_result("the VM cannot be created")
}

/// Checks before the VM of `record` is started.
pub(crate) async fn before_start(
    services: &Services,
    record: &VmRecord,
    context: &Context,
) -> Result<(), EngineError> {
    let began = now_ns();
    let mut problems = check_vm(services, record).await?;
    problems.add(admission::check_memory(record.memory));
    context.spans.end("checks before start", began);
    problems.into_result(&format!("VM {} cannot start", record.name))
}

/// Checks before the running VM of `record` is restarted. Memory is not checked, because the stop frees it.
pub(crate) async fn before_restart(services: &Services, record: &VmRecord) -> Result<(), EngineError> {
    let problems = check_vm(services, record).await?;
    problems.into_result(&format!("VM {} was not restarted", record.name))
}

async fn check_vm(services: &Services, record: &VmRecord) -> Result<Problems, EngineError> {
    let mut problems = check_host(services);
    problems.add(services.vmms.choose_for_vm(record).await.map(drop));
    let rootfs = services.images.dir(&record.image_id).rootfs();
    let image = services.store.images()?.into_iter().find(|image| image.id == record.image_id);
    match image.map_or(Ok(()), |image| services.images.check_usable(&image)) {
        Ok(()) => problems.add(check_record(SubjectKind::Image, &record.image, &rootfs)),
        changed => problems.add(changed),
    }
    problems.add(check_record(
        SubjectKind::Kernel,
        &record.kernel,
        &services.kernels.dir(&record.kernel_id).vmlinux(),
    ));
    let dir = services.vm_dir(record);
    if record.last_used_at.is_some() {
        for (name, path) in [("system overlay", dir.overlay()), ("work disk", dir.work_disk())] {
            problems.add(check_disk(record, name, &path));
        }
    } else if !dir.work_disk().exists() {
        // The first start creates the disks.
        problems.add(check_disk_space(&services.dirs));
    }
    Ok(problems)
}

/// Checks that a VM that has run still has a disk. The start must not create an empty one in its place.
fn check_disk(record: &VmRecord, disk: &str, path: &Path) -> Result<(), ApiError> {
    let problem = match path.metadata() {
        Ok(meta) if meta.len() > 0 => return Ok(()),
        Ok(_) => "is empty",
        Err(error) if error.kind() == io::ErrorKind::NotFound => "is gone",
        Err(error) => return Err(EngineError::file("stat", path)(error).into()),
    };
    let message = format!("the {disk} of VM {} {problem}: {}", record.name, path.display());
    Err(ApiError::new(ErrorKind::Io, message)
        .about(SubjectKind::Vm, &record.name)
        .remedy(Remedy::RestoreDisk))
}

fn check_host(services: &Services) -> Problems {
    let mut problems = Problems::default();
    problems.add(check_agent(&services.programs.agent).map(drop));
    problems.add(check_private_dir("runtime directory", &services.dirs.runtime).map(drop));
    problems
}

/// Problems found so far.
#[derive(Debug, Default)]
struct Problems(Vec<ApiError>);

impl Problems {
    fn add<E: Into<ApiError>>(&mut self, result: Result<(), E>) {
        if let Err(error) = result {
            self.0.push(error.into());
        }
    }

    /// Returns one problem as it is. Several become one error of the first's kind, with all of them as causes.
    fn into_result(mut self, what: &str) -> Result<(), EngineError> {
        if self.0.len() < 2 {
            return self.0.pop().map_or(Ok(()), |error| Err(error.into()));
        }
        let kind = self.0.first().map_or(ErrorKind::Internal, |error| error.kind);
        let error = ApiError::new(kind, format!("{what}, for {} reasons", self.0.len()));
        Err(ApiError { causes: self.0, ..error.remedy(Remedy::RunDoctor) }.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_problems_are_reported_together() {
        let failure = |kind, message: &str| Err(ApiError::new(kind, message));
        let mut problems = Problems::default();
        problems.add::<ApiError>(Ok(()));
        assert!(Problems::default().into_result("").is_ok());
        problems.add::<ApiError>(failure(ErrorKind::NoMemory, "no memory"));
        problems.add::<ApiError>(failure(ErrorKind::NoSpace, "no space"));
        let error = ApiError::from(problems.into_result("VM box cannot start").unwrap_err());
        assert_eq!(error.kind, ErrorKind::NoMemory);
        assert_eq!(error.message, "VM box cannot start, for 2 reasons");
        let causes: Vec<_> = error.causes.iter().map(|cause| cause.message.as_str()).collect();
        assert_eq!(causes, ["no memory", "no space"]);
        let mut one = Problems::default();
        one.add::<ApiError>(failure(ErrorKind::NoSpace, "no space"));
        assert_eq!(ApiError::from(one.into_result("").unwrap_err()).message, "no space");
    }
}
