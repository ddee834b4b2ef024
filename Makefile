# SPDX-License-Identifier: GPL-2.0
# What a person types. The kernel's own build reads Kbuild instead, so this file holds no rule of it.
#
#   KERNEL=NAME  another kernel of scripts/kernels than the first, for demo, test, bench, soak and shell
#   KDIR=DIR     build for a kernel of your own (7.2 or newer, CONFIG_RUST=y)
#   ARGS='...'   further arguments of test, options, bench, soak and series, as in: make test ARGS='--filter vsock_test'
#   SRC=DIR      the unpacked kernel source that 'against' compiles against

.DEFAULT_GOAL := module
.PHONY: module demo test test-debug matrix options bench soak check against dist shell series deb test-package clean distclean help
MAKEFLAGS += --no-print-directory
export KDIR
KERNEL_ARGS = $(if $(KERNEL),--kernel $(KERNEL))

module: ## build rvsock.ko for Debian's kernel, for KERNEL= or for KDIR=
	@scripts/module $(KERNEL)
	@echo "built rust/rvsock.ko"

demo: ## boot a guest, load the driver, show what it does (about a minute, once all is obtained)
	@scripts/lab demo $(KERNEL_ARGS) $(ARGS)

test: ## everything that must hold; the last line is 'N passed, N failed'
	@scripts/lab test $(KERNEL_ARGS) $(ARGS)

test-debug: ## the guests' tests on kernels that watch memory and locks (their build takes half an hour)
	@scripts/lab test --kernel uml-debug $(ARGS); first=$$?; scripts/lab test --kernel debug $(ARGS) && exit $$first

matrix: ## the core of the suites on every kernel of scripts/kernels, and machines of other kinds: a table
	@scripts/lab matrix $(ARGS)

options: ## the module for kernels without what people turn off, and with pages of other sizes; some are booted (ARGS='NAME ...')
	@scripts/options $(ARGS)

bench: ## the C driver and this one in turn: a table of medians and ratios, and JSON
	@scripts/lab bench $(KERNEL_ARGS) $(ARGS)

soak: ## the kernel's vsock tests ten times in a row, or what a filter picks (ARGS='--rounds N --filter NAME')
	@scripts/lab soak $(KERNEL_ARGS) $(ARGS)

shell: ## an interactive guest with the driver loaded
	@scripts/lab shell $(KERNEL_ARGS) $(ARGS)

check: ## formatting, lints, checkpatch, shellcheck, rustdoc, the lab's own tests
	@scripts/check

against: ## what of rvsock does not compile against the kernel source in SRC=, whatever its version
	@scripts/against "$(SRC)"

dist: ## the release of what is committed: dist/rvsock-VERSION.tar.xz, each time the same bytes
	@scripts/dist

series: ## patches against Linux 7.3, as they would be mailed (ARGS='--each --check' checks them, Documentation/series.rst)
	@scripts/series $(ARGS)

deb: ## the Debian packages of the release, source and rvsock-dkms, in dist/
	@scripts/deb

test-package: ## install the Debian package in a Debian 13 guest, upgrade its kernel, remove it
	@scripts/package/test

clean: ## remove what was built in the checkout
	@scripts/clean

distclean: ## remove the cache folder too: toolchain, kernels, logs
	@scripts/clean --all

help: ## this text
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile
	@sed -n 's/^#   /  /p' Makefile
