// SPDX-License-Identifier: GPL-2.0
/* Functions for what network devices need of C. */

#include <linux/if_arp.h>
#include <linux/if_ether.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/spinlock.h>
#include <net/pkt_sched.h>
#include <net/sch_generic.h>
#include <net/sock.h>

#include "device_helpers.h"

/* What is in a device's own memory. */
struct device_priv {
	void *interface;
	/* Sends a buffer, or drops it. */
	void (*transmit)(struct sk_buff *skb, struct net_device *dev);
	/* One for each queue: its bytes are counted by one at a time. */
	spinlock_t counting[];
};

static void device_setup(struct net_device *dev)
{
	dev->type = ARPHRD_NONE;
	dev->flags = IFF_NOARP;
	dev->priv_flags |= IFF_NO_ADDRCONF;
	dev->tx_queue_len = DEFAULT_TX_QUEUE_LEN;
	/* Of a packet the length counts: without these its pages were copied. */
	dev->features |= NETIF_F_SG | NETIF_F_HIGHDMA;
}

struct net_device *rvsock_helper_net_device_alloc(const char *name, unsigned int queues,
						  unsigned int mtu,
						  const struct net_device_ops *ops,
						  const struct ethtool_ops *ethtool_ops,
						  struct device *parent, void *interface,
						  void (*transmit)(struct sk_buff *skb,
								   struct net_device *dev))
{
	struct device_priv *priv;
	struct net_device *dev;
	unsigned int i;

	dev = alloc_netdev_mqs(struct_size(priv, counting, queues), name, NET_NAME_ENUM,
			       device_setup, queues, 1);
	if (!dev)
		return NULL;
	priv = netdev_priv(dev);
	priv->interface = interface;
	priv->transmit = transmit;
	for (i = 0; i < queues; i++)
		spin_lock_init(&priv->counting[i]);
	dev->mtu = mtu;
	/* The packets are as long as they are, whatever one would set here. */
	dev->min_mtu = mtu;
	dev->max_mtu = mtu;
	dev->netdev_ops = ops;
	dev->ethtool_ops = ethtool_ops;
	if (parent)
		SET_NETDEV_DEV(dev, parent);
	return dev;
}

void *rvsock_helper_net_device_interface(const struct net_device *dev)
{
	const struct device_priv *priv = netdev_priv(dev);

	return priv->interface;
}

/* In C, as kCFI compares types, and what it calls is of an enum's, which is a number to Rust. */
netdev_tx_t rvsock_helper_net_device_start_xmit(struct sk_buff *skb, struct net_device *dev)
{
	const struct device_priv *priv = netdev_priv(dev);

	priv->transmit(skb, dev);
	return NETDEV_TX_OK;
}

/* With RTNL, which keeps others from renaming it. */
const char *rvsock_helper_net_device_name(const struct net_device *dev)
{
	return dev->name;
}

void rvsock_helper_net_device_start(struct net_device *dev)
{
	netif_tx_start_all_queues(dev);
}

/* Bottom halves, which dev_queue_xmit() turns on at its end, wait for interrupts. */
int rvsock_helper_net_device_submit(struct net_device *dev, struct sk_buff *skb)
{
	if (in_hardirq() || irqs_disabled()) {
		dev_kfree_skb_any_reason(skb, SKB_DROP_REASON_NOT_SPECIFIED);
		return NET_XMIT_DROP;
	}
	skb->dev = dev;
	return dev_queue_xmit(skb);
}

void rvsock_helper_net_device_refuse(struct net_device *dev, struct sk_buff *skb)
{
	dev_core_stats_tx_dropped_inc(dev);
	dev_kfree_skb_any_reason(skb, SKB_DROP_REASON_UNHANDLED_PROTO);
}

bool rvsock_helper_net_device_xmit_more(void)
{
	return netdev_xmit_more();
}

/*
 * Where there is no qdisc nobody waits for a queue: what comes while it is
 * stopped is lost, and the log says that it is the driver's fault.
 */
static bool can_stop(const struct netdev_queue *txq)
{
	bool can;

	rcu_read_lock();
	can = rcu_dereference(txq->qdisc)->enqueue;
	rcu_read_unlock();
	return can;
}

void rvsock_helper_net_device_stop_queue(struct net_device *dev, u16 queue)
{
	struct netdev_queue *txq;

	if (queue >= dev->num_tx_queues)
		return;
	txq = netdev_get_tx_queue(dev, queue);
	if (can_stop(txq))
		netif_tx_stop_queue(txq);
}

/* Until it is up, and when it is about to go down, what there is drops all. */
bool rvsock_helper_net_device_is_ready(const struct net_device *dev, u16 queue)
{
	return queue < dev->num_tx_queues &&
	       rcu_access_pointer(netdev_get_tx_queue(dev, queue)->qdisc) != &noop_qdisc;
}

void rvsock_helper_net_device_wake_queue(struct net_device *dev, u16 queue)
{
	if (queue < dev->num_tx_queues)
		netif_tx_wake_queue(netdev_get_tx_queue(dev, queue));
}

/* How many bytes were sent and not completed; the caller has the lock. */
static u32 outstanding(const struct netdev_queue *txq)
{
#ifdef CONFIG_BQL
	return txq->dql.num_queued - txq->dql.num_completed;
#else
	return 0;
#endif
}

/* Two numbers of bytes that are no larger, and the queue's limit, fit an int together. */
void rvsock_helper_net_device_sent(struct net_device *dev, u16 queue, u32 bytes)
{
	struct device_priv *priv = netdev_priv(dev);
	struct netdev_queue *txq;
	unsigned long flags;

	if (queue >= dev->num_tx_queues)
		return;
	txq = netdev_get_tx_queue(dev, queue);
	spin_lock_irqsave(&priv->counting[queue], flags);
	if (bytes <= DQL_MAX_OBJECT && outstanding(txq) <= DQL_MAX_OBJECT && can_stop(txq))
		netdev_tx_sent_queue(txq, bytes);
	spin_unlock_irqrestore(&priv->counting[queue], flags);
}

/* Where more were completed than were sent, the core would stop the machine. */
void rvsock_helper_net_device_completed(struct net_device *dev, u16 queue, u32 packets,
					u32 bytes)
{
	struct device_priv *priv = netdev_priv(dev);
	struct netdev_queue *txq;
	unsigned long flags;

	if (queue >= dev->num_tx_queues)
		return;
	txq = netdev_get_tx_queue(dev, queue);
	spin_lock_irqsave(&priv->counting[queue], flags);
	netdev_tx_completed_queue(txq, packets, min(bytes, outstanding(txq)));
	spin_unlock_irqrestore(&priv->counting[queue], flags);
}

/* The bus is what the core finds by the parent. */
void rvsock_helper_net_device_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
#ifdef MODULE
	strscpy(info->driver, THIS_MODULE->name, sizeof(info->driver));
	if (THIS_MODULE->version)
		strscpy(info->version, THIS_MODULE->version, sizeof(info->version));
#else
	strscpy(info->driver, KBUILD_MODNAME, sizeof(info->driver));
#endif
}

/* The socket that a buffer is charged to: so long its memory is there. */
static struct sock *charged_to(const struct sk_buff *skb)
{
	return skb->destructor == sock_wfree ? skb->sk : NULL;
}

static void take_marks(struct sk_buff *skb, const struct sk_buff *like)
{
	const struct sock *sk = charged_to(like);

	skb->priority = sk ? READ_ONCE(sk->sk_priority) : like->priority;
	skb->mark = sk ? READ_ONCE(sk->sk_mark) : like->mark;
}

/*
 * The first @header bytes are those of @like, and so many are there. The rest,
 * which fits the fragments, is the page of zeroes, which is there for ever.
 */
struct sk_buff *rvsock_helper_token_alloc(const struct sk_buff *like, unsigned int header,
					  u32 hash, u16 queue, u32 key)
{
	unsigned int rest = like->len - header;
	struct sk_buff *skb;
	int i;

	skb = alloc_skb_fclone(header, GFP_ATOMIC | __GFP_NOWARN);
	if (!skb)
		return NULL;
	skb_reset_mac_header(skb);
	skb_reset_network_header(skb);
	skb_set_transport_header(skb, header);
	if (skb_copy_bits(like, 0, skb_put(skb, header), header)) {
		kfree_skb(skb);
		return NULL;
	}
	for (i = 0; rest > 0; i++) {
		unsigned int len = min_t(unsigned int, rest, PAGE_SIZE);
		struct page *page = ZERO_PAGE(0);

		get_page(page);
		skb_fill_page_desc(skb, i, page, 0, len);
		skb->len += len;
		skb->data_len += len;
		rest -= len;
	}
	/* Nobody may write to them. */
	skb_shinfo(skb)->flags |= SKBFL_SHARED_FRAG;
	/* One for experiments, which no part of the kernel knows. */
	skb->protocol = htons(ETH_P_802_EX1);
	/* Without a checksum nobody else has a use for it, and a copy has it, too. */
	skb->ip_summed = CHECKSUM_NONE;
	skb->csum = (__force __wsum)key;
	skb_set_queue_mapping(skb, queue);
	__skb_set_sw_hash(skb, hash, true);
	take_marks(skb, like);
	return skb;
}

/* Only while none is out: then it takes no memory, as the two were allocated together. */
struct sk_buff *rvsock_helper_token_turn(struct sk_buff *token, const struct sk_buff *like)
{
	struct sk_buff *skb = skb_clone(token, GFP_ATOMIC);

	if (skb && like) {
		struct sock *sk = charged_to(like);

		take_marks(skb, like);
		if (sk) {
			skb_set_owner_w(skb, sk);
			/* The socket may have one of its own. */
			__skb_set_sw_hash(skb, token->hash, true);
		}
	}
	return skb;
}

bool rvsock_helper_token_is_out(const struct sk_buff *token)
{
	const struct sk_buff_fclones *both = container_of(token, struct sk_buff_fclones, skb1);

	return refcount_read(&both->fclone_ref) > 1;
}

bool rvsock_helper_token_matches(const struct sk_buff *token, const struct sk_buff *turn)
{
	const struct sk_buff_fclones *both = container_of(token, struct sk_buff_fclones, skb1);

	return turn == &both->skb2 || turn->head == token->head;
}

bool rvsock_helper_skb_is_turn(const struct sk_buff *skb)
{
	return skb->protocol == htons(ETH_P_802_EX1) && skb->ip_summed == CHECKSUM_NONE;
}

u32 rvsock_helper_turn_key(const struct sk_buff *turn)
{
	return (__force u32)turn->csum;
}

u16 rvsock_helper_skb_queue(const struct sk_buff *skb)
{
	return skb_get_queue_mapping(skb);
}
