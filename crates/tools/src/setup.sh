# Runs a repository's own commands in a guest, in its folder and one after the other, until one fails. Arguments are the
# folder; then for each command the number of its words, what to call it, and the words. The status is 0 when all went
# well. Runs under any POSIX shell.
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
    say "$called failed with status $status, and what comes after it is left out"
    return 1
}

# What was made ready for the repository is here.
export PATH="${HOME:-/root}/.local/share/mise/shims:${HOME:-/root}/.cargo/bin:$PATH"

cd "$1" || {
    say "there is no folder $1"
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
say "all is done"
