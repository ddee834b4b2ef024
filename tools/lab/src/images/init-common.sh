#!/bin/sh
# SPDX-License-Identifier: GPL-2.0
# What the first program of every machine begins with: the tools, the file systems, the modules, the loopback.
/bin/busybox mkdir -p /bin /sbin /usr/bin /usr/sbin
/bin/busybox --install -s
export PATH=/bin:/sbin:/usr/bin:/usr/sbin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmp /tmp
mount -t tracefs trace /sys/kernel/tracing
mount -t debugfs debug /sys/kernel/debug
while read -r module; do insmod "/modules/$module.ko"; done </modules/order
ifconfig lo 127.0.0.1 up
