"""Connects to a VM with paramiko, and prints what it saw as JSON: a command, SFTP, and a forwarded port.

Usage: ssh_client.py KEY_EXCHANGE PORT PROXY_COMMAND...

KEY_EXCHANGE is the only method to offer, PORT a TCP port of the guest that sends back what it receives.
"""

import json
import shlex
import sys
import threading

import paramiko


def send(session, data):
    session.sendall(data)
    session.shutdown_write()


def main():
    key_exchange, port, *proxy = sys.argv[1:]
    transport = paramiko.Transport(paramiko.ProxyCommand(shlex.join(proxy)))
    transport.get_security_options().kex = [key_exchange]
    transport.start_client(timeout=60)
    transport.auth_none("root")
    session = transport.open_session()
    session.exec_command("cat; echo to stderr >&2; exit 42")
    data = bytes(range(256)) * 20_000
    # More than the windows of both directions: a client that sends without reading never ends.
    sender = threading.Thread(target=send, args=(session, data))
    sender.start()
    received = b""
    while chunk := session.recv(1 << 20):
        received += chunk
    sender.join()
    sftp = paramiko.SFTPClient.from_transport(transport)
    with sftp.open("/root/from-paramiko", "wb") as file:
        file.write(data)
    with sftp.open("/root/from-paramiko", "rb") as file:
        copied = file.read()
    forwarded = transport.open_channel("direct-tcpip", ("127.0.0.1", int(port)), ("127.0.0.1", 0))
    forwarded.sendall(b"over a port\n")
    forwarded.shutdown_write()
    echoed = forwarded.makefile("rb").read()
    seen = {
        "cipher": transport.remote_cipher,
        "host_key": transport.get_remote_server_key().get_name(),
        "status": session.recv_exit_status(),
        "stderr": session.makefile_stderr("rb").read().decode(),
        "echoed": received == data,
        "sftp": copied == data and sftp.stat("/root/from-paramiko").st_size == len(data),
        "forwarded": echoed.decode(),
    }
    transport.close()
    print(json.dumps(seen))


main()
