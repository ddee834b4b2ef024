/* SPDX-License-Identifier: GPL-2.0 */
/* Functions for what the kernel's headers offer inline only; read by C and by bindgen. */

#ifndef RVSOCK_HELPERS_H
#define RVSOCK_HELPERS_H

#include <linux/device.h>
#include <linux/mm.h>
#include <linux/spinlock.h>
#include <linux/virtio.h>

/* sync/spinlock_bh.rs */
void rvsock_helper_spin_lock_bh(spinlock_t *lock);
void rvsock_helper_spin_unlock_bh(spinlock_t *lock);
int rvsock_helper_spin_trylock_bh(spinlock_t *lock);

/* mm/page_block.rs, virtio/virtqueue.rs */
void *rvsock_helper_page_address(struct page *page);
struct page *rvsock_helper_virt_to_page(const void *address);
unsigned int rvsock_helper_compound_order(struct page *page);
void rvsock_helper_get_page(struct page *page);
void rvsock_helper_put_page(struct page *page);
void rvsock_helper_copy(void *to, const void *from, size_t len);

/* virtio */
void rvsock_helper_device_lock(struct device *dev);
void rvsock_helper_device_unlock(struct device *dev);
void rvsock_helper_virtio_device_ready(struct virtio_device *vdev);
void rvsock_helper_virtio_synchronize_cbs(struct virtio_device *vdev);
u32 rvsock_helper_virtio_config_len(struct virtio_device *vdev);
bool rvsock_helper_virtio_cut_off(struct virtio_device *vdev);

#endif /* RVSOCK_HELPERS_H */
