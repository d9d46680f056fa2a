# Makes tools ready in a guest. Each argument is NAME@VERSION, with ",component=NAME" and ",target=NAME" behind it for
# parts of a toolchain. Goes on after a failure; the last line says how many of how many were made ready, and the status
# is 0 when that is all of them. Runs under any POSIX shell and takes nothing from outside but the programs that install.
set -uf
exec 2>&1

# mise and rustup obey files of the folder they are started in and above it. A repository's own are not trusted, so they
# are started where none is.
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

# Takes the first of $parts: "kind" and "part" are what it says. Fails when there is none.
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

# A login shell's PATH is the distribution's, which knows nothing of what mise has installed.
reach_shims() {
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

# The default of the whole guest: nothing has to be said in a folder, or trusted there, for the tool to be found.
with_mise() {
    run mise use --global "$name@$version" || return 1
    reach_shims
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

# The one of five that is for $manager; "-" is none.
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

# What $name is called where; in order apt-get, apk, dnf, pacman, zypper.
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

# Once, and before the first package: an image's lists are as old as the image, or not there. dnf does it by itself.
refresh() {
    [ -z "$refreshed" ] || return 0
    refreshed=yes
    case $manager in
    apt-get) run apt-get -q update ;;
    apk) run apk update ;;
    pacman) run pacman -Sy --noconfirm ;;
    zypper) run zypper --non-interactive refresh ;;
    esac || say "the lists of packages could not be refreshed; going on with those that are there"
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
        say "there is neither mise nor a package manager that is known"
        return 1
    fi
    if ! find_packages; then
        say "$manager has no package that is known to be $name"
        return 1
    fi
    refresh
    # One word a package; the table above is all that comes here.
    # shellcheck disable=SC2086
    install $packages || return 1
    say "$name is the newest that $manager has; that may not be the version asked for, $version"
    while next_part; do
        case $part in
        clippy | rustfmt) ;;
        *) say "$name has no $kind $part this way" ;;
        esac
    done
}

make_ready() {
    if have mise; then
        with_mise
    elif [ "$name" = rust ] && have rustup; then
        with_rustup
    else
        with_packages
    fi
}

# Takes $argument apart. Who calls has checked it; that it is no option is looked at again, here where it would be one.
take_apart() {
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
ready=0
for argument in "$@"; do
    if ! take_apart; then
        say "an argument is not NAME@VERSION, and left out"
    elif make_ready; then
        ready=$((ready + 1))
        say "$name is ready"
    else
        say "$name could not be made ready"
    fi
done
say "$ready of $# made ready"
[ "$ready" -eq $# ]
