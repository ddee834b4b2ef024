// SPDX-License-Identifier: GPL-2.0
/* Functions for what the kernel's headers offer inline only. */

#include <linux/virtio_config.h>

#include "helpers.h"

void rvsock_helper_spin_lock_bh(spinlock_t *lock)
{
	spin_lock_bh(lock);
}

void rvsock_helper_spin_unlock_bh(spinlock_t *lock)
{
	spin_unlock_bh(lock);
}

int rvsock_helper_spin_trylock_bh(spinlock_t *lock)
{
	return spin_trylock_bh(lock);
}

void *rvsock_helper_page_address(struct page *page)
{
	return page_address(page);
}

struct page *rvsock_helper_virt_to_page(const void *address)
{
	return virt_to_page(address);
}

unsigned int rvsock_helper_compound_order(struct page *page)
{
	return compound_order(page);
}

int rvsock_helper_page_ref_count(struct page *page)
{
	return page_ref_count(page);
}

void rvsock_helper_get_page(struct page *page)
{
	get_page(page);
}

void rvsock_helper_put_page(struct page *page)
{
	put_page(page);
}

void rvsock_helper_device_lock(struct device *dev)
{
	device_lock(dev);
}

void rvsock_helper_device_unlock(struct device *dev)
{
	device_unlock(dev);
}

void rvsock_helper_virtio_device_ready(struct virtio_device *vdev)
{
	virtio_device_ready(vdev);
}

void rvsock_helper_virtio_synchronize_cbs(struct virtio_device *vdev)
{
	virtio_synchronize_cbs(vdev);
}
