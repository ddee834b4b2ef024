# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash disable=SC2034
# What every script here shares: where things live, how messages look, locks, space, and steps that show progress.

set -euo pipefail

CHECKOUT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=${RVSOCK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/rvsock}
LOGS=$CACHE/logs
# What is built from this checkout, so that two checkouts never mix.
OWN=$CACHE/checkout-$(printf %s "$CHECKOUT" | sha256sum | cut -c1-12)

# The versions that this driver is built and tested with. The root's name carries a number that goes up whenever
# adding the packages that scripts/toolchain lists is not enough to make a new root of an old one.
ROOT=$CACHE/root-trixie-1
RUSTC_WANT=1.85.1
BINDGEN_WANT=0.71.1
GCC_WANT=14
QEMU_WANT=11.1
# The oldest series that the module builds for.
OLDEST=7.2

# A package of another distribution's architecture is no business of the machine: its lists lie here.
APT=$CACHE/apt

mkdir -p "$LOGS" "$OWN" || { echo "rvsock: cannot make the cache folder $CACHE: set XDG_CACHE_HOME to a folder that you may write to" >&2; exit 1; }

say() { printf 'rvsock: %s\n' "$*" >&2; }
die() { printf 'rvsock: error: %s\n' "$*" >&2; exit 1; }

# The names in scripts/kernels; pick_kernel NAME: read its line; that of the first, if the name is empty.
kernels() { awk '!/^#/ && NF { print $1 }' "$CHECKOUT/scripts/kernels"; }
pick_kernel() {
	local name=$1 line
	[[ -n $name ]] || name=$(kernels | head -n1)
	line=$(awk -v want="$name" '!/^#/ && $1 == want' "$CHECKOUT/scripts/kernels")
	[[ -n $line ]] || die "there is no kernel '$name': scripts/kernels says which there are: $(kernels | paste -sd' ')"
	read -r KERNEL_NAME KERNEL_ARCH KERNEL_MADE KERNEL_VERSION KERNEL_FLAVOUR <<<"$line"
	KERNEL=$CACHE/kernel-$KERNEL_NAME
}

# options SOURCE FILE...: the options in these files, by the names that this source has: Linux 7.3 has one for SYSCTL and
# PROC_SYSCTL.
options() {
	local source=$1
	shift
	if grep -qx 'config PROC_SYSCTL' "$source/fs/proc/Kconfig"; then cat "$@"; else sed 's/\<CONFIG_PROC_SYSCTL\>/CONFIG_SYSCTL/' "$@"; fi
}

# need_tool NAME HINT: stop with a hint when a program is missing.
need_tool() { command -v "$1" >/dev/null || die "the program '$1' is missing: $2"; }

# need_space DIR MIB: stop before a download that could not fit.
need_space() {
	local have
	have=$(df -Pm "$1" | awk 'NR==2 { print $4 }')
	((have >= $2)) || die "$1 has $have MiB of free space, and this step needs $2 MiB: make room, or set XDG_CACHE_HOME to a folder on a larger disk"
}

# lock NAME: hold a lock of the cache until this (sub)shell ends, so that two runs never build the same thing at once.
lock() {
	local fd
	exec {fd}>"$CACHE/.lock-$1"
	flock -n "$fd" && return
	say "waiting for another run that holds the lock '$1'"
	flock "$fd"
}

# step TEXT COMMAND...: run a long command with its output in a log, and show that it lives and how long it took.
step() {
	local text=$1 log pid status=0 start=$SECONDS shown=0
	shift
	log=$(mktemp "$LOGS/step-XXXXXX.log")
	"$@" >"$log" 2>&1 </dev/null &
	pid=$!
	# shellcheck disable=SC2064 # the value of now is meant
	trap "kill $pid 2>/dev/null" INT TERM
	[[ -t 2 ]] || say "$text ..."
	while kill -0 "$pid" 2>/dev/null; do
		sleep 0.2
		if [[ -t 2 ]]; then
			printf '\r\033[Krvsock: %s ... %d s' "$text" $((SECONDS - start)) >&2
		elif ((SECONDS - start >= shown + 20)); then
			shown=$((SECONDS - start))
			say "  still at it: $text ($shown s)"
		fi
	done
	wait "$pid" || status=$?
	trap - INT TERM
	[[ -t 2 ]] && printf '\r\033[K' >&2
	if ((status)); then
		tail -n 25 "$log" >&2
		die "failed: $text (exit code $status); the whole log is $log"
	fi
	[[ -t 2 ]] || text='  done'
	say "$text: $((SECONDS - start)) s"
	rm -f "$log"
}

# at_least HAVE WANT: true when version HAVE is WANT or newer.
at_least() { [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n1) == "$2" ]]; }

# native: true when the machine itself has everything in the right versions, so that no private root is needed.
native() {
	[[ -z ${RVSOCK_FORCE_ROOT:-} && $(cat /etc/debian_version 2>/dev/null) == 13* ]] || return 1
	local tool
	for tool in cargo rustfmt cargo-clippy clang ld.lld llvm-nm flex bison bc pahole rsync cpio busybox xz apt-get socat ncat ssh sshd tcpdump python3 ss tc ethtool; do
		command -v "$tool" >/dev/null || return 1
	done
	[[ $(rustc --version 2>/dev/null) == "rustc $RUSTC_WANT "* ]] || return 1
	[[ $(bindgen --version 2>/dev/null) == "bindgen $BINDGEN_WANT" ]] || return 1
	[[ $(gcc -dumpversion 2>/dev/null) == "$GCC_WANT"* ]] || return 1
	at_least "$(qemu-system-x86_64 --version 2>/dev/null | sed -n 's/.*version \([0-9.]*\).*/\1/p')" "$QEMU_WANT" || return 1
	[[ -d /usr/lib/rustlib/src || -d /usr/src/rustc-$RUSTC_WANT ]]
}
