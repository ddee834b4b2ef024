// SPDX-License-Identifier: GPL-2.0
/*
 * A virtio device without a machine, for net_test.rs: its configuration space
 * is shorter than its specification says, and its status can read as that of a
 * device that was pulled out, though it is there.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/platform_device.h>
#include <linux/string.h>
#include <linux/virtio.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <uapi/linux/virtio_mmio.h>

#define DEVICE_ID 0x7ff1
#define CONFIG_LEN 4

static bool reads_lost;
module_param(reads_lost, bool, 0644);
MODULE_PARM_DESC(reads_lost, "the status reads as all ones until the device is reset");

static struct platform_device *bus;
static struct virtio_device device;
static u8 device_status;
static unsigned int reads_beyond, resets;

static u64 fake_get_features(struct virtio_device *vdev)
{
	return BIT_ULL(VIRTIO_F_VERSION_1);
}

static int fake_finalize_features(struct virtio_device *vdev)
{
	vring_transport_features(vdev);
	return 0;
}

static void fake_get(struct virtio_device *vdev, unsigned int offset, void *buf, unsigned int len)
{
	if (offset > CONFIG_LEN || len > CONFIG_LEN - offset)
		reads_beyond++;
	memset(buf, 0, len);
}

static void fake_set(struct virtio_device *vdev, unsigned int offset, const void *buf,
		     unsigned int len)
{
}

static u8 fake_get_status(struct virtio_device *vdev)
{
	return reads_lost ? 0xff : device_status;
}

static void fake_set_status(struct virtio_device *vdev, u8 status)
{
	device_status = status;
}

static void fake_reset(struct virtio_device *vdev)
{
	device_status = 0;
	reads_lost = false;
	resets++;
}

static int fake_find_vqs(struct virtio_device *vdev, unsigned int nvqs, struct virtqueue *vqs[],
			 struct virtqueue_info vqs_info[], struct irq_affinity *desc)
{
	return -ENOENT;
}

static void fake_del_vqs(struct virtio_device *vdev)
{
}

static const struct virtio_config_ops fake_config_ops = {
	.get = fake_get,
	.set = fake_set,
	.get_status = fake_get_status,
	.set_status = fake_set_status,
	.reset = fake_reset,
	.find_vqs = fake_find_vqs,
	.del_vqs = fake_del_vqs,
	.get_features = fake_get_features,
	.finalize_features = fake_finalize_features,
};

static void fake_release(struct device *dev)
{
}

static int __init fake_init(void)
{
	/* Where no machine of the tests has memory. */
	struct resource memory = DEFINE_RES_MEM(1ULL << 38, VIRTIO_MMIO_CONFIG + CONFIG_LEN);
	int err;

	bus = platform_device_register_simple("rust_fake_virtio", PLATFORM_DEVID_NONE, &memory, 1);
	if (IS_ERR(bus))
		return PTR_ERR(bus);
	device.dev.parent = &bus->dev;
	device.dev.release = fake_release;
	device.id.device = DEVICE_ID;
	device.config = &fake_config_ops;
	err = register_virtio_device(&device);
	if (err) {
		put_device(&device.dev);
		platform_device_unregister(bus);
	}
	return err;
}

static void __exit fake_exit(void)
{
	unsigned int before = resets;

	unregister_virtio_device(&device);
	platform_device_unregister(bus);
	pr_info("%s: the configuration space is not read beyond its end\n",
		reads_beyond ? "not ok" : "ok");
	pr_info("%s: a device is reset whatever its status reads as\n",
		resets > before ? "ok" : "not ok");
}

module_init(fake_init);
module_exit(fake_exit);
MODULE_DESCRIPTION("A virtio device without a machine, for tests of ext/");
MODULE_LICENSE("GPL");
