// SPDX-License-Identifier: GPL-2.0
/* Functions for what the networking headers offer inline only. */

#include <linux/capability.h>
#include <linux/netdevice.h>
#include <linux/random.h>
#include <linux/sched.h>
#include <linux/skmsg.h>

#include "helpers.h"

struct sk_buff *rvsock_helper_alloc_skb(unsigned int size, gfp_t gfp)
{
	return alloc_skb(size, gfp);
}

void rvsock_helper_free_skb(struct sk_buff *skb, enum skb_drop_reason reason)
{
	dev_kfree_skb_any_reason(skb, reason);
}

bool rvsock_helper_skb_is_charged(const struct sk_buff *skb)
{
	return skb->sk;
}

unsigned int rvsock_helper_skb_headlen(const struct sk_buff *skb)
{
	return skb_headlen(skb);
}

int rvsock_helper_skb_tailroom(const struct sk_buff *skb)
{
	return skb_tailroom(skb);
}

unsigned int rvsock_helper_skb_headroom(const struct sk_buff *skb)
{
	return skb_headroom(skb);
}

void rvsock_helper_skb_reserve(struct sk_buff *skb, int len)
{
	skb_reserve(skb, len);
}

unsigned int rvsock_helper_skb_nr_frags(const struct sk_buff *skb)
{
	return skb_shinfo(skb)->nr_frags;
}

struct page *rvsock_helper_skb_frag(const struct sk_buff *skb, unsigned int i,
				    unsigned int *offset, unsigned int *len)
{
	const skb_frag_t *frag = &skb_shinfo(skb)->frags[i];

	*offset = skb_frag_off(frag);
	*len = skb_frag_size(frag);
	return skb_frag_page(frag);
}

void rvsock_helper_skb_add_page(struct sk_buff *skb, struct page *page, unsigned int offset,
				unsigned int len, unsigned int truesize)
{
	skb_add_rx_frag(skb, skb_shinfo(skb)->nr_frags, page, offset, len, truesize);
}

/* The last fragment has @len bytes more of data. */
void rvsock_helper_skb_grow_frag(struct sk_buff *skb, unsigned int len)
{
	skb_frag_size_add(&skb_shinfo(skb)->frags[skb_shinfo(skb)->nr_frags - 1], len);
	skb->len += len;
	skb->data_len += len;
}

/* NULL in interrupts, which have no block of their own. */
struct page_frag *rvsock_helper_task_frag(void)
{
	return in_task() ? &current->task_frag : NULL;
}

void rvsock_helper_skb_zcopy_set(struct sk_buff *skb, struct ubuf_info *uarg)
{
	skb_zcopy_set(skb, uarg, NULL);
}

/* As for a buffer that was attached, and whose pages were then replaced by copies. */
void rvsock_helper_skb_zcopy_copied(struct sk_buff *skb, struct ubuf_info *uarg)
{
	/* Another's is of pages that it answers for. */
	if (skb_zcopy(skb))
		return;
	skb_zcopy_set(skb, uarg, NULL);
	skb_zcopy_clear(skb, false);
}

void rvsock_helper_net_zcopy_put(struct ubuf_info *uarg, bool abort)
{
	if (abort)
		net_zcopy_put_abort(uarg, true);
	else
		net_zcopy_put(uarg);
}

/* Only for those of msg_zerocopy_realloc(). */
void rvsock_helper_zerocopy_is_copied(struct ubuf_info *uarg)
{
	uarg_to_msgzc(uarg)->zerocopy = 0;
}

/*
 * The pages are charged to the socket that the buffer is charged to. A message
 * that brings a notification of its own keeps the pages as long as that, and it
 * is the buffer's reference to that which says so.
 */
int rvsock_helper_zerocopy_from_msg(struct sk_buff *skb, struct msghdr *msg, size_t len)
{
	struct ubuf_info *uarg = skb_zcopy(skb);

	if (!skb->sk || !uarg || (msg->msg_ubuf && msg->msg_ubuf != uarg))
		return -EINVAL;
	return __zerocopy_sg_from_iter(msg, NULL, skb, &msg->msg_iter, len, NULL);
}

/* How many pages the rest of a message touches; none if it begins within a piece of it. */
int rvsock_helper_msg_pages(struct msghdr *msg)
{
	if (msg->msg_iter.iov_offset)
		return 0;
	return iov_iter_npages(&msg->msg_iter, INT_MAX);
}

size_t rvsock_helper_msg_data_left(struct msghdr *msg)
{
	return msg_data_left(msg);
}

/* All or nothing. */
bool rvsock_helper_msg_read(struct msghdr *msg, void *to, size_t len)
{
	return copy_from_iter_full(to, len, &msg->msg_iter);
}

#ifdef CONFIG_KUNIT
/* For tests: the message's memory is the kernel's. */
void rvsock_helper_msg_over(struct msghdr *msg, struct kvec *memory, bool to_be_written)
{
	iov_iter_kvec(&msg->msg_iter, to_be_written ? ITER_DEST : ITER_SOURCE, memory, 1,
		      memory->iov_len);
}

/* And here it is where no user's is. */
void rvsock_helper_msg_over_nothing(struct msghdr *msg, size_t len)
{
	iov_iter_ubuf(&msg->msg_iter, ITER_DEST, (void __user *)-PAGE_SIZE, len);
}
#endif

/* Takes a reference unless the last one is gone already. */
bool rvsock_helper_sock_tryget(struct sock *sk)
{
	return refcount_inc_not_zero(&sk->sk_refcnt);
}

/* False once the last reference is gone, and only its memory is left. */
bool rvsock_helper_sock_is_alive(const struct sock *sk)
{
	return refcount_read(&sk->sk_refcnt);
}

void rvsock_helper_sock_hold(struct sock *sk)
{
	sock_hold(sk);
}

void rvsock_helper_sock_put(struct sock *sk)
{
	sock_put(sk);
}

bool rvsock_helper_sock_flag(const struct sock *sk, enum sock_flags flag)
{
	return sock_flag(sk, flag);
}

void rvsock_helper_sock_set_flag(struct sock *sk, enum sock_flags flag)
{
	sock_set_flag(sk, flag);
}

/* Locks the spinlock of the socket's lock; nothing that runs under it may sleep. */
void rvsock_helper_bh_lock_sock(struct sock *sk)
{
	local_bh_disable();
	bh_lock_sock(sk);
}

void rvsock_helper_bh_unlock_sock(struct sock *sk)
{
	bh_unlock_sock(sk);
	local_bh_enable();
}

bool rvsock_helper_sock_owned_by_user(const struct sock *sk)
{
	return sock_owned_by_user_nocheck(sk);
}

/* The limit is the caller's: it never has more than one buffer in a backlog. */
int rvsock_helper_sk_add_backlog(struct sock *sk, struct sk_buff *skb)
{
	return sk_add_backlog(sk, skb, UINT_MAX);
}

void rvsock_helper_sk_state_change(struct sock *sk)
{
	sk->sk_state_change(sk);
}

void rvsock_helper_sk_data_ready(struct sock *sk)
{
	sk->sk_data_ready(sk);
}

/* Whether sk_data_ready is sockmap's, which gives all that comes to a program. */
bool rvsock_helper_sk_has_verdict(const struct sock *sk)
{
	struct sk_psock *psock;
	bool has;

	rcu_read_lock();
	psock = sk_psock(sk);
	has = psock && READ_ONCE(psock->saved_data_ready);
	rcu_read_unlock();
	return has;
}

/*
 * sock_def_write_space() wakes nobody while much memory is charged to the
 * socket. Here it is credit that has come back, and a writer that waits for
 * credit must not have to wait for the device to return its buffers as well.
 */
void rvsock_helper_sk_write_space(struct sock *sk)
{
	sk->sk_write_space(sk);

	if (!sock_writeable(sk)) {
		struct socket_wq *wq;

		rcu_read_lock();
		wq = rcu_dereference(sk->sk_wq);
		if (skwq_has_sleeper(wq))
			wake_up_interruptible_sync_poll(&wq->wait, EPOLLOUT | EPOLLWRNORM);
		sk_wake_async_rcu(sk, SOCK_WAKE_SPACE, POLL_OUT);
		rcu_read_unlock();
	}
}

int rvsock_helper_sk_rcvlowat(const struct sock *sk)
{
	return sock_rcvlowat(sk, 0, INT_MAX);
}

int rvsock_helper_sk_state(const struct sock *sk)
{
	return READ_ONCE(sk->sk_state);
}

void rvsock_helper_sk_set_state(struct sock *sk, int state)
{
	WRITE_ONCE(sk->sk_state, state);
}

bool rvsock_helper_sk_acceptq_is_full(const struct sock *sk)
{
	return sk_acceptq_is_full(sk);
}

/* What connect() finds when it wakes; false when the socket has lost its file. */
bool rvsock_helper_sk_mark_connected(struct sock *sk)
{
	if (!sk->sk_socket)
		return false;
	sk->sk_socket->state = SS_CONNECTED;
	return true;
}

/* Takes back what is in the backlog, if it is; the caller has the spinlock. */
void rvsock_helper_sk_drop_note(struct sock *sk, struct sk_buff *note)
{
	struct sk_buff **link = &sk->sk_backlog.head, *before = NULL;

	while (*link && *link != note) {
		before = *link;
		link = &before->next;
	}
	if (!*link)
		return;
	*link = note->next;
	if (sk->sk_backlog.tail == note)
		sk->sk_backlog.tail = before;
	note->next = NULL;
	sk->sk_backlog.len -= note->truesize;
	consume_skb(note);
}

/* Its owner alone puts a socket into the table: nobody does between the two. */
void rvsock_helper_vsock_insert_connected(struct vsock_sock *vsk)
{
	bool is_in;

	spin_lock_bh(&vsock_table_lock);
	is_in = !list_empty(&vsk->connected_table);
	spin_unlock_bh(&vsock_table_lock);
	if (!is_in)
		vsock_insert_connected(vsk);
}

/*
 * Only while the socket is being closed: then it has no other user, and keeps
 * the transport whose callback vsock_linger() calls while it is unlocked.
 */
void rvsock_helper_vsock_linger(struct vsock_sock *vsk)
{
	struct sock *sk = sk_vsock(vsk);

	if (sock_flag(sk, SOCK_DEAD) && sk->sk_socket && !(current->flags & PF_EXITING))
		vsock_linger(sk);
}

bool rvsock_helper_vsock_net_mode_global(struct vsock_sock *vsk)
{
	return vsock_net_mode_global(vsk);
}

/* For skb_recv_datagram(): when it was received, and how many were dropped before. */
void rvsock_helper_sock_recv_cmsgs(struct msghdr *msg, struct sock *sk, struct sk_buff *skb)
{
	sock_recv_cmsgs(msg, sk, skb);
}

/* Unless it returns SKB_NOT_DROPPED_YET, the buffer is the caller's still. */
enum skb_drop_reason rvsock_helper_sock_queue_rcv_skb(struct sock *sk, struct sk_buff *skb)
{
	if (sock_flag(sk, SOCK_RCVTSTAMP))
		__net_timestamp(skb);
	return sock_queue_rcv_skb_reason(sk, skb);
}

/* The length of the first datagram that waits, as SIOCINQ tells it. */
unsigned int rvsock_helper_sock_first_len(struct sock *sk)
{
	struct sk_buff *skb;
	unsigned int len;

	spin_lock_bh(&sk->sk_receive_queue.lock);
	skb = skb_peek(&sk->sk_receive_queue);
	len = skb ? skb->len : 0;
	spin_unlock_bh(&sk->sk_receive_queue.lock);
	return len;
}

void rvsock_helper_sk_drops_inc(struct sock *sk)
{
	sk_drops_inc(sk);
}

int rvsock_helper_sk_wmem_alloc(const struct sock *sk)
{
	return sk_wmem_alloc_get(sk);
}

bool rvsock_helper_sk_sndbuf_is_full(const struct sock *sk)
{
	return sk_wmem_alloc_get(sk) >= READ_ONCE(sk->sk_sndbuf);
}

/* What is allocated for sending counts as the user's, for memory cgroups. */
void rvsock_helper_sk_account_memory(struct sock *sk)
{
	sk->sk_allocation = GFP_KERNEL_ACCOUNT;
}

/*
 * The caller owns the socket, which is let go while one waits. An error or the
 * end of sending ends the waiting too: the caller finds it.
 */
int rvsock_helper_sk_wait_until(struct sock *sk, bool noblock, bool (*ready)(void *data),
				void *data)
{
	DEFINE_WAIT_FUNC(wait, woken_wake_function);
	long timeo = sock_sndtimeo(sk, noblock);
	int err = 0;

	add_wait_queue(sk_sleep(sk), &wait);
	/*
	 * With that of skwq_has_sleeper(): either we are found waiting, or we
	 * see what has made room. No lock is held around both.
	 */
	smp_mb();
	while (!ready(data) && !sk->sk_err && !(sk->sk_shutdown & SEND_SHUTDOWN)) {
		if (!timeo) {
			err = -EAGAIN;
			break;
		}
		if (signal_pending(current)) {
			err = sock_intr_errno(timeo);
			break;
		}
		sk_wait_event(sk, &timeo, ready(data), &wait);
	}
	remove_wait_queue(sk_sleep(sk), &wait);
	return err;
}

u32 rvsock_helper_sk_shutdown(const struct sock *sk)
{
	return READ_ONCE(sk->sk_shutdown);
}

/* For a socket that nobody need own: the next call reports it. */
void rvsock_helper_sk_report_error(struct sock *sk, int err)
{
	WRITE_ONCE(sk->sk_err, err);
	sk_error_report(sk);
}

bool rvsock_helper_may_bind_reserved_port(void)
{
	return capable(CAP_NET_BIND_SERVICE);
}

u32 rvsock_helper_get_random_u32(void)
{
	return get_random_u32();
}

u32 rvsock_helper_vsock_peer_shutdown(const struct vsock_sock *vsk)
{
	return READ_ONCE(vsk->peer_shutdown);
}

void rvsock_helper_vsock_set_peer_shutdown(struct vsock_sock *vsk, u32 mask)
{
	WRITE_ONCE(vsk->peer_shutdown, mask);
}
