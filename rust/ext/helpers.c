// SPDX-License-Identifier: GPL-2.0
/* Functions for what the kernel's headers offer inline only. */

#include <linux/pci.h>
#include <linux/platform_device.h>
#include <linux/virtio_config.h>
#include <uapi/linux/virtio_mmio.h>
#include <uapi/linux/virtio_pci.h>

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

void rvsock_helper_get_page(struct page *page)
{
	get_page(page);
}

void rvsock_helper_put_page(struct page *page)
{
	put_page(page);
}

/* Memory that a device may change meanwhile is for C to copy. */
void rvsock_helper_copy(void *to, const void *from, size_t len)
{
	memcpy(to, from, len);
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

/* As much as there is room for where the transport does not say it. */
#define CONFIG_LEN_UNKNOWN 256

/* As the transport finds it: in the first capability that it can use. */
static u32 pci_config_len(struct pci_dev *pdev)
{
	u32 len;
	u8 pos, type, bar;

	for (pos = pci_find_capability(pdev, PCI_CAP_ID_VNDR); pos;
	     pos = pci_find_next_capability(pdev, pos, PCI_CAP_ID_VNDR)) {
		pci_read_config_byte(pdev, pos + offsetof(struct virtio_pci_cap, cfg_type), &type);
		pci_read_config_byte(pdev, pos + offsetof(struct virtio_pci_cap, bar), &bar);
		if (type != VIRTIO_PCI_CAP_DEVICE_CFG || bar >= PCI_STD_NUM_BARS ||
		    !pci_resource_len(pdev, bar))
			continue;
		pci_read_config_dword(pdev, pos + offsetof(struct virtio_pci_cap, length), &len);
		return min_t(u32, len, PAGE_SIZE);
	}
	return CONFIG_LEN_UNKNOWN;
}

/* How long the configuration space of a device is. */
u32 rvsock_helper_virtio_config_len(struct virtio_device *vdev)
{
	struct device *parent = vdev->dev.parent;

	if (dev_is_pci(parent))
		return pci_config_len(to_pci_dev(parent));
	if (dev_is_platform(parent)) {
		struct resource *memory;

		memory = platform_get_resource(to_platform_device(parent), IORESOURCE_MEM, 0);
		if (memory) {
			resource_size_t len = resource_size(memory);

			len = len > VIRTIO_MMIO_CONFIG ? len - VIRTIO_MMIO_CONFIG : 0;
			return min_t(resource_size_t, len, PAGE_SIZE);
		}
	}
	return CONFIG_LEN_UNKNOWN;
}

/* Keeps a device from memory without a word to it, where its bus can; returns whether it can. */
bool rvsock_helper_virtio_cut_off(struct virtio_device *vdev)
{
	if (!dev_is_pci(vdev->dev.parent))
		return false;
	pci_clear_master(to_pci_dev(vdev->dev.parent));
	return true;
}
