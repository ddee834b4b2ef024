// SPDX-License-Identifier: GPL-2.0-only
/*
 * vsock_dgram_test - SOCK_DGRAM test suite
 *
 * Between two machines of which each has a transport for datagrams. Datagrams
 * may be lost, but none is as long as the reader keeps up, which the control
 * connection makes sure of.
 */

#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>
#include <linux/kernel.h>
#include <linux/sockios.h>

#include "timeout.h"
#include "control.h"
#include "util.h"

#define DGRAM_MAX	(64 * 1024)
#define PEER_PORTS	4
#define MANY_SOCKETS	64
#define OVERFLOW_COUNT	2000
#define OVERFLOW_SIZE	1000
#define RCVTIMEO_USEC	(200 * 1000)

static char buf[DGRAM_MAX + 1];

static void fail(const char *what)
{
	fprintf(stderr, "%s\n", what);
	exit(EXIT_FAILURE);
}

static void fail_errno(const char *what)
{
	perror(what);
	exit(EXIT_FAILURE);
}

static struct sockaddr_vm addr_vm(unsigned int cid, unsigned int port)
{
	struct sockaddr_vm addr = {
		.svm_family = AF_VSOCK,
		.svm_cid = cid,
		.svm_port = port,
	};

	return addr;
}

static int dgram_socket(void)
{
	int fd = socket(AF_VSOCK, SOCK_DGRAM, 0);

	if (fd < 0)
		fail_errno("socket");

	return fd;
}

static int dgram_bind(unsigned int port)
{
	return vsock_bind(VMADDR_CID_ANY, port, SOCK_DGRAM);
}

static int dgram_connect(const struct test_opts *opts)
{
	int fd = dgram_socket();

	if (vsock_connect_fd(fd, opts->peer_cid, opts->peer_port))
		fail_errno("connect");

	return fd;
}

static struct sockaddr_vm sock_name(int fd)
{
	struct sockaddr_vm addr;
	socklen_t len = sizeof(addr);

	if (getsockname(fd, (struct sockaddr *)&addr, &len))
		fail_errno("getsockname");
	if (len != sizeof(addr) || addr.svm_family != AF_VSOCK)
		fail("getsockname: not an address of AF_VSOCK");

	return addr;
}

/* Send to a port of the peer, or with port 0 to whom the socket is connected.
 * expected_ret is the length, or a negative errno.
 */
static void send_dgram(int fd, const struct test_opts *opts, unsigned int port,
		       const void *data, size_t len, int flags,
		       ssize_t expected_ret)
{
	struct sockaddr_vm addr = addr_vm(opts->peer_cid, port);
	ssize_t ret;

	timeout_begin(TIMEOUT);
	do {
		ret = sendto(fd, data, len, flags,
			     port ? (struct sockaddr *)&addr : NULL,
			     port ? sizeof(addr) : 0);
		timeout_check("sendto");
	} while (ret < 0 && errno == EINTR);
	timeout_end();

	if (ret < 0 && expected_ret < 0 && errno == -expected_ret)
		return;
	if (ret < 0)
		fail_errno("sendto");
	if (ret != expected_ret) {
		fprintf(stderr, "sendto of %zu bytes returned %zd, expected %zd\n",
			len, ret, expected_ret);
		exit(EXIT_FAILURE);
	}
}

/* Receive one datagram; from may be NULL. expected_ret is as above. */
static void recv_dgram(int fd, void *data, size_t len, int flags,
		       struct sockaddr_vm *from, ssize_t expected_ret)
{
	struct sockaddr_vm addr;
	socklen_t addrlen = sizeof(addr);
	ssize_t ret;

	timeout_begin(TIMEOUT);
	do {
		ret = recvfrom(fd, data, len, flags, (struct sockaddr *)&addr,
			       &addrlen);
		timeout_check("recvfrom");
	} while (ret < 0 && errno == EINTR);
	timeout_end();

	if (ret < 0 && expected_ret < 0 && errno == -expected_ret)
		return;
	if (ret < 0)
		fail_errno("recvfrom");
	if (ret != expected_ret) {
		fprintf(stderr, "recvfrom into %zu bytes returned %zd, expected %zd\n",
			len, ret, expected_ret);
		exit(EXIT_FAILURE);
	}
	if (!from)
		return;
	if (addrlen != sizeof(addr) || addr.svm_family != AF_VSOCK)
		fail("recvfrom: not an address of AF_VSOCK");
	*from = addr;
}

static void check_peer(const struct sockaddr_vm *addr,
		       const struct test_opts *opts, unsigned int port)
{
	if (addr->svm_cid == opts->peer_cid && addr->svm_port == port)
		return;

	fprintf(stderr, "address is %u:%u, expected %u:%u\n", addr->svm_cid,
		addr->svm_port, opts->peer_cid, port);
	exit(EXIT_FAILURE);
}

static void fill(char *data, size_t len, unsigned char seed)
{
	size_t i;

	for (i = 0; i < len; i++)
		data[i] = seed + i * 31 + (i >> 8);
}

static void check_fill(const char *data, size_t len, unsigned char seed)
{
	size_t i;

	for (i = 0; i < len; i++) {
		if (data[i] == (char)(seed + i * 31 + (i >> 8)))
			continue;
		fprintf(stderr, "byte %zu of %zu is wrong\n", i, len);
		exit(EXIT_FAILURE);
	}
}

static void wait_events(int fd, short events)
{
	struct pollfd fds = { .fd = fd, .events = events };

	if (poll(&fds, 1, TIMEOUT * 1000) < 0)
		fail_errno("poll");
	if (fds.revents & (events ? events : POLLERR))
		return;

	fprintf(stderr, "poll for %#x returned %#x\n", events, fds.revents);
	exit(EXIT_FAILURE);
}

/* The side that only has to be there. */
static void test_bystander(const struct test_opts *opts)
{
	control_expectln("DONE");
}

static void test_sendto_client(const struct test_opts *opts)
{
	struct sockaddr_vm from;
	int fd;

	control_expectln("BOUND");
	fd = dgram_socket();
	send_dgram(fd, opts, opts->peer_port, "ping", 4, 0, 4);
	control_writeulong(sock_name(fd).svm_port);
	recv_dgram(fd, buf, sizeof(buf), 0, &from, 4);
	check_peer(&from, opts, opts->peer_port);
	if (memcmp(buf, "pong", 4))
		fail("unexpected content");
	close(fd);
	control_writeln("DONE");
}

static void test_sendto_server(const struct test_opts *opts)
{
	struct sockaddr_vm from;
	int fd;

	fd = dgram_bind(opts->peer_port);
	control_writeln("BOUND");
	recv_dgram(fd, buf, sizeof(buf), 0, &from, 4);
	check_peer(&from, opts, control_readulong());
	if (memcmp(buf, "ping", 4))
		fail("unexpected content");
	send_dgram(fd, opts, from.svm_port, "pong", 4, 0, 4);
	control_expectln("DONE");
	close(fd);
}

static void test_connect_client(const struct test_opts *opts)
{
	struct sockaddr_vm addr;
	socklen_t len = sizeof(addr);
	int fd;

	fd = dgram_socket();
	send_dgram(fd, opts, 0, "x", 1, 0, -EINVAL);
	if (!getpeername(fd, (struct sockaddr *)&addr, &len) || errno != ENOTCONN)
		fail("getpeername of an unconnected socket did not fail with ENOTCONN");
	close(fd);

	control_expectln("BOUND");
	fd = dgram_connect(opts);
	if (getpeername(fd, (struct sockaddr *)&addr, &len))
		fail_errno("getpeername");
	check_peer(&addr, opts, opts->peer_port);
	addr = sock_name(fd);
	if (addr.svm_port == VMADDR_PORT_ANY || addr.svm_port < 1024)
		fail("connect did not bind the socket");
	send_dgram(fd, opts, 0, "ping", 4, 0, 4);
	recv_dgram(fd, buf, sizeof(buf), 0, NULL, 4);

	addr.svm_family = AF_UNSPEC;
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		fail_errno("connect to AF_UNSPEC");
	send_dgram(fd, opts, 0, "x", 1, 0, -EINVAL);
	close(fd);
	control_writeln("DONE");
}

static void test_connect_server(const struct test_opts *opts)
{
	struct sockaddr_vm from;
	int fd;

	fd = dgram_bind(opts->peer_port);
	control_writeln("BOUND");
	recv_dgram(fd, buf, sizeof(buf), 0, &from, 4);
	if (connect(fd, (struct sockaddr *)&from, sizeof(from)))
		fail_errno("connect");
	send_dgram(fd, opts, 0, "pong", 4, 0, 4);
	control_expectln("DONE");
	close(fd);
}

/* Around a header, a page, and the greatest */
static const size_t sizes[] = {
	0, 1, 43, 44, 45, 46, 47, 4095, 4096, 4097, 65535, 65536,
};

static void test_bounds_client(const struct test_opts *opts)
{
	size_t i;
	int fd;

	control_expectln("BOUND");
	fd = dgram_connect(opts);
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		fill(buf, sizes[i], i);
		send_dgram(fd, opts, 0, buf, sizes[i], 0, sizes[i]);
		control_expectln("RECEIVED");
	}
	send_dgram(fd, opts, 0, buf, DGRAM_MAX + 1, 0, -EMSGSIZE);
	close(fd);
	control_writeln("DONE");
}

static void test_bounds_server(const struct test_opts *opts)
{
	size_t i;
	int fd;

	fd = dgram_bind(opts->peer_port);
	control_writeln("BOUND");
	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		recv_dgram(fd, buf, sizeof(buf), 0, NULL, sizes[i]);
		check_fill(buf, sizes[i], i);
		control_writeln("RECEIVED");
	}
	control_expectln("DONE");
	recv_dgram(fd, buf, sizeof(buf), MSG_DONTWAIT, NULL, -EAGAIN);
	close(fd);
}

#define TRUNC_SIZE	1000

static void test_trunc_client(const struct test_opts *opts)
{
	int fd, i;

	control_expectln("BOUND");
	fd = dgram_connect(opts);
	fill(buf, TRUNC_SIZE, 7);
	for (i = 0; i < 3; i++)
		send_dgram(fd, opts, 0, buf, TRUNC_SIZE, 0, TRUNC_SIZE);
	close(fd);
	control_writeln("DONE");
}

static void test_trunc_server(const struct test_opts *opts)
{
	struct iovec iov = { .iov_base = buf, .iov_len = 10 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	int fd;

	fd = dgram_bind(opts->peer_port);
	control_writeln("BOUND");
	wait_events(fd, POLLIN);
	if (!vsock_ioctl_int(fd, SIOCINQ, TRUNC_SIZE))
		fail("SIOCINQ is not supported");
	recv_dgram(fd, buf, sizeof(buf), MSG_PEEK, NULL, TRUNC_SIZE);
	check_fill(buf, TRUNC_SIZE, 7);
	recv_dgram(fd, buf, 10, MSG_PEEK | MSG_TRUNC, NULL, TRUNC_SIZE);

	/* What does not fit is lost, and nothing else */
	if (recvmsg(fd, &msg, 0) != 10)
		fail("recvmsg did not return 10 bytes");
	if (!(msg.msg_flags & MSG_TRUNC))
		fail("recvmsg did not set MSG_TRUNC");
	check_fill(buf, 10, 7);
	recv_dgram(fd, buf, 10, MSG_TRUNC, NULL, TRUNC_SIZE);
	recv_dgram(fd, buf, sizeof(buf), 0, NULL, TRUNC_SIZE);
	check_fill(buf, TRUNC_SIZE, 7);

	control_expectln("DONE");
	recv_dgram(fd, buf, sizeof(buf), MSG_DONTWAIT, NULL, -EAGAIN);
	close(fd);
}

static void bind_fails(int fd, unsigned int cid, unsigned int port, int err)
{
	struct sockaddr_vm addr = addr_vm(cid, port);

	if (bind(fd, (struct sockaddr *)&addr, sizeof(addr)) && errno == err)
		return;

	fprintf(stderr, "bind to %u:%u did not fail with %s\n", cid, port,
		strerror(err));
	exit(EXIT_FAILURE);
}

static void test_bind_client(const struct test_opts *opts)
{
	int fd, other, stream;

	fd = dgram_bind(opts->peer_port);
	bind_fails(fd, VMADDR_CID_ANY, opts->peer_port + 1, EINVAL);
	other = dgram_socket();
	bind_fails(other, VMADDR_CID_ANY, opts->peer_port, EADDRINUSE);
	bind_fails(other, opts->peer_cid, opts->peer_port + 1, EADDRNOTAVAIL);

	/* Ports of streams are others */
	stream = vsock_stream_listen(VMADDR_CID_ANY, opts->peer_port);
	close(stream);

	close(fd);
	fd = dgram_bind(opts->peer_port);
	close(fd);
	fd = dgram_bind(VMADDR_PORT_ANY);
	if (sock_name(fd).svm_port < 1024 ||
	    sock_name(fd).svm_port == VMADDR_PORT_ANY)
		fail("no port was picked");
	close(fd);
	close(other);
	control_writeln("DONE");
}

static void test_empty_client(const struct test_opts *opts)
{
	struct timeval timeout = { .tv_usec = RCVTIMEO_USEC };
	struct pollfd fds = { .events = POLLIN | POLLOUT };
	int fd;

	fd = dgram_bind(VMADDR_PORT_ANY);
	recv_dgram(fd, buf, sizeof(buf), MSG_DONTWAIT, NULL, -EAGAIN);
	recv_dgram(fd, buf, sizeof(buf), MSG_OOB, NULL, -EOPNOTSUPP);
	send_dgram(fd, opts, opts->peer_port, "x", 1, MSG_OOB, -EOPNOTSUPP);
	setsockopt_timeval_check(fd, SOL_SOCKET, SO_RCVTIMEO, timeout,
				 "setsockopt SO_RCVTIMEO");
	recv_dgram(fd, buf, sizeof(buf), 0, NULL, -EAGAIN);
	if (!vsock_ioctl_int(fd, SIOCINQ, 0) || !vsock_wait_sent(fd))
		fail("SIOCINQ or SIOCOUTQ is not supported");
	fds.fd = fd;
	if (poll(&fds, 1, 0) != 1 || fds.revents != POLLOUT)
		fail("poll of an empty socket did not return POLLOUT");
	close(fd);
	control_writeln("DONE");
}

static void test_peer_only_client(const struct test_opts *opts)
{
	int fd, other;

	control_expectln("BOUND");
	fd = dgram_socket();
	other = dgram_socket();
	send_dgram(fd, opts, opts->peer_port, "peer", 4, 0, 4);
	control_expectln("CONNECTED");
	send_dgram(other, opts, opts->peer_port, "other", 5, 0, 5);
	send_dgram(fd, opts, opts->peer_port, "peer", 4, 0, 4);
	control_expectln("RECEIVED");
	close(other);
	close(fd);
	control_writeln("DONE");
}

static void test_peer_only_server(const struct test_opts *opts)
{
	struct sockaddr_vm from;
	int fd;

	fd = dgram_bind(opts->peer_port);
	control_writeln("BOUND");
	recv_dgram(fd, buf, sizeof(buf), 0, &from, 4);
	if (connect(fd, (struct sockaddr *)&from, sizeof(from)))
		fail_errno("connect");
	control_writeln("CONNECTED");
	recv_dgram(fd, buf, sizeof(buf), 0, NULL, 4);
	recv_dgram(fd, buf, sizeof(buf), MSG_DONTWAIT, NULL, -EAGAIN);
	control_writeln("RECEIVED");
	control_expectln("DONE");
	close(fd);
}

static void test_refused_client(const struct test_opts *opts)
{
	int fd, other;

	/* Nobody is there. Who is connected learns it, and once. */
	fd = dgram_connect(opts);
	other = dgram_socket();
	send_dgram(other, opts, opts->peer_port, "x", 1, 0, 1);
	send_dgram(fd, opts, 0, "x", 1, 0, 1);
	wait_events(fd, 0);
	recv_dgram(fd, buf, sizeof(buf), 0, NULL, -ECONNREFUSED);
	recv_dgram(fd, buf, sizeof(buf), MSG_DONTWAIT, NULL, -EAGAIN);
	send_dgram(fd, opts, 0, "x", 1, 0, 1);
	wait_events(fd, 0);
	send_dgram(fd, opts, 0, "x", 1, 0, -ECONNREFUSED);
	recv_dgram(other, buf, sizeof(buf), MSG_DONTWAIT, NULL, -EAGAIN);
	close(other);
	close(fd);
	control_writeln("DONE");
}

static void test_shutdown_client(const struct test_opts *opts)
{
	int fd;

	control_expectln("BOUND");
	fd = dgram_connect(opts);
	if (shutdown(fd, SHUT_WR))
		fail_errno("shutdown");
	/* Without an address the socket layer itself has nowhere to send to */
	send_dgram(fd, opts, opts->peer_port, "x", 1, MSG_NOSIGNAL, -EPIPE);
	send_dgram(fd, opts, 0, "x", 1, MSG_NOSIGNAL, -EINVAL);
	close(fd);

	fd = dgram_connect(opts);
	if (shutdown(fd, SHUT_RD))
		fail_errno("shutdown");
	recv_dgram(fd, buf, sizeof(buf), 0, NULL, 0);
	send_dgram(fd, opts, opts->peer_port, "last", 4, 0, 4);
	close(fd);
	control_writeln("DONE");
}

static void test_shutdown_server(const struct test_opts *opts)
{
	int fd;

	fd = dgram_bind(opts->peer_port);
	control_writeln("BOUND");
	recv_dgram(fd, buf, sizeof(buf), 0, NULL, 4);
	control_expectln("DONE");
	close(fd);
}

static void test_overflow_client(const struct test_opts *opts)
{
	__u32 i;
	int fd;

	control_expectln("BOUND");
	fd = dgram_connect(opts);
	for (i = 0; i < OVERFLOW_COUNT; i++) {
		memcpy(buf, &i, sizeof(i));
		send_dgram(fd, opts, 0, buf, OVERFLOW_SIZE, 0, OVERFLOW_SIZE);
	}
	if (!vsock_wait_sent(fd))
		fail("SIOCOUTQ is not supported");
	control_writeln("SENT");
	control_expectln("DRAINED");
	send_dgram(fd, opts, 0, "last", 4, 0, 4);
	close(fd);
	control_writeln("DONE");
}

/* What does not fit into the receive buffer is dropped, and counted. Between the
 * machines datagrams may be lost, too, so that the sum is an upper bound.
 */
static void test_overflow_server(const struct test_opts *opts)
{
	char control[CMSG_SPACE(sizeof(__u32))];
	struct iovec iov = { .iov_base = buf, .iov_len = sizeof(buf) };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control),
	};
	struct cmsghdr *cmsg;
	__u32 received = 0, dropped = 0, next = 0, number;
	int size = 32 * OVERFLOW_SIZE;
	int fd;

	fd = dgram_bind(opts->peer_port);
	/* Reads back as twice that */
	if (setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size)))
		fail_errno("setsockopt SO_RCVBUF");
	setsockopt_int_check(fd, SOL_SOCKET, SO_RXQ_OVFL, 1,
			     "setsockopt SO_RXQ_OVFL");
	control_writeln("BOUND");
	control_expectln("SENT");
	/* The last ones are on their way still */
	usleep(RCVTIMEO_USEC);
	while (recv(fd, buf, sizeof(buf), MSG_DONTWAIT) == OVERFLOW_SIZE) {
		memcpy(&number, buf, sizeof(number));
		if (number < next)
			fail("a datagram came twice or late");
		next = number + 1;
		received++;
	}
	control_writeln("DRAINED");

	timeout_begin(TIMEOUT);
	if (recvmsg(fd, &msg, 0) != 4)
		fail("recvmsg did not return the last datagram");
	timeout_end();
	for (cmsg = CMSG_FIRSTHDR(&msg); cmsg; cmsg = CMSG_NXTHDR(&msg, cmsg)) {
		if (cmsg->cmsg_level == SOL_SOCKET &&
		    cmsg->cmsg_type == SO_RXQ_OVFL)
			memcpy(&dropped, CMSG_DATA(cmsg), sizeof(dropped));
	}
	if (!received || !dropped || received + dropped > OVERFLOW_COUNT) {
		fprintf(stderr, "%u datagrams received, %u dropped, of %u\n",
			received, dropped, OVERFLOW_COUNT);
		exit(EXIT_FAILURE);
	}
	control_expectln("DONE");
	close(fd);
}

static void test_many_client(const struct test_opts *opts)
{
	int fds[MANY_SOCKETS];
	unsigned int i, back;

	control_expectln("BOUND");
	for (i = 0; i < MANY_SOCKETS; i++) {
		fds[i] = dgram_socket();
		send_dgram(fds[i], opts, opts->peer_port + i % PEER_PORTS, &i,
			   sizeof(i), 0, sizeof(i));
		control_expectln("RECEIVED");
	}
	for (i = 0; i < MANY_SOCKETS; i++) {
		struct sockaddr_vm from;

		recv_dgram(fds[i], &back, sizeof(back), 0, &from, sizeof(back));
		check_peer(&from, opts, opts->peer_port + i % PEER_PORTS);
		if (back != i)
			fail("a datagram reached another socket");
		close(fds[i]);
	}
	control_writeln("DONE");
}

static void test_many_server(const struct test_opts *opts)
{
	int fds[PEER_PORTS];
	unsigned int i, number;

	for (i = 0; i < PEER_PORTS; i++)
		fds[i] = dgram_bind(opts->peer_port + i);
	control_writeln("BOUND");
	for (i = 0; i < MANY_SOCKETS; i++) {
		struct sockaddr_vm from;
		int fd = fds[i % PEER_PORTS];

		recv_dgram(fd, &number, sizeof(number), 0, &from,
			   sizeof(number));
		if (number != i)
			fail("a datagram reached another socket");
		send_dgram(fd, opts, from.svm_port, &number, sizeof(number), 0,
			   sizeof(number));
		control_writeln("RECEIVED");
	}
	control_expectln("DONE");
	for (i = 0; i < PEER_PORTS; i++)
		close(fds[i]);
}

static struct test_case test_cases[] = {
	{
		.name = "SOCK_DGRAM sendto() and recvfrom()",
		.run_client = test_sendto_client,
		.run_server = test_sendto_server,
	},
	{
		.name = "SOCK_DGRAM connect() and names",
		.run_client = test_connect_client,
		.run_server = test_connect_server,
	},
	{
		.name = "SOCK_DGRAM msg bounds",
		.run_client = test_bounds_client,
		.run_server = test_bounds_server,
	},
	{
		.name = "SOCK_DGRAM MSG_PEEK, MSG_TRUNC, SIOCINQ",
		.run_client = test_trunc_client,
		.run_server = test_trunc_server,
	},
	{
		.name = "SOCK_DGRAM bind()",
		.run_client = test_bind_client,
		.run_server = test_bystander,
	},
	{
		.name = "SOCK_DGRAM empty socket",
		.run_client = test_empty_client,
		.run_server = test_bystander,
	},
	{
		.name = "SOCK_DGRAM connected socket hears its peer only",
		.run_client = test_peer_only_client,
		.run_server = test_peer_only_server,
	},
	{
		.name = "SOCK_DGRAM ECONNREFUSED",
		.run_client = test_refused_client,
		.run_server = test_bystander,
	},
	{
		.name = "SOCK_DGRAM shutdown()",
		.run_client = test_shutdown_client,
		.run_server = test_shutdown_server,
	},
	{
		.name = "SOCK_DGRAM full receive buffer, SO_RXQ_OVFL",
		.run_client = test_overflow_client,
		.run_server = test_overflow_server,
	},
	{
		.name = "SOCK_DGRAM many sockets",
		.run_client = test_many_client,
		.run_server = test_many_server,
	},
	{},
};

static const char optstring[] = "";
static const struct option longopts[] = {
	{ "control-host", required_argument, NULL, 'H' },
	{ "control-port", required_argument, NULL, 'P' },
	{ "mode", required_argument, NULL, 'm' },
	{ "peer-cid", required_argument, NULL, 'p' },
	{ "peer-port", required_argument, NULL, 'q' },
	{ "list", no_argument, NULL, 'l' },
	{ "skip", required_argument, NULL, 's' },
	{ "pick", required_argument, NULL, 't' },
	{ "help", no_argument, NULL, '?' },
	{},
};

static void usage(void)
{
	fprintf(stderr, "Usage: vsock_dgram_test [--help] [--control-host=<host>]\n"
		"           --control-port=<port> --mode=client|server --peer-cid=<cid>\n"
		"           [--peer-port=<port>] [--list] [--skip=<test_id>]\n"
		"           [--pick=<test_id>]\n"
		"\n"
		"  Server: vsock_dgram_test --control-port=1234 --mode=server --peer-cid=3\n"
		"  Client: vsock_dgram_test --control-host=192.168.0.1 --control-port=1234 --mode=client --peer-cid=4\n"
		"\n"
		"Run SOCK_DGRAM tests between two machines, each of which has a transport\n"
		"for datagrams. The control connection is for the two sides to go on\n"
		"together; the server side must be started first.\n"
		"\n"
		"Options:\n"
		"  --help                 This help message\n"
		"  --control-host <host>  Server IP address to connect to\n"
		"  --control-port <port>  Server port to listen on/connect to\n"
		"  --mode client|server   Server or client mode\n"
		"  --peer-cid <cid>       CID of the other side\n"
		"  --peer-port <port>     AF_VSOCK port used for the test [default: %d]\n"
		"  --list                 List of tests that will be executed\n"
		"  --pick <test_id>       Test ID to execute selectively;\n"
		"                         use multiple --pick options to select more tests\n"
		"  --skip <test_id>       Test ID to skip;\n"
		"                         use multiple --skip options to skip more tests\n",
		DEFAULT_PEER_PORT);
	exit(EXIT_FAILURE);
}

int main(int argc, char **argv)
{
	const char *control_host = NULL;
	const char *control_port = NULL;
	struct test_opts opts = {
		.mode = TEST_MODE_UNSET,
		.peer_cid = VMADDR_CID_ANY,
		.peer_port = DEFAULT_PEER_PORT,
	};

	init_signals();

	for (;;) {
		int opt = getopt_long(argc, argv, optstring, longopts, NULL);

		if (opt == -1)
			break;

		switch (opt) {
		case 'H':
			control_host = optarg;
			break;
		case 'm':
			if (strcmp(optarg, "client") == 0)
				opts.mode = TEST_MODE_CLIENT;
			else if (strcmp(optarg, "server") == 0)
				opts.mode = TEST_MODE_SERVER;
			else
				fail("--mode must be \"client\" or \"server\"");
			break;
		case 'p':
			opts.peer_cid = parse_cid(optarg);
			break;
		case 'q':
			opts.peer_port = parse_port(optarg);
			break;
		case 'P':
			control_port = optarg;
			break;
		case 'l':
			list_tests(test_cases);
			break;
		case 's':
			skip_test(test_cases, ARRAY_SIZE(test_cases) - 1,
				  optarg);
			break;
		case 't':
			pick_test(test_cases, ARRAY_SIZE(test_cases) - 1,
				  optarg);
			break;
		case '?':
		default:
			usage();
		}
	}

	if (!control_port || opts.mode == TEST_MODE_UNSET ||
	    opts.peer_cid == VMADDR_CID_ANY)
		usage();

	if (!control_host) {
		if (opts.mode != TEST_MODE_SERVER)
			usage();
		control_host = "0.0.0.0";
	}

	control_init(control_host, control_port,
		     opts.mode == TEST_MODE_SERVER);
	run_tests(test_cases, &opts);
	control_cleanup();

	return EXIT_SUCCESS;
}
