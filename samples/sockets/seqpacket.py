#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""SOCK_SEQPACKET: a connection that keeps messages apart. The server sends each message back.

'seqpacket.py server 1234' in one machine; 'seqpacket.py client 3 1234' in another, which knows the first by CID 3.
"""
import socket
import sys


def serve(port):
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_SEQPACKET)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen()
    print(f"waiting on port {port}")
    while True:
        client, _ = listener.accept()
        with client:
            # One call reads one message; the end of what did not fit is lost. b"" is the end of the connection.
            while message := client.recv(4096):
                print(f"a message of {len(message)} bytes")
                client.send(message)


def talk(cid, port):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_SEQPACKET) as server:
        server.connect((cid, port))
        for message in b"hello", b"world":
            server.send(message)
        for _ in range(2):
            print(server.recv(4096).decode())


match sys.argv[1:]:
    case ["server", port]:
        serve(int(port))
    case ["client", cid, port]:
        talk(int(cid), int(port))
    case _:
        sys.exit("usage: seqpacket.py server PORT, or seqpacket.py client CID PORT")
