// SPDX-License-Identifier: GPL-2.0
/*
 * A driver of the name that rvsock's has, for a device that nobody makes: while
 * it is loaded, rvsock cannot be.
 */

#include <linux/module.h>
#include <linux/virtio.h>

#define DEVICE_ID 0x7ff2

static int namesake_probe(struct virtio_device *vdev)
{
	return -ENODEV;
}

static void namesake_remove(struct virtio_device *vdev)
{
}

static const struct virtio_device_id namesake_ids[] = {
	{ DEVICE_ID, VIRTIO_DEV_ANY_ID },
	{ 0 },
};

static struct virtio_driver namesake = {
	.driver.name = "rvsock",
	.id_table = namesake_ids,
	.probe = namesake_probe,
	.remove = namesake_remove,
};
module_virtio_driver(namesake);

MODULE_AUTHOR("The rvsock developers");
MODULE_DESCRIPTION("Sample driver that has the name of another");
MODULE_LICENSE("GPL");
