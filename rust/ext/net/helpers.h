/* SPDX-License-Identifier: GPL-2.0 */
/* Functions for what the networking headers offer inline only; read by C and by bindgen. */

#ifndef RVSOCK_NET_HELPERS_H
#define RVSOCK_NET_HELPERS_H

#include <linux/skbuff.h>
#include <linux/socket.h>
#include <net/sock.h>
#include <net/af_vsock.h>

struct sk_buff *rvsock_helper_alloc_skb(unsigned int size, gfp_t gfp);
void rvsock_helper_free_skb(struct sk_buff *skb, enum skb_drop_reason reason);
bool rvsock_helper_skb_is_charged(const struct sk_buff *skb);
unsigned int rvsock_helper_skb_headlen(const struct sk_buff *skb);
int rvsock_helper_skb_tailroom(const struct sk_buff *skb);
unsigned int rvsock_helper_skb_headroom(const struct sk_buff *skb);
void rvsock_helper_skb_reserve(struct sk_buff *skb, int len);
unsigned int rvsock_helper_skb_nr_frags(const struct sk_buff *skb);
struct page *rvsock_helper_skb_frag(const struct sk_buff *skb, unsigned int i,
				    unsigned int *offset, unsigned int *len);
void rvsock_helper_skb_add_page(struct sk_buff *skb, struct page *page, unsigned int offset,
				unsigned int len, unsigned int truesize);

void rvsock_helper_skb_grow_frag(struct sk_buff *skb, unsigned int len);
struct page_frag *rvsock_helper_task_frag(void);
void rvsock_helper_skb_zcopy_set(struct sk_buff *skb, struct ubuf_info *uarg);
void rvsock_helper_skb_zcopy_copied(struct sk_buff *skb, struct ubuf_info *uarg);
void rvsock_helper_net_zcopy_put(struct ubuf_info *uarg, bool abort);
void rvsock_helper_zerocopy_is_copied(struct ubuf_info *uarg);
int rvsock_helper_zerocopy_from_msg(struct sk_buff *skb, struct msghdr *msg, size_t len);
int rvsock_helper_msg_pages(struct msghdr *msg);

size_t rvsock_helper_msg_data_left(struct msghdr *msg);
bool rvsock_helper_msg_read(struct msghdr *msg, void *to, size_t len);
#ifdef CONFIG_KUNIT
void rvsock_helper_msg_over(struct msghdr *msg, struct kvec *memory, bool to_be_written);
void rvsock_helper_msg_over_nothing(struct msghdr *msg, size_t len);
#endif

bool rvsock_helper_sock_tryget(struct sock *sk);
bool rvsock_helper_sock_is_alive(const struct sock *sk);
void rvsock_helper_sock_hold(struct sock *sk);
void rvsock_helper_sock_put(struct sock *sk);
bool rvsock_helper_sock_flag(const struct sock *sk, enum sock_flags flag);
void rvsock_helper_sock_set_flag(struct sock *sk, enum sock_flags flag);
void rvsock_helper_bh_lock_sock(struct sock *sk);
void rvsock_helper_bh_unlock_sock(struct sock *sk);
bool rvsock_helper_sock_owned_by_user(const struct sock *sk);
int rvsock_helper_sk_add_backlog(struct sock *sk, struct sk_buff *skb);
void rvsock_helper_sk_state_change(struct sock *sk);
void rvsock_helper_sk_data_ready(struct sock *sk);
bool rvsock_helper_sk_has_verdict(const struct sock *sk);
void rvsock_helper_sk_write_space(struct sock *sk);
int rvsock_helper_sk_rcvlowat(const struct sock *sk);
int rvsock_helper_sk_state(const struct sock *sk);
void rvsock_helper_sk_set_state(struct sock *sk, int state);
bool rvsock_helper_sk_acceptq_is_full(const struct sock *sk);
bool rvsock_helper_sk_mark_connected(struct sock *sk);
void rvsock_helper_sk_drop_note(struct sock *sk, struct sk_buff *note);

void rvsock_helper_vsock_insert_connected(struct vsock_sock *vsk);
void rvsock_helper_vsock_linger(struct vsock_sock *vsk);
bool rvsock_helper_vsock_net_mode_global(struct vsock_sock *vsk);
void rvsock_helper_sock_recv_cmsgs(struct msghdr *msg, struct sock *sk, struct sk_buff *skb);
enum skb_drop_reason rvsock_helper_sock_queue_rcv_skb(struct sock *sk, struct sk_buff *skb);
unsigned int rvsock_helper_sock_first_len(struct sock *sk);
void rvsock_helper_sk_drops_inc(struct sock *sk);
int rvsock_helper_sk_wmem_alloc(const struct sock *sk);
bool rvsock_helper_sk_sndbuf_is_full(const struct sock *sk);
void rvsock_helper_sk_account_memory(struct sock *sk);
int rvsock_helper_sk_wait_until(struct sock *sk, bool noblock, bool (*ready)(void *data),
				void *data);
u32 rvsock_helper_sk_shutdown(const struct sock *sk);
void rvsock_helper_sk_report_error(struct sock *sk, int err);
bool rvsock_helper_may_bind_reserved_port(void);
u32 rvsock_helper_get_random_u32(void);

u32 rvsock_helper_vsock_peer_shutdown(const struct vsock_sock *vsk);
void rvsock_helper_vsock_set_peer_shutdown(struct vsock_sock *vsk, u32 mask);

#endif /* RVSOCK_NET_HELPERS_H */
