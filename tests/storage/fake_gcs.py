"""Google Cloud Storage as far as TensorFlow, TensorStore and orbax use it, in memory, offline.

Each has a client of its own. TensorStore's and Google's Python client, which orbax asks about the
bucket, are told another address; TensorFlow's, which only knows Google's, is sent through a proxy
that answers in Google's place, with a certificate that `CURL_CA_BUNDLE` makes it trust. As in the
real one, objects are written whole and never appended to, and folders are beginnings of names.
"""

from __future__ import annotations

import collections
import contextlib
import http.server
import itertools
import json
import pathlib
import ssl
import subprocess
import threading
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

HOSTS = ("www.googleapis.com", "storage.googleapis.com")


class Storage(http.server.ThreadingHTTPServer):
    """`objects` has (content, generation) by `bucket/name`; `uploads` counts writes by the same."""

    daemon_threads = True

    def __init__(self, folder: pathlib.Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.uploads: collections.Counter[str] = collections.Counter()
        self.unanswered: list[str] = []
        self.lock = threading.RLock()
        self.generations = itertools.count(1)
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        names = ",".join(f"DNS:{host}" for host in HOSTS)
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
             "-keyout", key, "-out", certificate, "-subj", "/CN=fake", "-addext",
             f"subjectAltName={names}"], check=True, capture_output=True,
        )  # fmt: skip
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificate, key)
        address = f"http://127.0.0.1:{self.server_address[1]}"
        # What a process needs in its environment for gs:// to come here.
        self.environment = {
            "https_proxy": address,
            "CURL_CA_BUNDLE": str(certificate),
            "TENSORSTORE_GCS_HTTP_URL": address,
            "STORAGE_EMULATOR_HOST": address,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "any",
        }

    def files(self, folder: str) -> dict[str, bytes]:
        """The objects below gs://`folder`, by the rest of their names."""
        return {
            name[len(folder) + 1 :]: content
            for name, (content, _) in sorted(self.objects.items())
            if name.startswith(f"{folder}/") and not name.endswith("/")
        }

    def write(self, name: str, content: bytes) -> dict:
        with self.lock:
            self.objects[name] = content, next(self.generations)
            self.uploads[name] += 1
            return self.about(name)

    def about(self, name: str) -> dict:
        content, generation = self.objects[name]
        return {
            "bucket": name.split("/")[0],
            "name": name.split("/", 1)[1],
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "updated": "2026-01-01T00:00:00.000Z",
        }


@contextlib.contextmanager
def serve(folder: pathlib.Path) -> Iterator[Storage]:
    """Serves while the context lasts; `folder` is where the certificate is put."""
    with Storage(folder) as storage:
        threading.Thread(target=storage.serve_forever, daemon=True).start()
        yield storage
        storage.shutdown()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Storage

    def log_message(self, *_) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def _answer(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        body = self._body()
        with self.server.lock:
            reply = self._route(address.path.split("/")[1:], query, body)
        if reply is None:
            self.server.unanswered.append(f"{self.command} {self.path}")
            reply = 501, b""
        status, content, *headers = reply
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if isinstance(content, dict):
            self.send_header("Content-Type", "application/json")
            content = json.dumps(content).encode()
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _route(self, parts: list[str], query: dict, body: bytes):
        match [self.command, *map(unquote, parts)]:
            case ["GET", "storage", "v1", "b", bucket]:
                return 200, {"name": bucket, "location": "US"}
            case ["GET", "storage", "v1", "b", _, "storageLayout"]:
                return 200, {"hierarchicalNamespace": {"enabled": False}}
            case ["GET", "storage", "v1", "b", bucket, "o"]:
                return self._list(bucket, query)
            case ["GET", "storage", "v1", "b", bucket, "o", name]:
                return self._get(f"{bucket}/{name}", query)
            case ["DELETE", "storage", "v1", "b", bucket, "o", name]:
                if not self._matches(f"{bucket}/{name}", query):
                    return 412, b""
                gone = self.server.objects.pop(f"{bucket}/{name}", None)
                return (404 if gone is None else 204), b""
            case ["POST", "storage", "v1", "b", bucket, "o", name, _, "b", to_bucket, "o", to]:
                if f"{bucket}/{name}" not in self.server.objects:
                    return 404, b""
                content, _ = self.server.objects[f"{bucket}/{name}"]
                about = self.server.write(f"{to_bucket}/{to}", content)
                return 200, {"done": True, "resource": about, **about}
            case ["POST", "upload", "storage", "v1", "b", bucket, "o"]:
                return self._upload(f"{bucket}/{query['name']}", query, body)
            case ["PUT", "session", name]:
                return 200, self.server.write(name, body)
            case ["GET", bucket, *name]:
                return self._get(f"{bucket}/{'/'.join(name)}", {"alt": "media"})
        return None

    def _matches(self, name: str, query: dict) -> bool:
        _, generation = self.server.objects.get(name, (b"", 0))
        return query.get("ifGenerationMatch", str(generation)) == str(generation)

    def _upload(self, name: str, query: dict, body: bytes):
        if not self._matches(name, query):
            return 412, b""
        if query["uploadType"] == "resumable":
            session = f"https://{HOSTS[0]}/session/{name.replace('/', '%2F')}"
            return 200, b"", ("Location", session)
        return 200, self.server.write(name, body)

    def _get(self, name: str, query: dict):
        if name not in self.server.objects:
            return 404, b""
        content, generation = self.server.objects[name]
        if query.get("alt") != "media":
            return 200, self.server.about(name)
        if query.get("ifGenerationNotMatch") == str(generation):
            return 304, b""
        if not self._matches(name, query):
            return 412, b""
        headers = [("x-goog-generation", str(generation)), ("x-goog-metageneration", "1")]
        if (wanted := self.headers.get("Range")) is None:
            return 200, content, *headers
        first, last = wanted.removeprefix("bytes=").split("-")
        begin = int(first) if first else max(0, len(content) - int(last))
        end = min(int(last) + 1 if first and last else len(content), len(content))
        if begin >= len(content):
            return 416, b""
        span = f"bytes {begin}-{end - 1}/{len(content)}"
        return 206, content[begin:end], ("Content-Range", span), *headers

    def _list(self, bucket: str, query: dict):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], {}
        for key in sorted(self.server.objects):
            name = key[len(bucket) + 1 :]
            if not key.startswith(f"{bucket}/{prefix}") or name < query.get("startOffset", ""):
                continue
            if "endOffset" in query and name >= query["endOffset"]:
                continue
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes[prefix + rest.split(delimiter)[0] + delimiter] = None
            else:
                items.append(self.server.about(key))
        return 200, {"items": items, "prefixes": list(prefixes)}
