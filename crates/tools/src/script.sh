# Installs tools in a guest. Each argument is NAME@VERSION, followed by ",component=NAME" and ",target=NAME" for parts
# of a toolchain. Continues after a failure. The last line says how many tools were installed; the exit status is 0 if
# all were. Runs under any POSIX shell and needs only the programs that install.
set -uf
exec 2>&1

# mise and rustup obey files in the working directory and above it. Those of a repository are not trusted, so both are
# started in a directory without any.
cd / || exit 1
export LC_ALL=C DEBIAN_FRONTEND=noninteractive MISE_YES=1

say() {
    printf 'tools: %s\n' "$*"
}

have() {
    command -v "$1" >/dev/null 2>&1
}

run() {
    say "running $*"
    "$@" </dev/null
}

# Moves the first of $parts to "kind" and "part". Fails if there is none.
next_part() {
    [ -n "$parts" ] || return 1
    kind=${parts%%=*}
    part=${parts#*=}
    part=${part%%,*}
    case $parts in
    *,*) parts=${parts#*,} ;;
    *) parts= ;;
    esac
}

# A login shell's PATH is the distribution's, without the tools that mise has installed.
add_shims_to_path() {
    [ -n "${HOME-}" ] || return 0
    profile=$HOME/.profile
    for other in "$HOME/.bash_login" "$HOME/.bash_profile"; do
        [ ! -e "$other" ] || profile=$other
    done
    line='PATH="$HOME/.local/share/mise/shims:$PATH"'
    if [ -e "$profile" ]; then
        while IFS= read -r old; do
            [ "$old" != "$line" ] || return 0
        done <"$profile"
    fi
    printf '%s\n' "$line" >>"$profile"
}

# Sets the default of the whole guest, so that no directory needs a trusted configuration file.
with_mise() {
    run mise use --global "$name@$version" || return 1
    add_shims_to_path
    while next_part; do
        run mise exec "$name@$version" -- rustup "$kind" add "$part" || return 1
    done
}

with_rustup() {
    [ "$version" != latest ] || version=stable
    set -- toolchain install --no-self-update --profile minimal
    while next_part; do
        set -- "$@" "--$kind" "$part"
    done
    run rustup "$@" "$version" && run rustup default "$version"
}

find_manager() {
    for manager in apt-get apk dnf pacman zypper; do
        have "$manager" && return 0
    done
    manager=
    return 1
}

# Sets $packages to the argument for $manager; "-" means that there is no package.
pick() {
    case $manager in
    apt-get) packages=$1 ;;
    apk) packages=$2 ;;
    dnf) packages=$3 ;;
    pacman) packages=$4 ;;
    zypper) packages=$5 ;;
    esac
    [ "$packages" != - ]
}

# The packages of $name for apt-get, apk, dnf, pacman and zypper, in this order.
find_packages() {
    case $name in
    cmake) pick cmake cmake cmake cmake cmake ;;
    deno) pick - deno - deno - ;;
    elixir) pick elixir elixir elixir elixir elixir ;;
    erlang) pick erlang erlang erlang erlang erlang ;;
    go) pick golang-go go golang go go ;;
    gradle) pick gradle gradle - gradle - ;;
    helm) pick - helm helm helm helm ;;
    java) pick default-jdk-headless openjdk21 java-devel jdk-openjdk java-devel ;;
    jq) pick jq jq jq jq jq ;;
    just) pick just just just just just ;;
    maven) pick maven maven maven maven maven ;;
    node) pick "nodejs npm" "nodejs npm" "nodejs npm" "nodejs npm" "nodejs-default npm-default" ;;
    npm) pick npm npm npm npm npm-default ;;
    perl) pick perl perl perl perl perl ;;
    php) pick php-cli - php-cli php - ;;
    pnpm) pick - pnpm - pnpm - ;;
    poetry) pick python3-poetry poetry poetry python-poetry - ;;
    protoc) pick protobuf-compiler protoc protobuf-compiler protobuf protobuf-devel ;;
    python) pick "python3 python3-venv python3-pip" "python3 py3-pip" "python3 python3-pip" "python python-pip" "python3 python3-pip" ;;
    ruby) pick "ruby ruby-dev" "ruby ruby-dev" "ruby ruby-devel" ruby "ruby ruby-devel" ;;
    rust) pick "rustc cargo rust-clippy rustfmt" "rust cargo rust-clippy rustfmt" "rust cargo clippy rustfmt" rust "rust cargo" ;;
    shellcheck) pick shellcheck shellcheck ShellCheck shellcheck ShellCheck ;;
    uv) pick - uv uv uv - ;;
    yarn) pick yarnpkg yarn yarnpkg yarn yarn ;;
    zig) pick - zig zig zig zig ;;
    *) return 1 ;;
    esac
}

# Runs once, before the first package: an image's package lists are outdated or missing. dnf refreshes them by itself.
refresh() {
    [ -z "$refreshed" ] || return 0
    refreshed=yes
    case $manager in
    apt-get) run apt-get -q update ;;
    apk) run apk update ;;
    pacman) run pacman -Sy --noconfirm ;;
    zypper) run zypper --non-interactive refresh ;;
    esac || say "cannot refresh the package lists; using the existing ones"
}

install() {
    case $manager in
    # A guest that has just booted may be installing updates of its own.
    apt-get) run apt-get -q -y -o DPkg::Lock::Timeout=120 --no-install-recommends install "$@" ;;
    apk) run apk add "$@" ;;
    dnf) run dnf -y install "$@" ;;
    pacman) run pacman -S --noconfirm --needed "$@" ;;
    zypper) run zypper --non-interactive install "$@" ;;
    esac
}

with_packages() {
    if ! find_manager; then
        say "found neither mise nor a supported package manager"
        return 1
    fi
    if ! find_packages; then
        say "no $manager package is known for $name"
        return 1
    fi
    refresh
    # Split into one word per package; only the table above sets it.
    # shellcheck disable=SC2086
    install $packages || return 1
    say "installed the newest $name of $manager; the requested version is $version"
    while next_part; do
        case $part in
        clippy | rustfmt) ;;
        *) say "cannot install $kind $part of $name with $manager" ;;
        esac
    done
}

install_tool() {
    if have mise; then
        with_mise
    elif [ "$name" = rust ] && have rustup; then
        with_rustup
    else
        with_packages
    fi
}

# Splits $argument. The caller has validated it; this checks again that it is not an option of an installer.
parse_argument() {
    case $argument in
    [!a-z0-9]* | *[!A-Za-z0-9._+@,=-]* | *@[!A-Za-z0-9]* | *=[!A-Za-z0-9]*) return 1 ;;
    *@?*) ;;
    *) return 1 ;;
    esac
    name=${argument%%@*}
    version=${argument#*@}
    parts=
    case $version in
    *,*)
        parts=${version#*,}
        version=${version%%,*}
        ;;
    esac
}

refreshed=
installed=0
for argument in "$@"; do
    if ! parse_argument; then
        say "skipping an argument that is not NAME@VERSION"
    elif install_tool; then
        installed=$((installed + 1))
        say "$name is installed"
    else
        say "cannot install $name"
    fi
done
say "$installed of $# installed"
[ "$installed" -eq $# ]
