"""What the examples of proxies meet in their test: a SOCKS5 proxy, an HTTP one that knows CONNECT, and two peers that
put their own name before each line that they are sent.

It listens at free ports of 127.0.0.1, prints them in one line, `socks5=PORT connect=PORT one=PORT two=PORT`, and goes on
until it is ended. Both proxies lead to the two peers, by number or as localhost, and refuse everything else. The SOCKS5
proxy tells its own address as a name when it is asked for one.
"""
import socket
import struct
import threading

NAMES = ("socks5", "connect", "one", "two")
listeners = {name: socket.create_server(("127.0.0.1", 0)) for name in NAMES}
ports = {name: listener.getsockname()[1] for name, listener in listeners.items()}


def exactly(client, size):
    data = b""
    while len(data) < size:
        piece = client.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def pump(source, sink):
    try:
        while data := source.recv(4096):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def join(client, host, port, accepted):
    with socket.create_connection((host, port)) as peer:
        client.sendall(accepted)
        back = threading.Thread(target=pump, args=(peer, client), daemon=True)
        back.start()
        pump(client, peer)
        back.join()


def is_ours(host, port):
    return host in ("127.0.0.1", "localhost") and port in (ports["one"], ports["two"])


def socks5(client):
    version, count = exactly(client, 2)
    if version != 5 or 0 not in exactly(client, count):
        client.sendall(b"\x05\xff")
        return
    client.sendall(b"\x05\x00")
    version, command, _, kind = exactly(client, 4)
    if kind == 1:
        host, own = socket.inet_ntoa(exactly(client, 4)), b"\x01\x7f\x00\x00\x01"
    elif kind == 3:
        host, own = exactly(client, exactly(client, 1)[0]).decode(), b"\x03\x0aproxy.test"
    else:
        host, own = socket.inet_ntop(socket.AF_INET6, exactly(client, 16)), b"\x04" + bytes(16)
    port = struct.unpack("!H", exactly(client, 2))[0]
    if (version, command) != (5, 1) or not is_ours(host, port):
        client.sendall(b"\x05\x05\x00\x01" + bytes(6))
        return
    join(client, host, port, b"\x05\x00\x00" + own + b"\x12\x34")


def connect(client):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += exactly(client, 1)
    method, target, version = head.split(b"\r\n")[0].decode().split(" ")
    host, _, port = target.rpartition(":")
    if (method, version) != ("CONNECT", "HTTP/1.1") or f"\r\nHost: {target}\r\n" not in head.decode():
        client.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    elif not is_ours(host, int(port)):
        client.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
    else:
        join(client, host, int(port), b"HTTP/1.1 200 Connection established\r\nVia: 1.1 test\r\n\r\n")


def named(name):
    def answer(client):
        line = b""
        while piece := client.recv(1):
            line += piece
            if piece == b"\n":
                client.sendall(name.encode() + b" says " + line)
                line = b""
    return answer


def serve(client, conversation):
    with client:
        try:
            conversation(client)
        except (EOFError, OSError):
            pass


def accept(listener, conversation):
    while True:
        client = listener.accept()[0]
        threading.Thread(target=serve, args=(client, conversation), daemon=True).start()


print(*(f"{name}={port}" for name, port in ports.items()), flush=True)
for name, conversation in (("socks5", socks5), ("connect", connect), ("one", named("one")), ("two", named("two"))):
    threading.Thread(target=accept, args=(listeners[name], conversation), daemon=True).start()
threading.Event().wait()
