//! Publishes a VM's ports on the host, as its record says.

use banger_api::{
    ApiError, CreateVm, ErrorKind, Id, MAX_PUBLISHED, PortProtocol, Publish, PublishPorts, Remedy,
    SubjectKind, UnpublishPorts,
};

use super::services::Services;
use crate::{error::EngineError, operation::Context, store::VmRecord};

/// Publishes ports of the VM of `record`, in addition to its others. If it runs, they are open when this returns, or none
/// of them is. A port that the VM publishes already is opened if it could not be opened before.
pub(super) async fn publish(
    services: &Services,
    record: &VmRecord,
    context: &Context,
    request: PublishPorts,
) -> Result<(), EngineError> {
    let requested: Vec<_> = without_duplicates(&request.ports).collect();
    let is_new = |port: &Publish| !record.published.contains(port);
    let new: Vec<_> = requested.iter().copied().filter(is_new).collect();
    let published = [record.published.as_slice(), &new].concat();
    check(&published)?;
    if record.handle.is_some() {
        let is_closed = |port: &Publish| !services.ports.is_open(&record.id, port);
        let closed: Vec<_> = requested.into_iter().filter(is_closed).collect();
        let needs_agent = request.all || closed.iter().any(|port| port.protocol == PortProtocol::Udp);
        if let Some(handle) = record.handle.as_ref().filter(|_| needs_agent) {
            services.ports.check_agent(&record.name, handle).await?;
        }
        services.ports.open(&record.id, Some(&record.name), &closed)?;
    }
    // If this fails, the next synchronisation closes the ports.
    services.store.set_vm_published(&record.id, &published, record.publish_all || request.all)?;
    warn_of_public(context, &new).await;
    Ok(())
}

/// Stops publishing ports of the VM of `record`: all of them, or none if one is not published.
pub(super) fn unpublish(
    services: &Services,
    record: &VmRecord,
    request: &UnpublishPorts,
) -> Result<(), EngineError> {
    let mut published = record.published.clone();
    for selector in &request.ports {
        if !record.published.iter().any(|port| selector.selects(port)) {
            let message = format!("VM {} does not publish port {selector}", record.name);
            let error = ApiError::new(ErrorKind::NotFound, message).about(SubjectKind::Vm, &record.name);
            return Err(error.remedy(Remedy::ShowPublished).into());
        }
        published.retain(|port| !selector.selects(port));
    }
    if request.all {
        published.clear();
    }
    services.store.set_vm_published(&record.id, &published, record.publish_all && !request.all)?;
    Ok(())
}

/// Makes the listeners agree with the record of VM `id`, after a change. Warns about each port that cannot be opened;
/// the VM runs without it.
pub(super) async fn sync(services: &Services, id: &Id, context: &Context) {
    for warning in sync_now(services, id) {
        context.warn(warning).await;
    }
    services.ports.closed().await;
}

/// Closes the ports of VM `id`, which has ended by itself.
pub(super) fn close(services: &Services, id: &Id) {
    services.ports.close(id);
}

/// Opens the ports of VM `id`, which runs since an earlier daemon.
pub(super) fn open_adopted(services: &Services, id: &Id) {
    for warning in sync_now(services, id) {
        tracing::warn!(vm = %id, warning);
    }
}

/// Makes the listeners agree with the record of VM `id`; returns what failed.
fn sync_now(services: &Services, id: &Id) -> Vec<String> {
    match services.store.vm(id) {
        Ok(Some(record)) => {
            let errors = services.ports.sync(&record).into_iter();
            errors.map(|error| format!("VM {} runs, but {}", record.name, error.message)).collect()
        }
        Ok(None) => {
            services.ports.close(id);
            Vec::new()
        }
        Err(error) => vec![format!("cannot read the ports of VM {id}: {error}")],
    }
}

/// Returns an error if a VM cannot publish these ports.
pub(super) fn check(ports: &[Publish]) -> Result<(), ApiError> {
    let error = |message| ApiError::new(ErrorKind::Invalid, message);
    for (at, port) in ports.iter().enumerate() {
        if port.host == 0 || port.guest == 0 {
            return Err(error(format!("{port} is not a published port: ports are 1 to 65535")));
        }
        let other = ports.iter().skip(at + 1).find(|other| other.has_address_of(port));
        if let Some(other) = other {
            let message =
                format!("port {} of this host cannot lead to two ports: {port}, {other}", port.host);
            return Err(error(message).remedy(Remedy::PublishElsewhere));
        }
    }
    check_count(ports.len())
}

/// Returns an error if a VM cannot publish so many ports.
pub(super) fn check_count(ports: usize) -> Result<(), ApiError> {
    if ports <= MAX_PUBLISHED {
        return Ok(());
    }
    let message = format!("{ports} published ports requested; the limit is {MAX_PUBLISHED}");
    Err(ApiError::new(ErrorKind::Invalid, message))
}

/// Returns the ports that a new VM publishes, each once: those that are requested, and those of which the host's port
/// may be replaced.
pub(super) fn requested(request: &CreateVm) -> (Vec<Publish>, Vec<Publish>) {
    let ports: Vec<_> = without_duplicates(&request.publish).collect();
    let flexible = without_duplicates(&request.publish_or_other);
    let flexible = flexible.filter(|port| !ports.iter().any(|other| other.has_address_of(port))).collect();
    (ports, flexible)
}

/// Returns each port once.
fn without_duplicates(ports: &[Publish]) -> impl Iterator<Item = Publish> {
    ports.iter().enumerate().filter(|(at, port)| !ports[..*at].contains(port)).map(|(_, port)| *port)
}

/// Warns about ports that other hosts may reach.
pub(super) async fn warn_of_public(context: &Context, ports: &[Publish]) {
    for port in ports.iter().filter(|port| port.is_public()) {
        let message = format!("other hosts may reach port {} of the VM at {}", port.guest, port.endpoint());
        context.warn(message).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(texts: &[&str]) -> Vec<Publish> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_port_of_the_host_leads_to_one_port_of_the_guest() {
        assert!(check(&ports(&["8080:80", "8081:80", "127.0.0.2:8080:81"])).is_ok());
        let error = check(&ports(&["8080:80", "8080:81"])).unwrap_err();
        assert_eq!(error.message, "port 8080 of this host cannot lead to two ports: 8080:80, 8080:81");
        let zero = Publish { host: 0, ..ports(&["1"])[0] };
        assert!(check(&[zero]).is_err());
        let many: Vec<_> = (1..).map(|host| Publish { host, ..zero }).take(MAX_PUBLISHED + 1).collect();
        let many: Vec<_> = many.into_iter().map(|port| Publish { guest: 80, ..port }).collect();
        assert!(check(&many).unwrap_err().message.contains("the limit is 64"));
        assert!(check(&many[1..]).is_ok());
    }

    #[test]
    fn a_port_that_is_given_twice_is_published_once() {
        let given = ports(&["80", "81", "80"]);
        assert_eq!(without_duplicates(&given).collect::<Vec<_>>(), ports(&["80", "81"]));
    }
}
