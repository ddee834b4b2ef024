// SPDX-License-Identifier: GPL-2.0
/* The driver's tracepoints, and how Rust comes to them. */

#include "trace_helpers.h"

#define CREATE_TRACE_POINTS
#include "rvsock_trace.h"

/* While nobody traces, it costs the call: a static key says so. */
bool rvsock_helper_trace_alloc_enabled(void)
{
	return trace_rvsock_alloc_pkt_enabled();
}

void rvsock_helper_trace_alloc(const struct rvsock_trace_pkt *pkt)
{
	trace_rvsock_alloc_pkt(pkt);
}

bool rvsock_helper_trace_send_enabled(void)
{
	return trace_rvsock_send_pkt_enabled();
}

void rvsock_helper_trace_send(const struct rvsock_trace_pkt *pkt)
{
	trace_rvsock_send_pkt(pkt);
}

bool rvsock_helper_trace_recv_enabled(void)
{
	return trace_rvsock_recv_pkt_enabled();
}

void rvsock_helper_trace_recv(const struct rvsock_trace_pkt *pkt)
{
	trace_rvsock_recv_pkt(pkt);
}

bool rvsock_helper_trace_drop_enabled(void)
{
	return trace_rvsock_drop_pkt_enabled();
}

void rvsock_helper_trace_drop(const struct rvsock_trace_pkt *pkt, enum rvsock_drop_reason reason)
{
	trace_rvsock_drop_pkt(pkt, reason);
}
