"""RecordIO packs put together by hand from the layout, without a line of the code under test."""

import io
import struct

import numpy as np
from PIL import Image

MAGIC = bytes.fromhex("0a23d7ce")


def part(flag, data):
    word = struct.pack("<I", flag << 29 | len(data))
    return MAGIC + word + data + bytes(-len(data) % 4)


def header(labels, record_id=0, id2=0):
    """Only the label where it is a number; as many as there are, after the header, of a list."""
    if isinstance(labels, list):
        return struct.pack("<IfQQ", len(labels), 0, record_id, id2) + struct.pack(
            f"<{len(labels)}f", *labels
        )
    return struct.pack("<IfQQ", 0, labels, record_id, id2)


def face(number, suffix="PNG", size=(8, 8)):
    """An image of its own colour, encoded."""
    file = io.BytesIO()
    Image.new("RGB", size, (number * 7 % 256, number % 256, 200)).save(file, suffix)
    return file.getvalue()


def write_pack_by_hand(folder, records, property_text=None, order=None):
    """train.rec and train.idx of {key: record data, or parts}; returns {key: byte offset}."""
    folder.mkdir(parents=True, exist_ok=True)
    data, offsets = b"", {}
    for key in order or records:
        offsets[key] = len(data)
        record = records[key]
        data += part(0, record) if isinstance(record, bytes) else b"".join(part(*p) for p in record)
    (folder / "train.rec").write_bytes(data)
    (folder / "train.idx").write_text("".join(f"{k}\t{o}\n" for k, o in offsets.items()))
    if property_text is not None:
        (folder / "property").write_text(property_text)
    return offsets


def people_records(counts=(3, 1, 2), labels=None, ranges=None):
    """Records as in insightface's packs: images from 1, identities, and key 0 at the end."""
    labels = np.repeat(np.arange(len(counts)), counts) if labels is None else labels
    stops = 1 + np.cumsum(counts)
    ranges = list(zip(stops - counts, stops, strict=True)) if ranges is None else ranges
    records = {k: header(float(label), k) + face(k) for k, label in enumerate(labels, start=1)}
    first = len(records) + 1
    for start, stop in ranges:
        records[len(records) + 1] = header([start, stop], len(records) + 1)
    return records | {0: header([first, len(records) + 1], 0, 1)}
