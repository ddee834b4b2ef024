#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""SOCK_STREAM: a server that echoes, and a client that sends some bytes and reads them back.

'stream.py server 1234' in one machine; 'stream.py client 3 1234' in another, which knows the first by CID 3.
The host is CID 2.
"""
import socket
import sys


def serve(port):
    listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM)
    listener.bind((socket.VMADDR_CID_ANY, port))
    listener.listen()
    print(f"waiting on port {port}")
    while True:
        stream, (cid, peer_port) = listener.accept()
        print(f"a connection from CID {cid}, port {peer_port}")
        with stream:
            while data := stream.recv(65536):
                stream.sendall(data)


def talk(cid, port):
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM) as stream:
        stream.connect((cid, port))
        stream.sendall(b"hello, ")
        stream.sendall(b"world\n")
        # The server reads an end now. What it still has to say arrives all the same.
        stream.shutdown(socket.SHUT_WR)
        with stream.makefile() as answer:
            print(answer.read(), end="")


match sys.argv[1:]:
    case ["server", port]:
        serve(int(port))
    case ["client", cid, port]:
        talk(int(cid), int(port))
    case _:
        sys.exit("usage: stream.py server PORT, or stream.py client CID PORT")
