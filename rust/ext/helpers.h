/* SPDX-License-Identifier: GPL-2.0 */
/* Functions for what the kernel's headers offer inline only; read by C and by bindgen. */

#ifndef RVSOCK_HELPERS_H
#define RVSOCK_HELPERS_H

#include <linux/virtio.h>
#include <linux/skbuff.h>
#include <net/sock.h>
#include <net/af_vsock.h>

#endif /* RVSOCK_HELPERS_H */
