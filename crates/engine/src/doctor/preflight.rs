//! The checks that a start makes before it does anything: those that start no process and take no time. All that is
//! wrong is told together.

use banger_api::{ApiError, CreateVm};

use super::{files, fresh_disks};
use crate::{admission, error::EngineError, host::Host, operation::Context, spans::now_ns, store::VmRecord};

/// Before a VM is made: what is missing for it is not fetched, and nothing is reserved, when it could not start.
pub(crate) async fn before_create(
    host: &Host,
    request: &CreateVm,
    context: &Context,
) -> Result<(), EngineError> {
    let began = now_ns();
    let mut problems = of_host(host);
    problems.add(host.vmms.choose(request.vmm).await.map(drop));
    problems.add(fresh_disks(&host.dirs));
    if !request.no_start {
        let memory = request.memory.map_or_else(|| host.config().map(|config| config.memory()), Ok);
        problems.add(memory.and_then(admission::memory));
    }
    context.spans.end("look before", began);
    problems.all("the VM cannot be made")
}

/// Before the VM of `record` is started.
pub(crate) async fn before_start(
    host: &Host,
    record: &VmRecord,
    context: &Context,
) -> Result<(), EngineError> {
    let began = now_ns();
    let mut problems = of_host(host);
    problems.add(host.vmms.choose(record.vmm).await.map(drop));
    let rootfs = host.image_dir(&record.image_id).join("rootfs.ext4");
    let image = host.store.images()?.into_iter().find(|image| image.id == record.image_id);
    match image.map_or(Ok(()), |image| host.usable(&image)) {
        Ok(()) => problems.add(files::of_row("image", &record.image, &rootfs)),
        changed => problems.add(changed),
    }
    problems.add(files::of_row(
        "kernel",
        &record.kernel,
        &host.kernel_dir(&record.kernel_id).join("vmlinux"),
    ));
    // What is not there yet is made.
    if !host.dirs.vm(record.id.as_str()).join("work.ext4").exists() {
        problems.add(fresh_disks(&host.dirs));
    }
    problems.add(admission::memory(record.memory));
    context.spans.end("look before start", began);
    problems.all(&format!("VM {} cannot start", record.name))
}

fn of_host(host: &Host) -> Problems {
    let mut problems = Problems::default();
    problems.add(files::agent(&host.programs.agent).map(drop));
    problems.add(files::own_folder("runtime folder", &host.dirs.runtime).map(drop));
    problems.add(files::sockets(&host.dirs).map(drop));
    problems
}

/// What is wrong so far.
#[derive(Debug, Default)]
struct Problems(Vec<ApiError>);

impl Problems {
    fn add<E: Into<ApiError>>(&mut self, found: Result<(), E>) {
        if let Err(error) = found {
            self.0.push(error.into());
        }
    }

    /// One problem is the error; several are one error of the first's kind that lists all, each with what to do.
    fn all(mut self, what: &str) -> Result<(), EngineError> {
        if self.0.len() < 2 {
            return self.0.pop().map_or(Ok(()), |error| Err(error.into()));
        }
        let mut message = format!("{what}, for {} reasons:", self.0.len());
        for error in &self.0 {
            let hint = error.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            message.push_str(&format!("\n  {}{hint}", error.message));
        }
        let kind = self.0.first().map_or(banger_api::ErrorKind::Internal, |error| error.kind);
        Err(ApiError::new(kind, message).hint("`banger doctor` looks at all of the host").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use banger_api::ErrorKind;

    #[test]
    fn several_problems_are_told_together() {
        let of = |kind, message: &str| Err(ApiError::new(kind, message).hint("do this"));
        let mut problems = Problems::default();
        problems.add::<ApiError>(Ok(()));
        assert!(Problems::default().all("").is_ok());
        problems.add::<ApiError>(of(ErrorKind::NoMemory, "no memory"));
        problems.add::<ApiError>(of(ErrorKind::NoSpace, "no space"));
        let error = ApiError::from(problems.all("VM box cannot start").unwrap_err());
        assert_eq!(error.kind, ErrorKind::NoMemory);
        assert_eq!(
            error.message,
            "VM box cannot start, for 2 reasons:\n  no memory (do this)\n  no space (do this)"
        );
        let mut one = Problems::default();
        one.add::<ApiError>(of(ErrorKind::NoSpace, "no space"));
        assert_eq!(ApiError::from(one.all("").unwrap_err()).message, "no space");
    }
}
