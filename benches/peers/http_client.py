"""One kept-alive HTTP connection a thread, as little of a client as there can be: what is timed is the server."""

import json
import socket
import subprocess
import threading
import time

PATIENCE_SECONDS = 600


class Connections:
    def __init__(self, port):
        self.port, self.local = port, threading.local()

    def stream(self):
        if not hasattr(self.local, "stream"):
            stream = socket.create_connection(("127.0.0.1", self.port), PATIENCE_SECONDS)
            stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.local.stream = stream
        return self.local.stream

    @staticmethod
    def request(method, path, body=None):
        """The bytes of a request, to be sent as they are."""
        body = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
        return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body

    def send(self, request):
        """The answer's body; anything but success is an error."""
        try:
            stream, got = self.begin(request)
        except ConnectionError:
            # Servers close connections that wait for their turn for long.
            self.local.__dict__.pop("stream", None)
            stream, got = self.begin(request)
        head, _, body = got.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line[15:]) for line in lines if line.startswith(b"content-length:")), None)
        if length is None:
            raise ConnectionError(f"an answer without content-length: {head[:200]!r}")
        while len(body) < length:
            body += self.receive(stream)
        if not lines[0].split(b" ")[1].startswith(b"2"):
            raise RuntimeError(f"{request[:80]!r}: {lines[0].decode()}: {body[:300].decode(errors='replace')}")
        return body

    def begin(self, request):
        """Sends a request and reads on until its answer's head is there."""
        stream = self.stream()
        stream.sendall(request)
        got = b""
        while b"\r\n\r\n" not in got:
            got += self.receive(stream)
        return stream, got

    @staticmethod
    def receive(stream):
        got = stream.recv(1 << 16)
        if not got:
            raise ConnectionError("the server closed the connection")
        return got

    def json(self, method, path, body=None):
        answer = self.send(self.request(method, path, body))
        return json.loads(answer) if answer else None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(command, port, log, env=None):
    """Starts a server and waits until it listens."""
    with open(log, "ab") as out:
        server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env)
    until = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return server
        except OSError:
            if server.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {server.returncode}; see {log}")
            if time.monotonic() > until:
                server.kill()
                raise TimeoutError(f"{command[0]} does not listen on port {port}")
            time.sleep(0.001)


def stop(server):
    server.terminate()
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
