#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# The guest's first program: what tests need, and the agent that runs them. No vsock transport is loaded here.
# shellcheck source=init-common.sh
. /init-common
for net in eth0 vec0; do
	[ -e /sys/class/net/$net ] && ifconfig $net 10.0.2.15 netmask 255.255.255.0 up && route add default gw 10.0.2.2
done
# An NMI from the monitor asks a silent guest where it is.
[ -e /proc/sys/kernel/unknown_nmi_panic ] && echo 1 > /proc/sys/kernel/unknown_nmi_panic
echo 30 > /proc/sys/kernel/hung_task_timeout_secs
case $(cat /proc/cmdline) in
*rvsock.shell=*)
	sed 's/.*rvsock.shell=\([^ ]*\).*/\1/' /proc/cmdline | tr , '\n' | while read -r module; do insmod "/modules/$module.ko"; done
	dmesg | grep 'rvsock: virtio'
	echo "rvsock: CID 2 is the host: port 1234 there echoes, as in: echo hello | socat - VSOCK-CONNECT:2:1234"
	echo "rvsock: this guest is yours; 'rvtest help' and 'socat' are here; leave with 'poweroff -f'"
	setsid cttyhack sh
	poweroff -f ;;
esac
rvtest agent --port 9000
echo "rvsock: the agent ended"
poweroff -f
