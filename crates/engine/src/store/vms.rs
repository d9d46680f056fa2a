//! VMs in the store.

use std::path::PathBuf;

use banger_api::{
    Accel, Egress, EventKind, HostPorts, Id, LastRun, Named, NetworkKind, Publish, SetVm, Size, VmName,
    VmState, Vmm, visible_lines,
};
use banger_proto::UNPRIVILEGED_AGENT_PORT;
use banger_vmm::GuestChannel;
use jiff::Timestamp;
use rusqlite::{OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};

use super::{
    Store, StoreError, deleted,
    journal::{self, Scope},
    json, name_taken, parsed, returned_name, to_json,
};
use crate::{resource::Resource, step::Step};

/// First vsock context id of a guest: 0 to 2 are the hypervisor, loopback and the host.
const FIRST_CID: u32 = 3;

/// Maximum length of the reason why a VM failed, in bytes. All VMs fit into one response.
const MAX_ERROR: usize = 4 << 10;

/// Returns a random context id from which to search for a free one. With the host kernel's vsock, all guests of the
/// host share the ids, and another user's daemon does not know this store's.
fn first_cid() -> u32 {
    (u32::from_be_bytes(crate::random::random()) >> 2).max(FIRST_CID)
}

/// A VM's row.
#[derive(Debug, Clone)]
pub(crate) struct VmRecord {
    pub(crate) id: Id,
    pub(crate) name: VmName,
    pub(crate) state: VmState,
    pub(crate) image_id: Id,
    pub(crate) kernel_id: Id,
    pub(crate) image: String,
    pub(crate) kernel: String,
    pub(crate) vcpu: u32,
    pub(crate) memory: Size,
    pub(crate) system_overlay_size: Size,
    pub(crate) disk_size: Size,
    /// The requested VMM.
    pub(crate) vmm: Option<Vmm>,
    /// The VMM and accelerator of its last run.
    pub(crate) ran_with: Option<LastRun>,
    pub(crate) network_kind: NetworkKind,
    pub(crate) egress: Egress,
    /// The ports of the host that its network reaches.
    pub(crate) allow_host: HostPorts,
    /// The ports to publish while it runs.
    pub(crate) published: Vec<Publish>,
    /// True if it also publishes each port on which something in the guest listens.
    pub(crate) publish_all: bool,
    pub(crate) rm: bool,
    pub(crate) cid: u32,
    /// True once a client knows of the VM. Else the next daemon deletes it.
    pub(crate) acknowledged: bool,
    /// True if its deletion has begun: some disks may be gone. This daemon or the next finishes it.
    pub(crate) deleting: bool,
    pub(crate) created_at: Timestamp,
    pub(crate) started_at: Option<Timestamp>,
    /// Time of the last use of its guest.
    pub(crate) last_used_at: Option<Timestamp>,
    /// The reason why it failed, and the last lines of its console.
    pub(crate) last_error: Option<String>,
    pub(crate) handle: Option<Handle>,
}

impl Named for VmRecord {
    fn id(&self) -> &Id {
        &self.id
    }
    fn name(&self) -> &str {
        self.name.as_str()
    }
}

/// Host state of a running VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Handle {
    pub(crate) vmm: Vmm,
    pub(crate) accel: Accel,
    /// The VMM's process id.
    pub(crate) pid: u32,
    /// The VMM's API or QMP socket.
    pub(crate) control: PathBuf,
    /// The connection to the agent.
    pub(crate) guest: GuestChannel,
    /// The agent's vsock port. A VM that an earlier build has started has the first one.
    #[serde(default = "unprivileged_agent_port")]
    pub(crate) agent_port: u32,
    /// The network, as text.
    pub(crate) network: String,
    /// The sockets of its network's processes, if it has a network.
    #[serde(default)]
    pub(crate) sockets: Option<NetworkSockets>,
}

/// Text of a network without problems.
pub(crate) const USER_NETWORK: &str = "user";

/// Sockets of the processes of a VM's network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkSockets {
    /// Of the namespace process.
    pub(crate) namespace: PathBuf,
    /// Of the gateway.
    pub(crate) gateway: PathBuf,
}

fn unprivileged_agent_port() -> u32 {
    UNPRIVILEGED_AGENT_PORT
}

/// A VM to create.
#[derive(Debug, Clone)]
pub(crate) struct NewVm {
    pub(crate) id: Id,
    pub(crate) name: VmName,
    pub(crate) image_id: Id,
    pub(crate) kernel_id: Id,
    pub(crate) vcpu: u32,
    pub(crate) memory: Size,
    pub(crate) system_overlay_size: Size,
    pub(crate) disk_size: Size,
    pub(crate) vmm: Option<Vmm>,
    pub(crate) network_kind: NetworkKind,
    pub(crate) egress: Egress,
    pub(crate) allow_host: HostPorts,
    pub(crate) published: Vec<Publish>,
    pub(crate) publish_all: bool,
    pub(crate) rm: bool,
    pub(crate) created_at: Timestamp,
    /// The directory of its disks, which does not exist yet.
    pub(crate) dir: PathBuf,
}

const SELECT: &str = "SELECT vms.*, images.name AS image, kernels.name AS kernel FROM vms
    JOIN images ON images.id = image_id JOIN kernels ON kernels.id = kernel_id";

impl Store {
    pub(crate) fn vms(&self) -> Result<Vec<VmRecord>, StoreError> {
        self.query(&format!("{SELECT} ORDER BY vms.created_at, vms.id"), [], read)
    }

    pub(crate) fn vm(&self, id: &Id) -> Result<Option<VmRecord>, StoreError> {
        let select = format!("{SELECT} WHERE vms.id = ?");
        Ok(self.query(&select, [id.as_str()], read)?.pop())
    }

    /// Reserves a VM's name and context id, which must be unique, and records its directory in the journal.
    pub(crate) fn insert_vm(&self, vm: &NewVm) -> Result<(), StoreError> {
        self.write_and_publish(Step::VmInsert, |transaction| {
            let free = "SELECT min(cid) FROM (SELECT ?1 AS cid UNION SELECT cid + 1 FROM vms WHERE cid >= ?1)
                WHERE cid NOT IN (SELECT cid FROM vms)";
            let cid: u32 = transaction.query_row(free, [first_cid()], |row| row.get(0))?;
            let insert =
                "INSERT INTO vms (id, name, state, image_id, kernel_id, vcpu, memory, system_overlay_size,
                disk_size, vmm, network_kind, egress, rm, cid, created_at, published, publish_all,
                allow_host) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
            let values = params![
                vm.id.as_str(),
                vm.name.as_str(),
                VmState::Created.as_str(),
                vm.image_id.as_str(),
                vm.kernel_id.as_str(),
                vm.vcpu,
                vm.memory.as_bytes(),
                vm.system_overlay_size.as_bytes(),
                vm.disk_size.as_bytes(),
                vm.vmm.map(|vmm| vmm.to_string()),
                vm.network_kind.to_string(),
                vm.egress.to_string(),
                vm.rm,
                cid,
                vm.created_at.to_string(),
                to_json("published", &vm.published)?,
                vm.publish_all,
                to_json("allow_host", &vm.allow_host)?,
            ];
            transaction.execute(insert, values).map_err(|error| name_taken(error, vm.name.as_str()))?;
            journal::insert(transaction, &vm.id, Scope::Vm, &Resource::Directory { path: vm.dir.clone() })?;
            Ok(((), Some(EventKind::VmCreated { id: vm.id.clone(), name: vm.name.clone() })))
        })
    }

    /// Records a VM's new state while it starts or stops.
    pub(crate) fn set_vm_state(&self, id: &Id, state: VmState) -> Result<(), StoreError> {
        let update = "UPDATE vms SET state = ? WHERE id = ?";
        self.change_state(Step::VmState, id, (state, None), update, params![state.as_str(), id.as_str()])
    }

    /// Records that a VM runs, and its handle.
    pub(crate) fn set_vm_running(&self, id: &Id, at: Timestamp, handle: &Handle) -> Result<(), StoreError> {
        let update =
            "UPDATE vms SET state = 'running', started_at = ?1, last_used_at = ?1, last_error = NULL,
            handle = ?2, ran_with = ?3 WHERE id = ?4";
        let ran_with = to_json("ran_with", &LastRun { vmm: handle.vmm, accel: handle.accel })?;
        let values = params![at.to_string(), to_json("handle", handle)?, ran_with, id.as_str()];
        self.change_state(Step::VmRunning, id, (VmState::Running, None), update, values)
    }

    /// Records that a VM no longer runs: in state `error` with an error, else `stopped`.
    pub(crate) fn set_vm_down(&self, id: &Id, error: Option<&str>) -> Result<(), StoreError> {
        let error = error.map(|error| visible_lines(error, MAX_ERROR));
        let error = error.as_deref();
        let state = if error.is_some() { VmState::Error } else { VmState::Stopped };
        let update =
            "UPDATE vms SET state = ?, started_at = NULL, last_error = ?, handle = NULL WHERE id = ?";
        let values = params![state.as_str(), error, id.as_str()];
        self.change_state(Step::VmDown, id, (state, error), update, values)
    }

    /// Runs `update`, which sets a VM's state, with an optional error. Reports the change if the state is new.
    fn change_state(
        &self,
        step: Step,
        id: &Id,
        (to, error): (VmState, Option<&str>),
        update: &str,
        values: impl rusqlite::Params,
    ) -> Result<(), StoreError> {
        self.write_and_publish(step, |transaction| {
            let before = name_and_state(transaction, id)?;
            transaction.prepare_cached(update)?.execute(values)?;
            let event = before.filter(|(_, from)| *from != to).map(|(name, from)| {
                let reason = error.and_then(|error| error.lines().next()).map(str::to_owned);
                EventKind::VmState { id: id.clone(), name, from, to, reason }
            });
            Ok(((), event))
        })
    }

    /// Changes a VM's hardware; unset fields keep their values. Setting a VMM clears what the VM last ran with.
    pub(crate) fn set_vm_hardware(&self, id: &Id, changes: &SetVm) -> Result<(), StoreError> {
        let update = "UPDATE vms SET vcpu = coalesce(?, vcpu), memory = coalesce(?, memory),
            network_kind = coalesce(?, network_kind), egress = coalesce(?, egress),
            disk_size = coalesce(?, disk_size), vmm = coalesce(?6, vmm),
            ran_with = iif(?6 IS NULL, ran_with, NULL), allow_host = coalesce(?7, allow_host)
            WHERE id = ?8 RETURNING name";
        let bytes = |size: Option<Size>| size.map(Size::as_bytes);
        let values = params![
            changes.vcpu,
            bytes(changes.memory),
            changes.network_kind.map(|mode| mode.to_string()),
            changes.egress.as_ref().map(ToString::to_string),
            bytes(changes.disk_size),
            changes.vmm.map(|vmm| vmm.to_string()),
            changes.allow_host.as_ref().map(|ports| to_json("allow_host", ports)).transpose()?,
            id.as_str()
        ];
        self.write_and_publish(Step::VmSet, |transaction| {
            let name = returned_name(transaction, update, values)?;
            Ok(((), name.map(|name| EventKind::VmChanged { id: id.clone(), name })))
        })
    }

    /// Records the state of a running VM's network, as text.
    pub(crate) fn set_vm_network(&self, id: &Id, network: &str) -> Result<(), StoreError> {
        let update = "UPDATE vms SET handle = json_set(handle, '$.network', ?) WHERE id = ? AND handle IS NOT NULL RETURNING name";
        self.write_and_publish(Step::VmSet, |transaction| {
            let name = returned_name(transaction, update, params![network, id.as_str()])?;
            Ok(((), name.map(|name| EventKind::VmChanged { id: id.clone(), name })))
        })
    }

    /// Records the ports that a VM publishes.
    pub(crate) fn set_vm_published(&self, id: &Id, ports: &[Publish], all: bool) -> Result<(), StoreError> {
        let update = "UPDATE vms SET published = ?, publish_all = ? WHERE id = ? RETURNING name";
        let values = params![to_json("published", &ports)?, all, id.as_str()];
        self.write_and_publish(Step::VmPublish, |transaction| {
            let name = returned_name(transaction, update, values)?;
            Ok(((), name.map(|name| EventKind::VmChanged { id: id.clone(), name })))
        })
    }

    /// Records that a VM's guest was used at `at`.
    pub(crate) fn touch_vm(&self, id: &Id, at: Timestamp) -> Result<(), StoreError> {
        let update = "UPDATE vms SET last_used_at = ? WHERE id = ?";
        self.execute(Step::VmTouch, update, params![at.to_string(), id.as_str()])?;
        Ok(())
    }

    /// Records that a VM's creation has ended, before the client learns of it.
    pub(crate) fn acknowledge_vm(&self, id: &Id) -> Result<(), StoreError> {
        self.execute(Step::VmAcknowledge, "UPDATE vms SET acknowledged = 1 WHERE id = ?", [id.as_str()])?;
        Ok(())
    }

    /// Keeps a VM whose start failed, so that the user can inspect it, also after its session.
    pub(crate) fn keep_vm(&self, id: &Id) -> Result<(), StoreError> {
        self.execute(Step::VmKeep, "UPDATE vms SET acknowledged = 1, rm = 0 WHERE id = ?", [id.as_str()])?;
        Ok(())
    }

    /// Marks a VM for deletion: if this daemon dies first, the next one deletes it. Nothing clears the mark.
    pub(crate) fn mark_vm_for_deletion(&self, id: &Id) -> Result<(), StoreError> {
        self.execute(Step::VmMarkForDeletion, "UPDATE vms SET deleting = 1 WHERE id = ?", [id.as_str()])?;
        Ok(())
    }

    /// Deletes a VM's row. SQLite refuses while the journal has rows of the VM.
    pub(crate) fn delete_vm(&self, id: &Id) -> Result<(), StoreError> {
        let delete = "DELETE FROM vms WHERE id = ? RETURNING name";
        self.write_and_publish(Step::VmDelete, |transaction| {
            let name = returned_name(transaction, delete, [id.as_str()])?;
            deleted::record(transaction, id)?;
            Ok(((), name.map(|name| EventKind::VmDeleted { id: id.clone(), name })))
        })
    }

    /// Returns whether a VM has this name.
    pub(crate) fn has_vm_named(&self, name: &VmName) -> Result<bool, StoreError> {
        let connection = self.connection();
        let mut select = connection.prepare_cached("SELECT 1 FROM vms WHERE name = ?")?;
        Ok(select.query_row([name.as_str()], |_| Ok(())).optional()?.is_some())
    }
}

/// Returns the name and state of a VM, if it exists.
fn name_and_state(transaction: &Transaction<'_>, id: &Id) -> Result<Option<(VmName, VmState)>, StoreError> {
    let mut select = transaction.prepare_cached("SELECT name, state FROM vms WHERE id = ?")?;
    let mut rows = select.query([id.as_str()])?;
    rows.next()?.map(|row| Ok((parsed(row, "name")?, state(row)?))).transpose()
}

fn state(row: &Row<'_>) -> Result<VmState, StoreError> {
    let word = serde_json::Value::String(row.get("state")?);
    serde_json::from_value(word)
        .map_err(|source| StoreError::Value { what: "state", source: Box::new(source) })
}

fn read(row: &Row<'_>) -> Result<VmRecord, StoreError> {
    let word = |column: &'static str| -> Result<Option<serde_json::Value>, StoreError> {
        Ok(row.get::<_, Option<String>>(column)?.map(serde_json::Value::String))
    };
    let value = |what, source: serde_json::Error| StoreError::Value { what, source: Box::new(source) };
    let time = |column| -> Result<Option<Timestamp>, StoreError> {
        let is_set = row.get::<_, Option<String>>(column)?.is_some();
        is_set.then(|| parsed(row, column)).transpose()
    };
    let vmm = word("vmm")?;
    let has = |column| -> Result<bool, StoreError> { Ok(row.get::<_, Option<String>>(column)?.is_some()) };
    let (has_handle, has_run) = (has("handle")?, has("ran_with")?);
    Ok(VmRecord {
        id: parsed(row, "id")?,
        name: parsed(row, "name")?,
        state: state(row)?,
        image_id: parsed(row, "image_id")?,
        kernel_id: parsed(row, "kernel_id")?,
        image: row.get("image")?,
        kernel: row.get("kernel")?,
        vcpu: row.get("vcpu")?,
        memory: Size::bytes(row.get("memory")?),
        system_overlay_size: Size::bytes(row.get("system_overlay_size")?),
        disk_size: Size::bytes(row.get("disk_size")?),
        vmm: vmm.map(serde_json::from_value).transpose().map_err(|error| value("vmm", error))?,
        ran_with: has_run.then(|| json(row, "ran_with")).transpose()?,
        network_kind: parsed(row, "network_kind")?,
        egress: parsed(row, "egress")?,
        allow_host: json(row, "allow_host")?,
        published: json(row, "published")?,
        publish_all: row.get("publish_all")?,
        rm: row.get("rm")?,
        cid: row.get("cid")?,
        acknowledged: row.get("acknowledged")?,
        deleting: row.get("deleting")?,
        created_at: parsed(row, "created_at")?,
        started_at: time("started_at")?,
        last_used_at: time("last_used_at")?,
        // An earlier build may have stored a longer one.
        last_error: row.get::<_, Option<String>>("last_error")?.map(|error| visible_lines(&error, MAX_ERROR)),
        handle: has_handle.then(|| json(row, "handle")).transpose()?,
    })
}

#[cfg(test)]
impl VmRecord {
    /// A VM that has been created and never started.
    pub(crate) fn for_test() -> Self {
        let id = |byte| Id::from_random([byte; 8]);
        Self {
            id: id(1),
            name: "box".parse().unwrap(),
            state: VmState::Created,
            image_id: id(2),
            kernel_id: id(3),
            image: "image".to_owned(),
            kernel: "kernel".to_owned(),
            vcpu: 1,
            memory: Size::mib(512),
            system_overlay_size: Size::gib(8),
            disk_size: Size::gib(8),
            vmm: None,
            ran_with: None,
            network_kind: NetworkKind::User,
            egress: Egress::Open,
            allow_host: HostPorts::default(),
            published: Vec::new(),
            publish_all: false,
            rm: false,
            cid: 3,
            acknowledged: true,
            deleting: false,
            created_at: "2026-11-25T09:00:00Z".parse().unwrap(),
            started_at: None,
            last_used_at: None,
            last_error: None,
            handle: None,
        }
    }
}
