/* SPDX-License-Identifier: GPL-2.0 */
/* What the driver's tracepoints are told; read by C and by bindgen. */

#ifndef RVSOCK_TRACE_HELPERS_H
#define RVSOCK_TRACE_HELPERS_H

#include <linux/types.h>

/* A packet's header, in host byte order. */
struct rvsock_trace_pkt {
	u64 src_cid;
	u64 dst_cid;
	u32 src_port;
	u32 dst_port;
	u32 len;
	u16 type;
	u16 op;
	u32 flags;
	u32 buf_alloc;
	u32 fwd_cnt;
};

/* Why a packet was dropped, by the name of its counter where it has one. */
enum rvsock_drop_reason {
	/* No header was written, as the buffer came back shorter. */
	RVSOCK_DROP_RX_SHORT,
	/* A buffer came back as it was. */
	RVSOCK_DROP_RX_UNWRITTEN,
	/* Bytes of it were lost. */
	RVSOCK_DROP_RX_DAMAGED,
	/* Its buffers cannot be counted. */
	RVSOCK_DROP_RX_FRAMING_LOST,
	/* Its addresses are none, or not ours. */
	RVSOCK_DROP_RX_BAD_ADDRESS,
	/* An op that is none, or makes no sense. */
	RVSOCK_DROP_RX_BAD_OP,
	/* Answered by RST. */
	RVSOCK_DROP_RX_REFUSED,
	/* Beyond the credit, or without memory. */
	RVSOCK_DROP_RX_OVERRUN,
	/* Its socket has no room, or does not want it. */
	RVSOCK_DROP_RX_DGRAM_DROPPED,
	/* Its reader has shut down. */
	RVSOCK_DROP_RX_UNWANTED,
	/* An RST for nobody. */
	RVSOCK_DROP_RX_STRAY,
	/* The host takes no replies. */
	RVSOCK_DROP_TX_REPLY_DROPPED,
	/* More pieces than the queue has descriptors. */
	RVSOCK_DROP_TX_TOO_LONG,
	/* Its connection is over. */
	RVSOCK_DROP_TX_OVER,
	/* The host has reset its connections. */
	RVSOCK_DROP_TX_RESET,
	/* There is no device any more. */
	RVSOCK_DROP_TX_NO_DEVICE,
	/* The scheduler of the network interface has dropped it. */
	RVSOCK_DROP_TX_DGRAM_DROPPED,
};

bool rvsock_helper_trace_alloc_enabled(void);
void rvsock_helper_trace_alloc(const struct rvsock_trace_pkt *pkt);
bool rvsock_helper_trace_send_enabled(void);
void rvsock_helper_trace_send(const struct rvsock_trace_pkt *pkt);
bool rvsock_helper_trace_recv_enabled(void);
void rvsock_helper_trace_recv(const struct rvsock_trace_pkt *pkt);
bool rvsock_helper_trace_drop_enabled(void);
void rvsock_helper_trace_drop(const struct rvsock_trace_pkt *pkt, enum rvsock_drop_reason reason);

#endif /* RVSOCK_TRACE_HELPERS_H */
