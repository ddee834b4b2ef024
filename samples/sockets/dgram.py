#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""SOCK_DGRAM: messages without a connection, which may be lost. The server sends each back to its sender.

'dgram.py server 1234' in one machine; 'dgram.py client 3 1234' in another, which knows the first by CID 3. Without a
device that has datagrams (Documentation/datagrams.rst) both fail with ENODEV.
"""
import socket
import sys


def serve(port):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_DGRAM) as server:
        server.bind((socket.VMADDR_CID_ANY, port))
        print(f"waiting on port {port}")
        while True:
            # None is longer.
            message, sender = server.recvfrom(65536)
            print(f"{len(message)} bytes from CID {sender[0]}, port {sender[1]}")
            server.sendto(message, sender)


def talk(cid, port):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_DGRAM) as client:
        # It hears this peer only, and is told (ConnectionRefusedError) if nobody is there.
        client.connect((cid, port))
        client.settimeout(1)
        for _ in range(5):
            client.send(b"hello, world")
            try:
                print(client.recv(65536).decode())
                return
            except TimeoutError:
                print("no answer within a second: once more")
    sys.exit("nobody answers")


match sys.argv[1:]:
    case ["server", port]:
        serve(int(port))
    case ["client", cid, port]:
        talk(int(cid), int(port))
    case _:
        sys.exit("usage: dgram.py server PORT, or dgram.py client CID PORT")
