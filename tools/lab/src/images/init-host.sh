#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The first program of the host VM, which runs KVM and vhost-vsock for the guests: hands over to the lab.
# shellcheck source=init-common.sh
. /init-common
lab on-host /lab.json
echo "rvsock: the lab ended with $?"
poweroff -f
