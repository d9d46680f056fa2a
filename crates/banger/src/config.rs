//! The configuration of a command, from the environment and the files of the project, the user and the system.

use std::{
    env,
    fs::{self, File},
    io::{self, Read},
    num::NonZero,
    path::{Path, PathBuf},
};

use banger_api::{
    ApiError, Config, CreateVm, Dirs, ErrorKind, HostPorts, HostResources, NetworkKind, Size,
    config::{CONFIG_MAX, ConfigEntry, Layer, Owner, PROJECT_FILE},
};

/// Loads the configuration for the current directory.
pub(crate) fn load() -> Result<Config, ApiError> {
    load_at(env::current_dir().ok().as_deref())
}

/// Loads the configuration for the repository that contains `path`; without a path, for the current directory.
pub(crate) fn load_for(path: Option<&Path>) -> Result<Config, ApiError> {
    match path {
        // The canonical path, as git sees it. A missing path has no project; the code that needs the path reports it.
        Some(path) => load_at(fs::canonicalize(path).ok().as_deref()),
        None => load(),
    }
}

/// Returns banger's directories, from the environment.
pub(crate) fn dirs() -> Result<Dirs, ApiError> {
    Dirs::find(|name| env::var_os(name).map(PathBuf::from))
        .map_err(|error| ApiError::new(ErrorKind::Invalid, error.to_string()))
}

fn load_at(dir: Option<&Path>) -> Result<Config, ApiError> {
    let dirs = dirs()?;
    let project = dir.and_then(project_file);
    let files = [
        project.map(|path| (Owner::Project, path)),
        Some((Owner::User, dirs.config_file())),
        Some((Owner::System, dirs.system_config.clone())),
    ];
    let mut layers = vec![Layer::from_env(|name| env::var_os(name))?];
    for (owner, path) in files.into_iter().flatten() {
        layers.push(Layer::from_file(owner, &path, read(&path))?);
    }
    Ok(Config::new(layers, host_size()))
}

/// Returns `request` with unset fields filled from `config`, and ports of the host for its proxies.
///
/// # Errors
/// Returns an error if a VM cannot reach the port of a proxy.
pub(crate) fn fill_defaults(config: &Config, request: CreateVm) -> Result<CreateVm, ApiError> {
    // A VM without a network reaches none; the daemon refuses only those of a flag.
    let allow_host = match request.network_kind.unwrap_or_else(|| config.kind()) {
        NetworkKind::User => {
            let ports = request.allow_host.unwrap_or_else(|| config.allow_host());
            let ports = ports.ports().iter().copied().chain(request.personal.proxies().host_ports());
            let ports = HostPorts::new(ports);
            Some(ports.map_err(|error| ApiError::new(ErrorKind::Invalid, error.to_string()))?)
        }
        NetworkKind::None => request.allow_host,
    };
    Ok(CreateVm {
        image: request.image.or_else(|| config.image().map(ToString::to_string)),
        kernel: request.kernel.or_else(|| config.kernel().map(ToString::to_string)),
        vcpu: request.vcpu.or_else(|| Some(config.vcpu())),
        memory: request.memory.or_else(|| Some(config.memory())),
        disk_size: request.disk_size.or_else(|| Some(config.disk_size())),
        system_overlay_size: request.system_overlay_size.or_else(|| Some(config.system_overlay_size())),
        vmm: request.vmm.or(config.vmm().copied()),
        network_kind: request.network_kind.or_else(|| Some(config.kind())),
        egress: request.egress.or_else(|| Some(config.egress())),
        allow_host,
        ..request
    })
}

/// Returns each key's value and origin for help texts: the built-in ones if the configuration is invalid. The command
/// itself then reports the error.
pub(crate) fn effective_keys() -> Vec<ConfigEntry> {
    load().unwrap_or_else(|_| Config::new([], host_size())).entries()
}

/// Returns the built-in values, which are the same on each host: a rule in place of those that depend on it.
pub(crate) fn built_in_keys() -> Vec<ConfigEntry> {
    let mut keys = Config::new([], HostResources::default()).entries();
    for key in &mut keys {
        match key.name {
            "vcpu" => "a quarter of the host's, at most 4".clone_into(&mut key.value),
            "memory" => "an eighth of the host's, at most 8G".clone_into(&mut key.value),
            _ => {}
        }
    }
    keys
}

/// Adds the environment variable and the effective default to the help of each of `command`'s flags.
pub(crate) fn with_defaults(command: clap::Command, defaults: &[ConfigEntry]) -> clap::Command {
    let flags: Vec<_> = command.get_arguments().map(|flag| flag.get_id().clone()).collect();
    let matching = defaults.iter().filter(|key| flags.iter().any(|flag| flag.as_str() == key.name));
    matching.fold(command, |command, key| {
        command.mut_arg(key.name, |flag| {
            let help = flag.get_help().cloned().unwrap_or_default();
            let variable = key.variable.map(|name| format!(" [env: {name}]")).unwrap_or_default();
            let origin = key.short.as_ref().map(|origin| format!(" ({origin})")).unwrap_or_default();
            flag.help(format!("{help}{variable} [default: {}{origin}]", key.value))
        })
    })
}

/// Returns the nearest project file from `start` up to the root of its git repository. Outside a repository, looks
/// only in `start`.
fn project_file(start: &Path) -> Option<PathBuf> {
    let is_root = |dir: &&Path| dir.join(".git").exists();
    let root = start.ancestors().find(is_root).unwrap_or(start);
    let dirs = start.ancestors().take_while(|dir| dir.starts_with(root));
    dirs.map(|dir| dir.join(PROJECT_FILE)).find(|path| path.exists())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A repository may have anything under that name; reading a pipe would block.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(CONFIG_MAX + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn host_size() -> HostResources {
    let info = rustix::system::sysinfo();
    HostResources {
        cpus: std::thread::available_parallelism().ok().map(NonZero::get),
        memory: Some(Size::bytes(info.totalram.saturating_mul(u64::from(info.mem_unit)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_project_file_in_the_repository_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join(PROJECT_FILE);
        let repo = dir.path().join("repo");
        let inner = repo.join("a/b");
        fs::create_dir_all(&inner).unwrap();
        fs::write(&outside, "").unwrap();
        assert_eq!(project_file(&inner), None);
        assert_eq!(project_file(dir.path()), Some(outside));
        fs::create_dir(repo.join(".git")).unwrap();
        assert_eq!(project_file(&inner), None);
        fs::write(repo.join(PROJECT_FILE), "").unwrap();
        assert_eq!(project_file(&inner), Some(repo.join(PROJECT_FILE)));
        fs::write(repo.join("a").join(PROJECT_FILE), "").unwrap();
        assert_eq!(project_file(&inner), Some(repo.join("a").join(PROJECT_FILE)));
    }

    #[test]
    fn reading_a_directory_or_a_missing_file_fails() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).is_err());
        assert_eq!(read(&dir.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
