/* SPDX-License-Identifier: GPL-2.0 */
/* Tracepoints of the driver; trace.c makes them. */

#undef TRACE_SYSTEM
#define TRACE_SYSTEM rvsock

#if !defined(RVSOCK_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define RVSOCK_TRACE_H

#include <linux/tracepoint.h>
#include <uapi/linux/virtio_vsock.h>

TRACE_DEFINE_ENUM(VIRTIO_VSOCK_TYPE_STREAM);
TRACE_DEFINE_ENUM(VIRTIO_VSOCK_TYPE_SEQPACKET);
TRACE_DEFINE_ENUM(VIRTIO_VSOCK_OP_INVALID);
TRACE_DEFINE_ENUM(VIRTIO_VSOCK_OP_REQUEST);
TRACE_DEFINE_ENUM(VIRTIO_VSOCK_OP_RESPONSE);
TRACE_DEFINE_ENUM(VIRTIO_VSOCK_OP_RST);
TRACE_DEFINE_ENUM(VIRTIO_VSOCK_OP_SHUTDOWN);
TRACE_DEFINE_ENUM(VIRTIO_VSOCK_OP_RW);
TRACE_DEFINE_ENUM(VIRTIO_VSOCK_OP_CREDIT_UPDATE);
TRACE_DEFINE_ENUM(VIRTIO_VSOCK_OP_CREDIT_REQUEST);

/* Datagrams have no number in the kernel's headers. */
#define rvsock_show_type(type)						\
	__print_symbolic(type,						\
			 { VIRTIO_VSOCK_TYPE_STREAM, "STREAM" },	\
			 { VIRTIO_VSOCK_TYPE_SEQPACKET, "SEQPACKET" },	\
			 { 3, "DGRAM" })

#define rvsock_show_op(op)						\
	__print_symbolic(op,						\
			 { VIRTIO_VSOCK_OP_INVALID, "INVALID" },	\
			 { VIRTIO_VSOCK_OP_REQUEST, "REQUEST" },	\
			 { VIRTIO_VSOCK_OP_RESPONSE, "RESPONSE" },	\
			 { VIRTIO_VSOCK_OP_RST, "RST" },		\
			 { VIRTIO_VSOCK_OP_SHUTDOWN, "SHUTDOWN" },	\
			 { VIRTIO_VSOCK_OP_RW, "RW" },			\
			 { VIRTIO_VSOCK_OP_CREDIT_UPDATE, "CREDIT_UPDATE" }, \
			 { VIRTIO_VSOCK_OP_CREDIT_REQUEST, "CREDIT_REQUEST" })

TRACE_DEFINE_ENUM(RVSOCK_DROP_RX_SHORT);
TRACE_DEFINE_ENUM(RVSOCK_DROP_RX_UNWRITTEN);
TRACE_DEFINE_ENUM(RVSOCK_DROP_RX_DAMAGED);
TRACE_DEFINE_ENUM(RVSOCK_DROP_RX_FRAMING_LOST);
TRACE_DEFINE_ENUM(RVSOCK_DROP_RX_BAD_ADDRESS);
TRACE_DEFINE_ENUM(RVSOCK_DROP_RX_BAD_OP);
TRACE_DEFINE_ENUM(RVSOCK_DROP_RX_REFUSED);
TRACE_DEFINE_ENUM(RVSOCK_DROP_RX_OVERRUN);
TRACE_DEFINE_ENUM(RVSOCK_DROP_RX_DGRAM_DROPPED);
TRACE_DEFINE_ENUM(RVSOCK_DROP_RX_UNWANTED);
TRACE_DEFINE_ENUM(RVSOCK_DROP_RX_STRAY);
TRACE_DEFINE_ENUM(RVSOCK_DROP_TX_REPLY_DROPPED);
TRACE_DEFINE_ENUM(RVSOCK_DROP_TX_TOO_LONG);
TRACE_DEFINE_ENUM(RVSOCK_DROP_TX_OVER);
TRACE_DEFINE_ENUM(RVSOCK_DROP_TX_RESET);
TRACE_DEFINE_ENUM(RVSOCK_DROP_TX_NO_DEVICE);
TRACE_DEFINE_ENUM(RVSOCK_DROP_TX_DGRAM_DROPPED);

#define rvsock_show_reason(reason)					\
	__print_symbolic(reason,					\
			 { RVSOCK_DROP_RX_SHORT, "rx_short" },		\
			 { RVSOCK_DROP_RX_UNWRITTEN, "rx_unwritten" },	\
			 { RVSOCK_DROP_RX_DAMAGED, "rx_damaged" },	\
			 { RVSOCK_DROP_RX_FRAMING_LOST, "rx_framing_lost" }, \
			 { RVSOCK_DROP_RX_BAD_ADDRESS, "rx_bad_address" }, \
			 { RVSOCK_DROP_RX_BAD_OP, "rx_bad_op" },	\
			 { RVSOCK_DROP_RX_REFUSED, "rx_refused" },	\
			 { RVSOCK_DROP_RX_OVERRUN, "rx_overrun" },	\
			 { RVSOCK_DROP_RX_DGRAM_DROPPED, "rx_dgram_dropped" }, \
			 { RVSOCK_DROP_RX_UNWANTED, "rx_unwanted" },	\
			 { RVSOCK_DROP_RX_STRAY, "rx_stray" },		\
			 { RVSOCK_DROP_TX_REPLY_DROPPED, "tx_reply_dropped" }, \
			 { RVSOCK_DROP_TX_TOO_LONG, "tx_too_long" },	\
			 { RVSOCK_DROP_TX_OVER, "tx_over" },		\
			 { RVSOCK_DROP_TX_RESET, "tx_reset" },		\
			 { RVSOCK_DROP_TX_NO_DEVICE, "tx_no_device" },	\
			 { RVSOCK_DROP_TX_DGRAM_DROPPED, "tx_dgram_dropped" })

DECLARE_EVENT_CLASS(rvsock_pkt,
	TP_PROTO(const struct rvsock_trace_pkt *pkt),
	TP_ARGS(pkt),
	TP_STRUCT__entry(
		__field(__u64, src_cid)
		__field(__u64, dst_cid)
		__field(__u32, src_port)
		__field(__u32, dst_port)
		__field(__u32, len)
		__field(__u16, type)
		__field(__u16, op)
		__field(__u32, flags)
		__field(__u32, buf_alloc)
		__field(__u32, fwd_cnt)
	),
	TP_fast_assign(
		__entry->src_cid = pkt->src_cid;
		__entry->dst_cid = pkt->dst_cid;
		__entry->src_port = pkt->src_port;
		__entry->dst_port = pkt->dst_port;
		__entry->len = pkt->len;
		__entry->type = pkt->type;
		__entry->op = pkt->op;
		__entry->flags = pkt->flags;
		__entry->buf_alloc = pkt->buf_alloc;
		__entry->fwd_cnt = pkt->fwd_cnt;
	),
	TP_printk("%llu:%u -> %llu:%u len=%u type=%s op=%s flags=%#x buf_alloc=%u fwd_cnt=%u",
		  __entry->src_cid, __entry->src_port, __entry->dst_cid, __entry->dst_port,
		  __entry->len, rvsock_show_type(__entry->type), rvsock_show_op(__entry->op),
		  __entry->flags, __entry->buf_alloc, __entry->fwd_cnt)
);

/* A packet was made; its credit is filled in when it is sent. */
DEFINE_EVENT(rvsock_pkt, rvsock_alloc_pkt,
	TP_PROTO(const struct rvsock_trace_pkt *pkt),
	TP_ARGS(pkt)
);

/* The device was given a packet. */
DEFINE_EVENT(rvsock_pkt, rvsock_send_pkt,
	TP_PROTO(const struct rvsock_trace_pkt *pkt),
	TP_ARGS(pkt)
);

/* A packet was received, as it came: nothing of it was looked at. */
DEFINE_EVENT(rvsock_pkt, rvsock_recv_pkt,
	TP_PROTO(const struct rvsock_trace_pkt *pkt),
	TP_ARGS(pkt)
);

/* A packet was dropped; where none was found, all but the reason is zero. */
TRACE_EVENT(rvsock_drop_pkt,
	TP_PROTO(const struct rvsock_trace_pkt *pkt, enum rvsock_drop_reason reason),
	TP_ARGS(pkt, reason),
	TP_STRUCT__entry(
		__field(__u64, src_cid)
		__field(__u64, dst_cid)
		__field(__u32, src_port)
		__field(__u32, dst_port)
		__field(__u32, len)
		__field(__u16, type)
		__field(__u16, op)
		__field(__u32, flags)
		/* A plain number: bpftrace refuses a module's enum where that has no BTF. */
		__field(__u32, reason)
	),
	TP_fast_assign(
		__entry->src_cid = pkt->src_cid;
		__entry->dst_cid = pkt->dst_cid;
		__entry->src_port = pkt->src_port;
		__entry->dst_port = pkt->dst_port;
		__entry->len = pkt->len;
		__entry->type = pkt->type;
		__entry->op = pkt->op;
		__entry->flags = pkt->flags;
		__entry->reason = reason;
	),
	TP_printk("%llu:%u -> %llu:%u len=%u type=%s op=%s flags=%#x reason=%s",
		  __entry->src_cid, __entry->src_port, __entry->dst_cid, __entry->dst_port,
		  __entry->len, rvsock_show_type(__entry->type), rvsock_show_op(__entry->op),
		  __entry->flags, rvsock_show_reason(__entry->reason))
);

#endif /* RVSOCK_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE rvsock_trace
#include <trace/define_trace.h>
