# SPDX-License-Identifier: GPL-2.0
# shellcheck shell=bash
# Which compiler built a kernel, and which program here is that one: for scripts/module, and for what DKMS runs (scripts/package/dkms).

# build_of WANT PROGRAM...: the first of the programs that calls itself this.
build_of() {
	local want=$1 program
	shift
	for program; do
		if [[ $("$program" --version 2>/dev/null) == "$want" ]]; then
			echo "$program"
			return
		fi
	done
	return 1
}

# said_by RUSTC|BINDGEN CONFIG: what the kernel's tool said of itself. auto.conf has no quotation marks around it.
said_by() { sed -nE "s/^CONFIG_$1_VERSION_TEXT=\"?([^\"]*)\"?$/\1/p" "$2"; }
series_of() { sed -nE 's/^[a-z]+ ([0-9]+\.[0-9]+).*/\1/p' <<<"$1"; }

# The compiler must be the very one that built the kernel crate: the crate's metadata begins with what that one says of itself.
rustc_wanted() { # DIR CONFIG
	local want=''
	[[ ! -s $1/rust/libkernel.rmeta ]] ||
		want=$(head -c 256 "$1/rust/libkernel.rmeta" | LC_ALL=C tr -c '[:print:]' '\n' | sed -n 's/^.*\(rustc [0-9].*\)$/\1/p' | head -n1)
	[[ -n $want ]] || want=$(said_by RUSTC "$2")
	echo "$want"
}

# Under the names that distributions give to further versions as well.
find_rustc() { build_of "$1" "${RUSTC:-rustc}" "rustc-$(series_of "$1")" "/usr/lib/rust-$(series_of "$1")/bin/rustc"; } # WANT
# The kernel's own if it is here, else any.
find_bindgen() { # CONFIG
	local want
	want=$(said_by BINDGEN "$1")
	build_of "$want" "${BINDGEN:-bindgen}" "bindgen-$(series_of "$want")" || echo "${BINDGEN:-bindgen}"
}

# What the machine's rustc says of itself, for a message on why it is not the one.
rustc_here() {
	local have
	have=$("${RUSTC:-rustc}" --version 2>/dev/null) || true
	if [[ -n $have ]]; then echo "says '$have'"; else echo "is missing"; fi
}
