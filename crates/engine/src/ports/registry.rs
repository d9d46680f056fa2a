//! The listeners of all VMs' published ports.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use banger_api::{ApiError, ErrorKind, Id, PortProtocol, Publish, PublishedPort, Remedy, VmName};
use tokio::{sync::Semaphore, task::JoinHandle};

use super::{
    bind::{Listener, free_port, listen, overlaps, owner},
    guest_socket::AgentAddress,
    serve::{MAX_CONNECTIONS, Target, serve},
    udp, watch,
};
use crate::{
    error::EngineError,
    sessions::Sessions,
    store::{Handle, VmRecord},
};

/// Maximum number of other ports to try: a port that was free just now may be taken, or in use at the other address.
const MAX_ATTEMPTS: usize = 10;

/// The listeners of all VMs' published ports. Only a VM's owner changes the VM's.
#[derive(Debug)]
pub(crate) struct Ports {
    sessions: Arc<Sessions>,
    ending: Ending,
    vms: Mutex<HashMap<Id, VmPorts>>,
}

/// The published ports of a VM that runs or is being created.
#[derive(Debug)]
struct VmPorts {
    /// Unknown while the VM is being created without a name.
    name: Option<VmName>,
    /// `None` until the VM runs.
    agent: Option<AgentAddress>,
    slots: Arc<Semaphore>,
    ports: Vec<Port>,
    /// The task that publishes what listens in the guest.
    watcher: Option<Task>,
}

/// A published port, or the reason why it is not open.
#[derive(Debug)]
struct Port {
    publish: Publish,
    /// Whether it is published as long as something in the guest listens on it.
    automatic: bool,
    state: Result<Open, String>,
}

/// The listeners of a port. Connections wait in the kernel while no task serves them.
#[derive(Debug)]
struct Open {
    listeners: Vec<Listener>,
    tasks: Vec<Task>,
}

/// A task that ends soon after this value is dropped.
#[derive(Debug)]
struct Task {
    handle: Option<JoinHandle<()>>,
    ending: Ending,
}

/// Tasks that are about to end. Their sockets are closed with them.
#[derive(Debug, Clone, Default)]
struct Ending(Arc<Mutex<Vec<JoinHandle<()>>>>);

impl Ending {
    fn start(&self, task: impl Future<Output = ()> + Send + 'static) -> Task {
        Task { handle: Some(tokio::spawn(task)), ending: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            handle.abort();
            let mut ending = self.ending.lock();
            ending.retain(|handle| !handle.is_finished());
            ending.push(handle);
        }
    }
}

/// Ports that are reserved for a VM that is being created. Dropping it releases them unless the VM runs.
#[derive(Debug)]
pub(crate) struct Reservation {
    ports: Arc<Ports>,
    id: Id,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let mut vms = self.ports.lock();
        if vms.get(&self.id).is_some_and(|vm| vm.agent.is_none()) {
            vms.remove(&self.id);
        }
    }
}

impl Ports {
    pub(crate) fn new(sessions: Arc<Sessions>) -> Self {
        Self { sessions, ending: Ending::default(), vms: Mutex::default() }
    }

    /// Reserves `ports` for VM `id`, which is being created, so that they are free when it runs. Then reserves those of
    /// `flexible`, and replaces host ports of those that are taken. Returns all of them.
    ///
    /// # Errors
    /// Returns an error that names the owner if a port is taken.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        id: &Id,
        name: Option<&VmName>,
        ports: &[Publish],
        flexible: &[Publish],
    ) -> Result<(Reservation, Vec<Publish>), ApiError> {
        let reservation = Reservation { ports: self.clone(), id: id.clone() };
        self.open(id, name, ports)?;
        let mut reserved = ports.to_vec();
        for port in flexible {
            reserved.push(self.open_or_other(id, name, port)?);
        }
        Ok((reservation, reserved))
    }

    /// Reserves `port`, or another port of the host if that is taken. Returns what is open.
    fn open_or_other(&self, id: &Id, name: Option<&VmName>, port: &Publish) -> Result<Publish, ApiError> {
        let (publish, listeners) = listen_or_other(port).map_err(|error| self.error(id, port, &error))?;
        let mut vms = self.lock();
        let vm = vms.entry(id.clone()).or_insert_with(|| VmPorts::new(name));
        let state = Ok(Open { listeners, tasks: Vec::new() });
        vm.ports.push(Port { publish, automatic: false, state });
        Ok(publish)
    }

    /// Listens on the host for `ports` of VM `id`, which may be running, in addition to its others.
    ///
    /// # Errors
    /// Returns an error that names the owner if a port is taken. Then none of them is open.
    pub(crate) fn open(&self, id: &Id, name: Option<&VmName>, ports: &[Publish]) -> Result<(), ApiError> {
        self.give_way(id, ports);
        let opened: Result<Vec<_>, _> =
            ports.iter().map(|publish| listen(publish).map_err(|error| (*publish, error))).collect();
        let opened = opened.map_err(|(publish, error)| self.error(id, &publish, &error))?;
        let mut vms = self.lock();
        let vm = vms.entry(id.clone()).or_insert_with(|| VmPorts::new(name));
        for (publish, listeners) in ports.iter().zip(opened) {
            vm.ports.retain(|port| port.publish != *publish);
            let mut port = Port {
                publish: *publish,
                automatic: false,
                state: Ok(Open { listeners, tasks: Vec::new() }),
            };
            if let Some(agent) = &vm.agent {
                port.serve(id, agent, &vm.slots, self);
            }
            vm.ports.push(port);
        }
        Ok(())
    }

    /// Closes automatic ports of a VM that are in the way of `ports`, or lead to the same port of the guest.
    fn give_way(&self, id: &Id, ports: &[Publish]) {
        let is_in_the_way = |port: &Port| {
            let same = |new: &Publish| {
                new.protocol == port.publish.protocol
                    && (new.host == port.publish.host || new.guest == port.publish.guest)
            };
            port.automatic && ports.iter().any(same)
        };
        if let Some(vm) = self.lock().get_mut(id) {
            vm.ports.retain(|port| !is_in_the_way(port));
        }
    }

    /// Makes the listeners agree with the record of a VM: opens the ports of a VM that runs, and closes all others.
    /// Returns an error for each port that cannot be opened; it is not tried again until the VM's next start.
    pub(crate) fn sync(self: &Arc<Self>, record: &VmRecord) -> Vec<ApiError> {
        let Some(agent) = record.handle.as_ref().map(AgentAddress::from) else {
            self.close(&record.id);
            return Vec::new();
        };
        let missing = self.serve(record, &agent);
        let mut errors = Vec::new();
        for publish in missing {
            if let Err(error) = self.open(&record.id, Some(&record.name), &[publish]) {
                let mut vms = self.lock();
                if let Some(vm) = vms.get_mut(&record.id) {
                    vm.ports.retain(|port| port.publish != publish);
                    vm.ports.push(Port { publish, automatic: false, state: Err(error.message.clone()) });
                }
                errors.push(error);
            }
        }
        errors
    }

    /// Serves the open ports of a VM that runs, and closes those that it no longer publishes. Returns those that were
    /// not opened since the VM started.
    fn serve(self: &Arc<Self>, record: &VmRecord, agent: &AgentAddress) -> Vec<Publish> {
        let mut vms = self.lock();
        if record.published.is_empty() && !record.publish_all {
            vms.remove(&record.id);
            return Vec::new();
        }
        let vm = vms.entry(record.id.clone()).or_insert_with(|| VmPorts::new(Some(&record.name)));
        vm.name = Some(record.name.clone());
        vm.ports.retain(|port| port.automatic || record.published.contains(&port.publish));
        // After a restart, the guest is another.
        if vm.agent.as_ref() != Some(agent) {
            vm.agent = Some(agent.clone());
            for port in &mut vm.ports {
                port.serve(&record.id, agent, &vm.slots, self);
            }
        }
        if !record.publish_all {
            vm.watcher = None;
            vm.ports.retain(|port| !port.automatic);
        } else if vm.watcher.is_none() {
            let (ports, id) = (self.clone(), record.id.clone());
            let changed = move |guest_ports| ports.set_automatic(&id, &guest_ports);
            vm.watcher = Some(self.ending.start(watch::watch(agent.clone(), changed)));
        }
        let is_missing =
            |publish: &Publish| !vm.ports.iter().any(|port| !port.automatic && port.publish == *publish);
        record.published.iter().copied().filter(is_missing).collect()
    }

    /// Returns whether a port of a VM is open.
    pub(crate) fn is_open(&self, id: &Id, publish: &Publish) -> bool {
        let is_open = |port: &Port| !port.automatic && port.publish == *publish && port.state.is_ok();
        self.lock().get(id).is_some_and(|vm| vm.ports.iter().any(is_open))
    }

    /// Publishes each of `guest_ports` that is not published, and closes automatic ports of all others.
    fn set_automatic(&self, id: &Id, guest_ports: &BTreeSet<u16>) {
        let mut vms = self.lock();
        let Some(vm) = vms.get_mut(id) else { return };
        vm.ports.retain(|port| !port.automatic || guest_ports.contains(&port.publish.guest));
        let is_published = |guest: &u16| {
            vm.ports
                .iter()
                .any(|port| port.publish.guest == *guest && port.publish.protocol == PortProtocol::Tcp)
        };
        let new: Vec<_> = guest_ports.iter().copied().filter(|guest| !is_published(guest)).collect();
        for guest in new {
            let Ok((publish, listeners)) = listen_or_other(&watch::automatic(guest)) else {
                tracing::warn!(vm = %id, port = guest, "no port of the host is free for a port of the VM");
                continue;
            };
            let state = Ok(Open { listeners, tasks: Vec::new() });
            let mut port = Port { publish, automatic: true, state };
            if let Some(agent) = &vm.agent {
                port.serve(id, agent, &vm.slots, self);
            }
            vm.ports.push(port);
        }
    }

    /// Returns an error if the agent of a running VM is too old for UDP ports and for reports of what listens.
    pub(crate) async fn check_agent(&self, name: &VmName, handle: &Handle) -> Result<(), EngineError> {
        watch::check(name, &handle.into()).await
    }

    /// Closes all ports of a VM.
    pub(crate) fn close(&self, id: &Id) {
        self.lock().remove(id);
    }

    /// Waits until the sockets of ports that were closed before are closed.
    pub(crate) async fn closed(&self) {
        let ending = std::mem::take(&mut *self.ending.lock());
        for task in ending {
            // It was aborted.
            let _ = task.await;
        }
    }

    /// Returns the ports that `record` publishes, with their states.
    pub(crate) fn describe(&self, record: &VmRecord) -> Vec<PublishedPort> {
        let vms = self.lock();
        let ports = vms.get(&record.id).map(|vm| vm.ports.as_slice()).unwrap_or_default();
        let describe = |publish: &Publish, port: Option<&Port>| {
            let Publish { address, host, guest, protocol } = *publish;
            let state = port.map(|port| &port.state);
            PublishedPort {
                address,
                host,
                guest,
                protocol,
                automatic: port.is_some_and(|port| port.automatic),
                open: record.handle.is_some() && matches!(state, Some(Ok(_))),
                error: state.and_then(|state| state.as_ref().err().cloned()),
            }
        };
        let of_record = record.published.iter().map(|publish| {
            describe(publish, ports.iter().find(|port| !port.automatic && port.publish == *publish))
        });
        let automatic = ports.iter().filter(|port| port.automatic);
        let mut automatic: Vec<_> = automatic.map(|port| describe(&port.publish, Some(port))).collect();
        automatic.sort_by_key(|port| port.guest);
        of_record.chain(automatic).collect()
    }

    /// Returns the error for a port that VM `id` cannot have.
    fn error(&self, id: &Id, publish: &Publish, error: &io::Error) -> ApiError {
        let port = publish.host;
        match error.kind() {
            io::ErrorKind::AddrInUse => match self.publisher(publish) {
                Some((owner, _)) if owner == *id => {
                    let message = format!("port {port} of this host is published by this VM already");
                    ApiError::new(ErrorKind::Busy, message).remedy(Remedy::PublishElsewhere)
                }
                Some((_, None)) => {
                    let message =
                        format!("port {port} of this host is reserved for a VM that is being created");
                    ApiError::new(ErrorKind::Busy, message).remedy(Remedy::PublishElsewhere)
                }
                Some((_, Some(name))) => {
                    let message = format!("port {port} of this host is published by VM {name}");
                    let remedy = Remedy::UnpublishPort { vm: name.to_string(), port };
                    ApiError::new(ErrorKind::Busy, message).remedy(remedy)
                }
                None => {
                    let owner = owner(publish).unwrap_or_else(|| "a process of another user".to_owned());
                    let message = format!("port {port} of this host is used by {owner}");
                    ApiError::new(ErrorKind::Busy, message).remedy(Remedy::PublishElsewhere)
                }
            },
            io::ErrorKind::PermissionDenied => {
                let message = format!("bangerd may not listen on port {port} of this host: {error}");
                ApiError::new(ErrorKind::NotPermitted, message).remedy(Remedy::PublishElsewhere)
            }
            io::ErrorKind::AddrNotAvailable => {
                let message = format!("this host does not have the address {}", publish.endpoint().ip());
                ApiError::new(ErrorKind::Invalid, message)
            }
            _ => {
                let message = format!("cannot listen on port {port} of this host: {error}");
                ApiError::new(ErrorKind::Io, message)
            }
        }
    }

    /// Returns the VM that has a port of the host open.
    fn publisher(&self, publish: &Publish) -> Option<(Id, Option<VmName>)> {
        let vms = self.lock();
        let has = |vm: &VmPorts| {
            vm.ports.iter().any(|port| {
                let other = port.publish;
                port.state.is_ok()
                    && (other.host, other.protocol) == (publish.host, publish.protocol)
                    && overlaps(other.address, publish.address)
            })
        };
        vms.iter().find(|(_, vm)| has(vm)).map(|(id, vm)| (id.clone(), vm.name.clone()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, VmPorts>> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens for `port`, or at another port of the host if that is not available. Returns what is open.
fn listen_or_other(port: &Publish) -> io::Result<(Publish, Vec<Listener>)> {
    let mut candidate = *port;
    let mut attempts = 0;
    loop {
        match listen(&candidate) {
            Ok(listeners) => return Ok((candidate, listeners)),
            Err(error) if attempts == MAX_ATTEMPTS => return Err(error),
            Err(_) => candidate.host = free_port()?,
        }
        attempts += 1;
    }
}

impl VmPorts {
    fn new(name: Option<&VmName>) -> Self {
        Self {
            name: name.cloned(),
            agent: None,
            slots: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            ports: Vec::new(),
            watcher: None,
        }
    }
}

impl Port {
    /// Serves connections from now on, in place of the tasks so far.
    fn serve(&mut self, vm: &Id, agent: &AgentAddress, slots: &Arc<Semaphore>, ports: &Ports) {
        let Ok(open) = &mut self.state else { return };
        let target = Target {
            vm: vm.clone(),
            agent: agent.clone(),
            port: self.publish.guest,
            slots: slots.clone(),
            sessions: ports.sessions.clone(),
        };
        let serve = |listener: &Listener| {
            let target = target.clone();
            match listener {
                Listener::Tcp(listener) => ports.ending.start(serve(listener.clone(), target)),
                Listener::Udp(socket) => ports.ending.start(udp::serve(socket.clone(), target)),
            }
        };
        open.tasks = open.listeners.iter().map(serve).collect();
    }
}

impl From<&Handle> for AgentAddress {
    fn from(handle: &Handle) -> Self {
        Self { guest: handle.guest.clone(), port: handle.agent_port }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ports::bind::unused_port, store::Store};

    #[tokio::test]
    async fn automatic_ports_come_and_go_and_leave_explicit_ones_alone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("store.db")).unwrap());
        let ports = Ports::new(Arc::new(Sessions::new(store)));
        let id = Id::from_random([1; 8]);
        let explicit = Publish { guest: 80, ..watch::automatic(unused_port()) };
        ports.open(&id, None, &[explicit]).unwrap();
        let taken = unused_port();
        let service = std::net::TcpListener::bind(("127.0.0.1", taken)).unwrap();
        let free = unused_port();
        let published = || {
            let vms = ports.lock();
            let pair = |port: &Port| (port.publish.guest, port.publish.host, port.automatic);
            let mut all: Vec<_> =
                vms.get(&id).map(|vm| vm.ports.iter().map(pair).collect()).unwrap_or_default();
            all.sort_unstable();
            all
        };
        ports.set_automatic(&id, &[80, free, taken].into());
        let all = published();
        assert!(all.contains(&(80, explicit.host, false)) && all.contains(&(free, free, true)), "{all:?}");
        // Port 80 is published, and the host's port of `taken` is in use.
        let other = all.iter().find(|(guest, ..)| *guest == taken).unwrap();
        assert!(all.len() == 3 && other.1 != taken, "{all:?}");
        ports.set_automatic(&id, &[80, taken].into());
        assert_eq!(published(), [(80, explicit.host, false), *other]);
        assert!(std::net::TcpListener::bind(("127.0.0.1", free)).is_ok(), "the port is still open");
        // An explicit port takes the place of an automatic one.
        drop(service);
        let chosen = Publish { guest: taken, ..watch::automatic(other.1) };
        ports.open(&id, None, &[chosen]).unwrap();
        assert_eq!(published(), [(80, explicit.host, false), (taken, other.1, false)]);
        ports.close(&id);
        ports.set_automatic(&id, &[free].into());
        assert!(published().is_empty(), "a VM that is down publishes a port");
    }
}
