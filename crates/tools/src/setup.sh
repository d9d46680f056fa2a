# Runs a repository's own commands in a guest, in its directory and one after the other, until one fails. Arguments are
# the directory; then for each command the number of its words, its label, and the words. The exit status is 0 if all
# succeeded. Runs under any POSIX shell.
set -u
exec 2>&1

say() {
    printf 'setup: %s\n' "$*"
}

step() {
    called=$1
    shift
    say "running $called"
    "$@" </dev/null && return
    status=$?
    say "$called failed with status $status; the commands after it are skipped"
    return 1
}

# The tools that were installed for the repository.
export PATH="${HOME:-/root}/.local/share/mise/shims:${HOME:-/root}/.cargo/bin:$PATH"

cd "$1" || {
    say "there is no directory $1"
    exit 1
}
shift
while [ "$#" -gt 0 ]; do
    count=$(($1 + 1))
    shift
    words=
    number=1
    while [ "$number" -le "$count" ]; do
        words="$words \"\${$number}\""
        number=$((number + 1))
    done
    # Only numbers of arguments get into this text.
    eval "step $words" || exit 1
    shift "$count"
done
say "all commands succeeded"
