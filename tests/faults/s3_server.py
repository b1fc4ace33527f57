"""An S3 server on loopback that holds objects in memory, and can be made to fail.

What pyarrow asks of S3: objects (with ranges), copies, uploads in parts, listings of at
most 1,000 keys a page, deletion of one or many. Requests are not authenticated.
"""

import hashlib
import io
import threading
import time
import urllib.parse
import uuid
import xml.etree.ElementTree as ET
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from xml.sax.saxutils import escape

PAGE = 1000
_XMLNS = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


class Answer(Exception):  # noqa: N818  (an answer, not always an error)
    """Ends a request with a status, a body and headers."""

    def __init__(self, status, body=b"", **headers):
        super().__init__(status)
        self.status, self.body = status, body
        self.headers = {k.replace("_", "-"): str(v) for k, v in headers.items()}


def error(status, code):
    return Answer(status, xml("Error", f"<Code>{code}</Code><Message>{code}</Message>"))


def xml(name, inner):
    return f'<?xml version="1.0"?><{name} {_XMLNS}>{inner}</{name}>'.encode()


class Objects:
    """Buckets of objects, and uploads under way."""

    def __init__(self):
        self.lock = threading.RLock()
        self.buckets = {}
        self.uploads = {}

    def put(self, bucket, key, data):
        tag = f'"{hashlib.md5(data).hexdigest()}"'  # noqa: S324  (as S3 does)
        with self.lock:
            self._bucket(bucket)[key] = (data, tag, time.time())
        return tag

    def get(self, bucket, key):
        with self.lock:
            if key not in self._bucket(bucket):
                raise error(404, "NoSuchKey")
            return self.buckets[bucket][key]

    def delete(self, bucket, key):
        with self.lock:
            self._bucket(bucket).pop(key, None)

    def keys(self, bucket):
        with self.lock:
            return sorted(self._bucket(bucket))

    def stamps(self, bucket):
        """{key: what is another where it was written again}."""
        with self.lock:
            return {key: found[1:] for key, found in self._bucket(bucket).items()}

    def _bucket(self, bucket):
        if bucket not in self.buckets:
            raise error(404, "NoSuchBucket")
        return self.buckets[bucket]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *arguments):
        """Not a word."""

    def handle_expect_100(self):
        done = super().handle_expect_100()
        self.wfile.flush()  # else the client waits a second for it
        return done

    def hang_up(self):
        """Close the connection without an answer."""
        self.close_connection = True
        raise ConnectionResetError

    def _handle(self):
        self.lose_answer = False
        url = urllib.parse.urlsplit(self.path)
        bucket, _, key = urllib.parse.unquote(url.path)[1:].partition("/")
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        body = self._body()
        try:
            self.server.before(self, key)
            kind = "object" if key else "bucket"
            getattr(self, f"_{self.command.lower()}_{kind}")(bucket, key, query, body)
        except Answer as answer:
            self._send(answer)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _handle  # noqa: N815

    def _body(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raw = _chunked(self.rfile)
        else:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        signed = self.headers.get("x-amz-content-sha256", "").startswith("STREAMING")
        return _chunked(io.BytesIO(raw)) if signed else raw

    def _send(self, answer):
        if self.lose_answer:
            self.hang_up()
        self.send_response(answer.status)
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)

    def _head_bucket(self, bucket, key, query, body):
        self.server.objects.keys(bucket)
        raise Answer(200)

    def _put_bucket(self, bucket, key, query, body):
        self.server.objects.buckets.setdefault(bucket, {})
        raise Answer(200)

    def _get_bucket(self, bucket, key, query, body):
        prefix, limit = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", query.get("start-after", ""))
        most = min(int(query.get("max-keys", PAGE)), PAGE)
        found, folders, last = [], [], ""
        more = "false"
        for name in self.server.objects.keys(bucket):
            rest = name.removeprefix(prefix)
            folder = prefix + rest.split(limit)[0] + limit if limit else ""
            folder = folder if limit and limit in rest else ""
            mark = folder or name
            if not name.startswith(prefix) or mark <= after or mark in folders[-1:]:
                continue
            if len(found) + len(folders) == most:
                more = "true"
                break
            (folders if folder else found).append(mark)
            last = mark
        parts = [f"<IsTruncated>{more}</IsTruncated><KeyCount>{len(found)}</KeyCount>"]
        if more == "true":
            parts.append(
                f"<NextContinuationToken>{escape(last)}</NextContinuationToken>"
            )
        for name in found:
            data, tag, when = self.server.objects.get(bucket, name)
            parts.append(
                f"<Contents><Key>{escape(name)}</Key><Size>{len(data)}</Size>"
                f"<LastModified>{_iso(when)}</LastModified><ETag>{escape(tag)}</ETag>"
                "</Contents>"
            )
        for name in folders:
            inner = f"<Prefix>{escape(name)}</Prefix>"
            parts.append(f"<CommonPrefixes>{inner}</CommonPrefixes>")
        raise Answer(200, xml("ListBucketResult", "".join(parts)))

    def _post_bucket(self, bucket, key, query, body):
        if "delete" not in query:
            raise error(501, "NotImplemented")
        for element in ET.fromstring(body).iter():  # noqa: S314  (our own client)
            if element.tag.endswith("}Key") or element.tag == "Key":
                self.server.objects.delete(bucket, element.text)
        raise Answer(200, xml("DeleteResult", ""))

    def _head_object(self, bucket, key, query, body):
        self._get_object(bucket, key, query, body)

    def _get_object(self, bucket, key, query, body):
        data, tag, when = self.server.objects.get(bucket, key)
        about = {"ETag": tag, "Last_Modified": formatdate(when, usegmt=True)}
        asked = self.headers.get("Range")
        if not asked:
            raise Answer(200, data, **about)
        first, last = asked.removeprefix("bytes=").split("-")
        first, last = int(first), min(int(last or len(data)), len(data) - 1)
        if first > last:
            raise error(416, "InvalidRange")
        about["Content_Range"] = f"bytes {first}-{last}/{len(data)}"
        raise Answer(206, data[first : last + 1], **about)

    def _put_object(self, bucket, key, query, body):
        objects = self.server.objects
        if "uploadId" in query:
            upload = objects.uploads.get(query["uploadId"])
            if upload is None:
                raise error(404, "NoSuchUpload")
            upload[int(query["partNumber"])] = body
            raise Answer(200, ETag=f'"{query["partNumber"]}"')
        origin = self.headers.get("x-amz-copy-source")
        if origin is None:
            raise Answer(200, ETag=objects.put(bucket, key, body))
        source = urllib.parse.unquote(origin).lstrip("/").split("/", 1)
        tag = objects.put(bucket, key, objects.get(*source)[0])
        raise Answer(200, xml("CopyObjectResult", f"<ETag>{escape(tag)}</ETag>"))

    def _post_object(self, bucket, key, query, body):
        objects = self.server.objects
        if "uploads" in query:
            objects.keys(bucket)
            name = uuid.uuid4().hex
            objects.uploads[name] = {}
            inner = f"<Bucket>{bucket}</Bucket><UploadId>{name}</UploadId>"
            raise Answer(200, xml("InitiateMultipartUploadResult", inner))
        parts = objects.uploads.pop(query["uploadId"], None)
        if parts is None:
            raise error(404, "NoSuchUpload")
        tag = objects.put(bucket, key, b"".join(parts[n] for n in sorted(parts)))
        inner = f"<ETag>{escape(tag)}</ETag>"
        raise Answer(200, xml("CompleteMultipartUploadResult", inner))

    def _delete_object(self, bucket, key, query, body):
        if "uploadId" in query:
            self.server.objects.uploads.pop(query["uploadId"], None)
        else:
            self.server.objects.delete(bucket, key)
        raise Answer(204)


def _chunked(file):
    """Content that comes in chunks, HTTP's or those that AWS puts inside of it."""
    found = []
    while size := int(file.readline().split(b";")[0], 16):
        found.append(file.read(size))
        file.readline()
    while file.readline().strip():  # checksums and the like
        pass
    return b"".join(found)


def _iso(when):
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(when))


class S3Server(ThreadingHTTPServer):
    """Serves until it is closed.

    Attributes:
        before: Called with (handler, key) before a request is answered; may wait, close
            the connection, or raise an Answer.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects = Objects()
        self.before = self.nothing
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)
        self._thread.start()

    def handle_error(self, request, client_address):
        """Clients that were killed are no news."""

    @staticmethod
    def nothing(handler, key):
        """What happens before a request is answered."""

    @property
    def environment(self):
        """How a process finds it."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server_port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def close(self):
        self.shutdown()
        self.server_close()
        self._thread.join()
