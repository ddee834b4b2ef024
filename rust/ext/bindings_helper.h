/* SPDX-License-Identifier: GPL-2.0 */
/* What bindgen reads: the C interfaces that ext/ wraps. */

#include <linux/module.h>
#include <linux/moduleparam.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/skbuff.h>
#include <linux/net.h>
#include <linux/workqueue.h>
#include <linux/gfp.h>
#include <linux/jiffies.h>
#include <linux/lockdep.h>
#include <net/sock.h>
#include <net/af_vsock.h>
#include <uapi/linux/virtio_config.h>
#include <uapi/linux/vsockmon.h>

#include "helpers.h"
#include "net/device_helpers.h"
#include "net/helpers.h"
#include "trace_helpers.h"
