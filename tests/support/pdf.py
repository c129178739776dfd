"""PDF files written by hand, object by object."""

from __future__ import annotations

CATALOGUE = b"<</Type/Catalog/Pages 2 0 R>>"


def assemble(*objects: bytes, trailer: bytes = b"") -> bytes:
    """Write a PDF from its objects, numbered from 1; the first is the catalogue."""
    body, offsets = b"%PDF-1.6\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(body))
        body += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    head = b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    end = b"trailer\n<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer, len(body))
    return body + head + table + end


def stream(content: bytes, entries: bytes = b"") -> bytes:
    return b"<<%s/Length %d>>stream\n%s\nendstream" % (entries, len(content), content)
