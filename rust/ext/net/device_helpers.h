/* SPDX-License-Identifier: GPL-2.0 */
/* Functions for what network devices need of C; read by C and by bindgen. */

#ifndef RVSOCK_NET_DEVICE_HELPERS_H
#define RVSOCK_NET_DEVICE_HELPERS_H

#include <linux/ethtool.h>
#include <linux/netdevice.h>
#include <linux/rtnetlink.h>
#include <linux/skbuff.h>

struct net_device *rvsock_helper_net_device_alloc(const char *name, unsigned int queues,
						  unsigned int mtu,
						  const struct net_device_ops *ops,
						  const struct ethtool_ops *ethtool_ops,
						  struct device *parent, void *interface,
						  void (*transmit)(struct sk_buff *skb,
								   struct net_device *dev));
netdev_tx_t rvsock_helper_net_device_start_xmit(struct sk_buff *skb, struct net_device *dev);
void *rvsock_helper_net_device_interface(const struct net_device *dev);
const char *rvsock_helper_net_device_name(const struct net_device *dev);
void rvsock_helper_net_device_start(struct net_device *dev);
int rvsock_helper_net_device_submit(struct net_device *dev, struct sk_buff *skb);
void rvsock_helper_net_device_refuse(struct net_device *dev, struct sk_buff *skb);
bool rvsock_helper_net_device_xmit_more(void);
void rvsock_helper_net_device_stop_queue(struct net_device *dev, u16 queue);
bool rvsock_helper_net_device_is_ready(const struct net_device *dev, u16 queue);
void rvsock_helper_net_device_wake_queue(struct net_device *dev, u16 queue);
void rvsock_helper_net_device_sent(struct net_device *dev, u16 queue, u32 bytes);
void rvsock_helper_net_device_completed(struct net_device *dev, u16 queue, u32 packets,
					u32 bytes);
void rvsock_helper_net_device_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info);

struct sk_buff *rvsock_helper_token_alloc(const struct sk_buff *like, unsigned int header,
					  u32 hash, u16 queue, u32 key);
struct sk_buff *rvsock_helper_token_turn(struct sk_buff *token, const struct sk_buff *like);
bool rvsock_helper_token_is_out(const struct sk_buff *token);
bool rvsock_helper_token_matches(const struct sk_buff *token, const struct sk_buff *turn);
bool rvsock_helper_skb_is_turn(const struct sk_buff *skb);
u32 rvsock_helper_turn_key(const struct sk_buff *turn);
u16 rvsock_helper_skb_queue(const struct sk_buff *skb);

#endif /* RVSOCK_NET_DEVICE_HELPERS_H */
