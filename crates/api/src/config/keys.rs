//! The keys, each declared once: name, type and limits, scope, environment variable, default, and help.

use super::{
    AutoStop, CaFiles, CatalogUrl, ConfigEntry, FileSync, HostResources, Key, Origin, Project, ProjectPolicy,
    ProxyPort, RegistryHost, Scope, Setting,
    value::{RawValue, Value, within},
};
use crate::{
    Defaults, Egress, HostPorts, HttpProxy, ImageName, Limits, Name, NetworkKind, Period, Size, Vmm,
};

/// Generates [`KEYS`], the fields of a [`Layer`], and the accessors of a [`Config`] from the declarations.
macro_rules! keys {
    ($(
        [$section:ident]
        $(
            #[doc = $help:literal]
            $name:ident: $type:ident $(in $range:expr)?, $scope:ident, $variable:expr, $accessor:ident($default:expr);
        )*
    )*) => {
        /// All configuration keys, in display order.
        pub const KEYS: &[Key] = &[$($(
            Key {
                section: stringify!($section),
                name: stringify!($name),
                help: $help.trim_ascii(),
                scope: Scope::$scope,
                variable: $variable,
            },
        )*)*];

        /// The values that one source sets.
        #[derive(Debug, Clone, Default, PartialEq)]
        pub struct Layer {
            $($($name: Option<Setting<$type>>,)*)*
            pub(super) file_sync: Vec<FileSync>,
            pub(super) registries: Vec<RegistryHost>,
            pub(super) catalogs: Vec<CatalogUrl>,
            pub(super) project: Option<Project>,
        }

        impl Layer {
            /// Sets `key` to the source's value; an error says why the value is invalid.
            pub(super) fn set(&mut self, key: &Key, raw: &RawValue<'_>, origin: Origin) -> Result<(), String> {
                match key.name {
                    $($(
                        stringify!($name) => {
                            let value = <$type as Value>::from_raw(raw)?;
                            $(within(&value, &$range)?;)?
                            self.$name = Some(Setting { value, origin });
                        }
                    )*)*
                    // `KEYS` has no other names.
                    _ => {}
                }
                Ok(())
            }

            /// Merges two layers: this one's values win over `lower`'s. Lists are concatenated: files with this one's
            /// last, registries and catalogs with this one's first.
            pub(super) fn merge_over(self, lower: Self) -> Self {
                let file_sync = lower.file_sync.into_iter().chain(self.file_sync).collect();
                let registries = self.registries.into_iter().chain(lower.registries).collect();
                let catalogs = self.catalogs.into_iter().chain(lower.catalogs).collect();
                let project = self.project.or(lower.project);
                Self { $($($name: self.$name.or(lower.$name),)*)* file_sync, registries, catalogs, project }
            }
        }

        impl Config {
            $($( keys!(@accessor $help $name $type $accessor $default); )*)*

            /// Returns each key's value and origin.
            pub fn entries(&self) -> Vec<ConfigEntry> {
                let mut keys = KEYS.iter();
                let values = [$($( {
                    let set = self.layer.$name.as_ref().map(|set| (set.value.to_string(), &set.origin));
                    set.unwrap_or_else(|| (keys!(@built_in self $type $accessor $default), &Origin::BuiltIn))
                }, )*)*];
                values.into_iter().filter_map(|(value, origin)| Some(keys.next()?.entry(value, origin))).collect()
            }
        }
    };
    (@accessor $help:literal $name:ident $type:ident default $default:expr) => {
        #[doc = $help]
        pub fn $name(&self) -> $type {
            let default: fn(&Config) -> $type = $default;
            self.layer.$name.as_ref().map_or_else(|| default(self), |set| set.value.clone())
        }
    };
    (@accessor $help:literal $name:ident $type:ident optional $default:expr) => {
        #[doc = $help]
        #[doc = "; `None` if it is not set."]
        pub fn $name(&self) -> Option<&$type> {
            self.layer.$name.as_ref().map(|set| &set.value)
        }
    };
    (@built_in $config:ident $type:ident default $default:expr) => {{
        let default: fn(&Config) -> $type = $default;
        default($config).to_string()
    }};
    (@built_in $config:ident $type:ident optional $default:expr) => { $default.to_owned() };
}

keys! {
    [vm]
    /// Image
    image: ImageName, Project, Some("BANGER_IMAGE"), optional(Defaults::IMAGE);
    /// Kernel
    kernel: Name, Project, Some("BANGER_KERNEL"), optional("the image's, else debian-cloud");
    /// Virtual CPUs
    vcpu: u32 in 1..=Limits::MAX_VCPU, Project, Some("BANGER_VCPU"), default(|config| Defaults::vcpu(config.host.cpus));
    /// Memory
    memory: Size in Limits::MIN_MEMORY..=Limits::MAX_MEMORY, Project, Some("BANGER_MEMORY"),
        default(|config| Defaults::memory(config.host.memory));
    /// Size of the work disk
    disk_size: Size in Limits::MIN_DISK..=Limits::MAX_DISK, Project, Some("BANGER_DISK_SIZE"),
        default(|_| Defaults::DISK_SIZE);
    /// Size of the system overlay
    system_overlay_size: Size in Limits::MIN_DISK..=Limits::MAX_DISK, Project,
        Some("BANGER_SYSTEM_OVERLAY_SIZE"), default(|_| Defaults::DISK_SIZE);
    /// VMM that runs VMs
    vmm: Vmm, Project, Some("BANGER_VMM"), optional("firecracker where KVM works, else qemu");
    /// Policy for user files that a project's banger.toml requests: ask, always or never
    project_file_sync: ProjectPolicy, Host, Some("BANGER_PROJECT_FILE_SYNC"), default(|_| ProjectPolicy::Ask);
    /// Policy for ports of the host that a repository requests: ask, always or never
    project_ports: ProjectPolicy, Host, Some("BANGER_PROJECT_PORTS"), default(|_| ProjectPolicy::Ask);
    /// Timeout for an orderly power-off before the VM is killed
    stop_timeout: Period in Period::seconds(0)..=Period::seconds(Limits::MAX_STOP_TIMEOUT_S), Host, None, default(|_| Defaults::STOP_TIMEOUT);
    /// Timeout for the first answer of a guest's agent
    ready_timeout: Period in Period::seconds(1)..=Period::hours(1), Host, None, default(|_| Defaults::READY_TIMEOUT);

    [network]
    /// Network of VMs: user, or none
    kind: NetworkKind, Project, Some("BANGER_NETWORK"), default(|_| NetworkKind::User);
    /// Destinations that VMs reach: open, learn, public, none, or a list
    egress: Egress, Project, Some("BANGER_EGRESS"), default(|_| Egress::Open);
    /// Ports of the host's loopback that VMs reach as host.banger.internal
    allow_host: HostPorts, Project, Some("BANGER_ALLOW_HOST"), default(|_| HostPorts::default());
    /// Proxies of sessions in VMs: host (as in the user's environment), none, or a URL
    http_proxy: HttpProxy, Host, Some("BANGER_HTTP_PROXY"), default(|_| HttpProxy::None);
    /// Files with certificates of authorities that VMs trust
    ca: CaFiles, Host, Some("BANGER_CA"), default(|_| CaFiles::default());
    /// Maximum size of a packet in bytes
    mtu: u32 in 1280..=65520, Host, None, default(|_| 1500);

    [daemon]
    /// Sampling interval for the resource use of running VMs
    stats_interval: Period in Period::seconds(1)..=Period::hours(1), Host, None, default(|_| Defaults::STATS_INTERVAL);
    /// Idle time after which a running VM is stopped
    auto_stop_stale_after: AutoStop, Host, None, default(|_| AutoStop::Off);
    /// Port of the reverse proxy at `PORT.VM.localhost`, or off
    proxy: ProxyPort, Host, None, default(|_| ProxyPort::new(Defaults::PROXY_PORT));

    [ssh]
    /// Start a stopped VM when ssh connects to it
    autostart: bool, Host, Some("BANGER_SSH_AUTOSTART"), default(|_| false);
}

impl Layer {
    /// Drops a project's network settings that allow more than `lower`, the user's and the host's: a repository that
    /// is not trusted cannot widen them.
    fn within(mut self, lower: &Self) -> Self {
        if self.project.is_none() {
            return self;
        }
        let limit = lower.egress.as_ref().map(|limit| &limit.value);
        self.egress = self.egress.filter(|own| limit.is_none_or(|limit| own.value.is_within(limit)));
        let granted = lower.allow_host.as_ref().map(|granted| granted.value.clone()).unwrap_or_default();
        self.allow_host = self.allow_host.filter(|own| own.value.is_within(&granted));
        let is_off = lower.kind.as_ref().is_some_and(|limit| limit.value == NetworkKind::None);
        self.kind = self.kind.filter(|_| !is_off);
        self
    }
}

impl Key {
    fn entry(&self, value: String, origin: &Origin) -> ConfigEntry {
        ConfigEntry {
            key: self.path(),
            value,
            layer: origin.layer(),
            origin: origin.to_string(),
            help: self.help,
            variable: self.variable,
            name: self.name,
            short: origin.short(),
        }
    }

    /// Returns section and name, as in "vm.memory".
    pub(super) fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }
}

/// The effective configuration, with an accessor for each of [`KEYS`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Config {
    layer: Layer,
    host: HostResources,
}

impl Config {
    /// Stacks `layers`, strongest first, over the defaults for `host`.
    pub fn new(layers: impl IntoIterator<Item = Layer>, host: HostResources) -> Self {
        let weakest_first = layers.into_iter().collect::<Vec<_>>().into_iter().rev();
        let layer =
            weakest_first.fold(Layer::default(), |lower, layer| layer.within(&lower).merge_over(lower));
        Self { layer, host }
    }

    /// Returns the user files that are copied into every VM. If two have the same target, the later one is used.
    pub fn file_sync(&self) -> &[FileSync] {
        &self.layer.file_sync
    }

    /// Returns the registries with special connection settings. If one is listed twice, the first entry is used.
    pub fn registries(&self) -> &[RegistryHost] {
        &self.layer.registries
    }

    /// Returns the catalogs at URLs, strongest first.
    pub fn catalogs(&self) -> &[CatalogUrl] {
        &self.layer.catalogs
    }

    /// Returns the settings of the project's file that are not keys, if there is one.
    pub fn project(&self) -> Option<&Project> {
        self.layer.project.as_ref()
    }

    /// Returns the name of the image.
    pub fn image_name(&self) -> &str {
        self.image().map_or(Defaults::IMAGE, ImageName::as_str)
    }

    /// Returns the name of the kernel for an image that prefers `preferred`.
    pub fn kernel_name<'a>(&'a self, preferred: Option<&'a str>) -> &'a str {
        self.kernel().map(Name::as_str).or(preferred).unwrap_or(Defaults::KERNEL)
    }
}
